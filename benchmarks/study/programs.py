"""The programs of the study: one per kind of lower level, each with made-up data.

`HYPERGRAD` in a text is the strategy under study, of every level that is differentiated through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import networks
import torch
from torch import Tensor

Data = Mapping[str, Any]


@dataclass(frozen=True)
class Program:
    """One row of the study.

    truth: what the hypergradient is compared with, in float64 and by plain autograd:
        "solution"  that of the nested problem, dense, with every level below at its solution;
        "point"     the dense solve at the lower level's present variables and batch;
        "steps"     the derivative of the inner steps since their start.
    accuracy: the largest relative error that counts as right. after: updates of the top level
    before the hypergradient is taken. same: an extern with the same values for the truth, where the
    one under study cannot be differentiated twice.
    """

    name: str
    what: str
    text: str
    data: Callable[[], Data]
    truth: str
    accuracy: float
    root: str = "tune"
    after: int = 2
    externs: Mapping[str, Any] = field(default_factory=dict)
    same: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "fp32"


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def regression(n: int, d: int, condition: float = 1.0, seed: int = 0) -> dict[str, Tensor]:
    """Rows with columns of deviations spread over [1 / sqrt(condition), 1], and noisy targets."""
    x = normal(n, d, seed=seed) * torch.logspace(0, -0.5, d).double() ** _log10(condition)
    y = x @ normal(d, seed=seed + 1) + 0.3 * normal(n, seed=seed + 2)
    return {"x": x, "y": y}


def _log10(x: float) -> float:
    return float(torch.log10(torch.tensor(x)))


def classes(n: int, d: int, count: int, noise: float = 1.0, seed: int = 3) -> dict[str, Tensor]:
    x = normal(n, d, seed=seed)
    scores = x @ normal(d, count, seed=seed + 1) / d**0.5 + noise * normal(n, count, seed=seed + 2)
    return {"x": x, "y": scores.argmax(1)}


HALVES = "split all into train = 0.5, val = 0.5 with (seed = 0)\n"
REAL = "dim n, d\ndata all : { x: real[n, d], y: real[n] } from memory()\n" + HALVES
LABELS = "dim n, d, C = {c}\ndata all : {{ x: real[n, d], y: int<C>[n] }} from memory()\n" + HALVES

RIDGE = (
    REAL
    + """
level fit {
  var w : real[d] = zeros
  minimize 0.5 * mean((train.x @ w - train.y)^2) + 0.5 * sum(exp(tune.log_wd) * w^2)
  LOWER
  hypergrad = HYPERGRAD
}
level tune {
  var log_wd : real[d] = fill(START)
  minimize mean((val.x @ fit*.w - val.y)^2)
  optimizer = adam(lr = 0.05)
}
run { steps = 100 }
"""
)

LOGISTIC = (
    LABELS.format(c=2)
    + """
level fit {
  var w : real[d] = zeros
  minimize mean(bce(train.x @ w, train.y)) + 0.5 * sum(exp(tune.log_wd) * w^2)
  LOWER
  hypergrad = HYPERGRAD
}
level tune {
  var log_wd : real[d] = fill(-2)
  minimize mean(bce(val.x @ fit*.w, val.y))
  optimizer = adam(lr = 0.05)
}
run { steps = 100 }
"""
)

BATCHES = LOGISTIC.replace(
    "  var w : real[d] = zeros\n", "  var w : real[d] = zeros\n  draw b from train(batch = 64)\n"
).replace("bce(train.x @ w, train.y)", "bce(b.x @ w, b.y)")

CLEANING = (
    LABELS.format(c=5)
    + """
draw rows from train
level fit {
  var W : real[d, C] = zeros
  minimize mean(sigmoid(tune.score[rows.index]) * xent(rows.x @ W, rows.y)) + 0.01 * sumsq(W)
  LOWER
  hypergrad = HYPERGRAD
}
level tune {
  var score : real[train] = zeros
  minimize mean(xent(val.x @ fit*.W, val.y))
  optimizer = adam(lr = 0.1)
}
run { steps = 100 }
"""
)

NETWORK = (
    LABELS.format(c=3)
    + """
extern module net(width: int) : real[B, d] -> real[B, C] from "networks:Perceptron"
draw rows from train
level fit {
  module net = net(32)
  minimize mean(sigmoid(tune.score[rows.index]) * xent(net(rows.x), rows.y))
  LOWER
  hypergrad = HYPERGRAD
}
level tune {
  var score : real[train] = zeros
  minimize mean(xent(fit*.net(val.x), val.y))
  optimizer = adam(lr = 0.1)
}
run { steps = 100 }
"""
)

PROX = (
    LABELS.format(c=3)
    + """
extern module net(width: int) : real[B, d] -> real[B, C] from "networks:Perceptron"
level fit {
  module net = net(8)
  minimize mean(xent(net(train.x), train.y)) + 1.0 * sumsq(params(net) - params(tune.net))
  optimizer = sgd(lr = 0.1)
  steps = 30
  start = copy(tune.net)
  hypergrad = HYPERGRAD
}
level tune {
  module net = net(8)
  minimize mean(xent(fit*.net(val.x), val.y))
  optimizer = adam(lr = 0.01)
}
run { steps = 100 }
"""
)

THREE = """
dim n, d
data all : { x: real[n, d], y: real[n] } from memory()
split all into train = 0.4, val = 0.3, meta = 0.3 with (seed = 0)
level fit {
  var w : real[d] = zeros
  minimize 0.5 * mean((train.x @ w - train.y)^2) + 0.5 * sum(exp(reg.a) * w^2)
  hypergrad = HYPERGRAD
}
level reg {
  var a : real[d] = fill(-1)
  minimize mean((val.x @ fit*.w - val.y)^2) + sumsq(a - tune.m)
  optimizer = sgd(lr = 0.3)
  stop = grad_norm < 1e-5
  hypergrad = HYPERGRAD
}
level tune {
  var m : real = 0.2
  minimize mean((meta.x @ fit*.w - meta.y)^2)
  optimizer = adam(lr = 0.05)
}
run { steps = 100 }
"""

MINMAX = """
dim n, d
data all : { x: real[n, d], y: real[n] } from memory()
def game(w, shift) = mean((all.x @ w + shift - all.y)^2) - 0.5 * sumsq(shift) + 0.01 * sumsq(w)
level fit {
  var shift : real[n] = zeros
  maximize game(tune.w, shift)
  optimizer = sgd(lr = 0.5)
  stop = grad_norm < 1e-5
  hypergrad = HYPERGRAD
}
level tune {
  var w : real[d] = zeros
  minimize game(w, fit*.shift)
  optimizer = sgd(lr = 0.1)
}
run { steps = 100 }
"""

TASKS = """
dim S = 10, d = 8
extern source made() : {
  support: { x: real[S, d], y: real[S] }, query: { x: real[S, d], y: real[S] }
} from "networks:tasks"
data tasks from made()
level fit foreach t in tasks(batch = 8) {
  module net = mlp([d, 16, 1], act = tanh)
  minimize mean((net(t.support.x)[:, 0] - t.support.y)^2)
  optimizer = sgd(lr = 0.05)
  steps = 5
  start = copy(tune.net)
  hypergrad = HYPERGRAD
}
level tune {
  module net = mlp([d, 16, 1], act = tanh)
  minimize mean(mean((a*.net(a.t.query.x)[:, 0] - a.t.query.y)^2) for a in fit)
  optimizer = adam(lr = 0.01)
}
run { steps = 100 }
"""

RATE = LOGISTIC.replace("var log_wd : real[d] = fill(-2)", "var log_lr : real = -2").replace(
    "exp(tune.log_wd)", "0.01"
)

FEW = "optimizer = sgd(lr = 0.5)\n  steps = 5"
MANY = "optimizer = sgd(lr = 0.5)\n  steps = 300"
RESET = "\n  start = reset"
ONE = "optimizer = sgd(lr = 0.1)\n  steps = 1"


def _with(text: str, lower: str, start: str = "-2") -> str:
    return text.replace("LOWER", lower).replace("START", start)


def _perceptron(make: Any) -> dict[str, Any]:
    return {"net": make}


def _binary() -> Data:
    return {"all": classes(600, 30, 2)}


def _three() -> Data:
    return {"all": classes(300, 16, 3)}


PROGRAMS = (
    Program("quadratic_small", "ridge, 20 variables, solved", _with(RIDGE, "", "-1"),
            lambda: {"all": regression(200, 20)}, "solution", 1e-4),
    Program("quadratic_large", "ridge, 3000 variables, L-BFGS",
            _with(RIDGE, "optimizer = lbfgs(tol = 1e-5)", "-1"),
            lambda: {"all": regression(2000, 3000)}, "solution", 1e-2, after=1),
    Program("ill_conditioned", "ridge, 50 variables, condition 1e5", _with(RIDGE, "", "-12"),
            lambda: {"all": regression(400, 50, 1e5)}, "solution", 5e-2),
    Program("logistic", "logistic regression, Newton", _with(LOGISTIC, ""),
            _binary, "solution", 1e-3),
    Program("hyper_cleaning", "softmax regression, a weight per row, Newton", _with(CLEANING, ""),
            lambda: {"all": classes(1000, 40, 5)}, "solution", 1e-3),
    Program("warm_few", "logistic, 5 steps from where the last ended", _with(LOGISTIC, FEW),
            _binary, "point", 1e-2, after=30),
    Program("warm_many", "logistic, 300 steps, warm", _with(LOGISTIC, MANY),
            _binary, "solution", 1e-2),
    Program("reset_few", "logistic, 5 steps from a reset start", _with(LOGISTIC, FEW + RESET),
            _binary, "steps", 1e-3),
    Program("reset_many", "logistic, 300 steps from a reset start", _with(LOGISTIC, MANY + RESET),
            _binary, "solution", 1e-2),
    Program("batches", "logistic, 10 steps of 64 rows, warm",
            _with(BATCHES, FEW.replace("steps = 5", "steps = 10")), _binary, "point", 1e-2),
    Program("network_one", "weights of rows, a network from Python, 1 step, warm",
            _with(NETWORK, ONE), _three, "steps", 1e-2, externs={"net": networks.Perceptron}),
    Program("network_reset", "the same, 10 steps from a reset start",
            _with(NETWORK, ONE.replace("steps = 1", "steps = 10") + RESET),
            _three, "steps", 1e-2, externs={"net": networks.Perceptron}),
    Program("proximal", "a network near its meta-parameters (iMAML), 30 steps", PROX,
            _three, "point", 5e-2, externs={"net": networks.Perceptron}),
    Program("three_levels", "penalties of penalties, total curvature", THREE,
            lambda: {"all": regression(120, 8)}, "solution", 1e-3, after=1),
    Program("min_max", "zero-sum game", MINMAX,
            lambda: {"all": regression(60, 8)}, "solution", 1e-3),
    Program("attention", "fused attention, 1 step, warm", _with(NETWORK, ONE), _three, "steps",
            1e-2, externs={"net": networks.Fused}, same={"net": networks.Plain}),
    Program("attention_reset", "fused attention, 10 steps from a reset start",
            _with(NETWORK, ONE.replace("steps = 1", "steps = 10") + RESET), _three, "steps",
            1e-2, externs={"net": networks.Fused}, same={"net": networks.Plain}),
    Program("dropout", "a network with dropout, 1 step, warm", _with(NETWORK, ONE), _three,
            "steps", 1e-2, externs={"net": networks.Dropped}, precision="fp64"),
    Program("tasks", "8 tasks, 5 steps from a common start (MAML)", TASKS, dict, "steps", 1e-3,
            externs={"made": networks.tasks}),
    Program("learning_rate", "logistic, 30 steps, their learning rate is tuned",
            _with(RATE, "optimizer = sgd(lr = exp(tune.log_lr))\n  steps = 30" + RESET),
            _binary, "steps", 1e-3),
)  # fmt: skip

NAMED = {program.name: program for program in PROGRAMS}
