"""Programs with `compat = "betty"` beside Betty 0.2.1 itself: its own examples, made small.

Same initial values, same batches, float64 on both sides: the variables of all levels agree after
every step of the top level. Betty comes by `pip install --ignore-requires-python --no-deps
betty-ml==0.2.1`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import Any

import pytest
import torch
from betty_engine import Level, Theta
from betty_engine import run as betty_run
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR

import bettyc

pytest.importorskip("betty")
pytestmark = pytest.mark.filterwarnings("ignore")

Batch = Callable[[], tuple[Tensor, ...]]


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def compare(found: list[Theta], expected: list[Theta], tolerance: float = 1e-10) -> None:
    """Values in order of the parameters: the names of the two libraries differ."""
    assert len(found) == len(expected) > 0
    for k, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        for level, values in theirs.items():
            rows = zip(ours[level].values(), values.values(), strict=True)
            for a, b in rows:
                where = f"{level}, step {k}: {float((a - b).abs().max()):.1e} apart"
                assert torch.allclose(a, b, rtol=tolerance, atol=tolerance), where


def trace(run: bettyc.Run) -> list[Theta]:
    """The variables of all levels after each step of the top."""
    return [{name: run[name].values() for name in run.plan.order} for _ in run]


def started(text: str, data: Mapping[str, Any]) -> bettyc.Run:
    program = bettyc.loads(text)
    assert [d.code for d in program.check().diagnostics] == []
    return program.compile(data=data).start(seed=0)


def batches(run: bettyc.Run, name: str) -> Batch:
    """The batches of a draw in the order of a run, from one that does not run itself."""
    draw = run.draws[name]

    def following() -> tuple[Tensor, ...]:
        draw.advance()
        return tuple(v for (_, field), v in draw.columns.items() if field != "index")

    return following


class Owned(nn.Module):
    """A variable as a module, as Betty wants it."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value.clone())


# Logistic regression with a weight decay per coordinate (examples/logistic_regression_hpo)

LOGISTIC = """
dim n, m, d
data train : {{ x: real[n, d], y: int<2>[n] }} from memory()
data val   : {{ x: real[m, d], y: int<2>[m] }} from memory()

level fit {{
  var w : real[d] = fill(0.1)
  minimize mean(bce(train.x @ w, train.y)) + 0.5 * sum(exp(tune.log_wd) * w^2)
  {fit}
}}

level tune {{
  var log_wd : real[d] = fill(-1)
  minimize mean(bce(val.x @ fit*.w, val.y))
  {tune}
}}

run {{ steps = 12  precision = fp64  compat = "betty" }}
"""


def rows(count: int, seed: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=g)
    y = x.sum(-1) + torch.randn(count, generator=g) > 0
    return {"x": x, "y": y.long()}


def logistic(fit: str, tune: str, below: Any, above: Any, iterations: int) -> None:
    """below, above: of each level the optimizer, the scheduler, the Config."""
    data = {"train": rows(24, 0), "val": rows(14, 1)}

    def nll(part: str, w: Tensor) -> Tensor:
        x, y = data[part]["x"], data[part]["y"].double()
        return F.binary_cross_entropy_with_logits(x @ w, y)

    def inner(m: Mapping[str, Any], _: Any) -> Tensor:
        w = m["fit"].value
        return nll("train", w) + 0.5 * (m["tune"].value.exp() * w**2).sum()

    def outer(m: Mapping[str, Any], _: Any) -> Tensor:
        return nll("val", m["fit"].value)

    levels = [
        Level("fit", Owned(torch.full((6,), 0.1)), inner, below[0], below[2], scheduler=below[1]),
        Level("tune", Owned(torch.full((6,), -1.0)), outer, above[0], above[2], scheduler=above[1]),
    ]
    expected = betty_run(levels, {"tune": ["fit"]}, {"fit": ["tune"]}, "tune", iterations)
    found = trace(started(LOGISTIC.format(fit=fit, tune=tune), data))

    assert (found[-1]["tune"]["log_wd"] + 1).abs().max() > 0.1  # it has moved
    compare(found, expected)


def sgd(**options: float) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: SGD(parameters, **options)


def adam(**options: Any) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: Adam(parameters, **options)


STRATEGIES = {
    "finite_diff": {"type": "darts"},
    "finite_diff(eps = 0.5)": {"type": "darts", "darts_alpha": 0.5},
    "neumann(terms = 2)": {"type": "neumann"},
    "neumann(terms = 6, lr = 0.5)": {
        "type": "neumann",
        "neumann_iterations": 5,
        "neumann_alpha": 0.5,
    },
    "cg": {"type": "cg"},
    "cg(iters = 3)": {"type": "cg", "cg_iterations": 3},
    "sama(eps = 1.0)": {"type": "sama"},
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_logistic_hpo(strategy: str) -> None:
    logistic(
        f"optimizer = sgd(lr = 0.2)  steps = 3  hypergrad = {strategy}",
        "optimizer = sgd(lr = 2.0)",
        (sgd(lr=0.2), None, {"unroll_steps": 3, **STRATEGIES[strategy]}),
        (sgd(lr=2.0), None, {}),
        36,
    )


def test_logistic_hpo_by_sama_of_adam() -> None:
    logistic(
        "optimizer = adam(lr = 0.1, weight_decay = 0.1)  steps = 3  clip = 0.2"
        "  hypergrad = sama(eps = 1.0)",
        "optimizer = adam(lr = 0.05)",
        (
            adam(lr=0.1, weight_decay=0.1),
            None,
            {"type": "sama", "unroll_steps": 3, "gradient_clipping": 0.2},
        ),
        (adam(lr=0.05), None, {}),
        36,
    )


@pytest.mark.parametrize("strategy", ["finite_diff", "sama(eps = 1.0)"])
@pytest.mark.parametrize("warmup", [0, 13, 24])
def test_accumulation_warmup_and_a_scheduler_per_micro_step(strategy: str, warmup: int) -> None:
    logistic(
        f"optimizer = adam(lr = 0.1)  steps = 3  accumulate = 2  warmup = {warmup}"
        f"  lr_schedule = step(every = 4, gamma = 0.9)  hypergrad = {strategy}",
        "optimizer = adam(lr = 0.1)  accumulate = 2  clip = 0.05"
        "  lr_schedule = cosine(min = 0.01, total = 9)",
        (
            adam(lr=0.1),
            lambda o: StepLR(o, 4, 0.9),
            {
                "unroll_steps": 3,
                "gradient_accumulation": 2,
                "warmup_steps": warmup,
                **STRATEGIES[strategy],
            },
        ),
        (
            adam(lr=0.1),
            lambda o: CosineAnnealingLR(o, 9, 0.01),
            {"gradient_accumulation": 2, "gradient_clipping": 0.05},
        ),
        12 * 6 + warmup // 6 * 6,
    )


# Meta-Weight-Net on long-tailed digits (examples/learning_to_reweight)

REWEIGHT = """
dim n, m
data train : {{ x: real[n, 64], y: int<10>[n] }} from memory()
data meta  : {{ x: real[m, 64], y: int<10>[m] }} from memory()

level student {{
  module net = mlp([64, 16, 10], act = relu)
  draw b from train(batch = 32, shuffle = true)
  let loss = xent(net(b.x), b.y)
  minimize mean(weigher.v(detach(loss)[:, new])[:, 0] * loss)
  optimizer   = sgd(lr = 0.1, momentum = 0.9, weight_decay = 5e-4)
  lr_schedule = multistep([15, 25], gamma = 0.1)
  hypergrad   = {strategy}
}}

level weigher {{
  module v = mlp([1, 20, 1], act = relu, out = sigmoid)
  draw b from meta(batch = 20, shuffle = true)
  minimize mean(xent(student*.net(b.x), b.y))
  optimizer = adam(lr = 1e-2)
}}

run {{ steps = 30  precision = fp64  compat = "betty" }}
"""


def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return torch.tensor(x / 16.0), torch.tensor(y)


def long_tailed() -> dict[str, dict[str, Tensor]]:
    """Ten meta rows per class; of class c the first 100 * 0.7^c rows of the rest to train on."""
    x, y = digits()
    parts: dict[str, list[Tensor]] = {"meta": [], "train": []}
    for c in range(10):
        places = torch.nonzero(y == c)[:, 0]
        parts["meta"].append(places[:10])
        parts["train"].append(places[10 : 10 + int(100 * 0.7**c)])
    return {
        name: {"x": x[torch.cat(found)], "y": y[torch.cat(found)]} for name, found in parts.items()
    }


def network(found: nn.Module, *extra: nn.Module) -> nn.Module:
    """A torch network of two layers with the present parameters of one of bettyc's."""
    w1, b1, w2, b2 = (p.detach().clone() for p in found.parameters())
    net = nn.Sequential(nn.Linear(*w1.T.shape), nn.ReLU(), nn.Linear(*w2.T.shape), *extra)
    for parameter, value in zip(net.parameters(), (w1, b1, w2, b2), strict=True):
        parameter.data = value
    return net


@pytest.mark.parametrize(
    "strategy", ["finite_diff", "cg(iters = 2)", "neumann(terms = 3, lr = 0.1)"]
)
def test_data_reweighting(strategy: str) -> None:
    data, text = long_tailed(), REWEIGHT.format(strategy=strategy)
    run, other = started(text, data), started(text, data)
    config = {
        "finite_diff": {"type": "darts"},
        "cg(iters = 2)": {"type": "cg", "cg_iterations": 2},
        "neumann(terms = 3, lr = 0.1)": {
            "type": "neumann",
            "neumann_iterations": 2,
            "neumann_alpha": 0.1,
        },
    }[strategy]

    def inner(m: Mapping[str, nn.Module], batch: Any) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(m["student"](x), y, reduction="none")[:, None]
        return (m["weigher"](loss.detach()) * loss).mean()

    def outer(m: Mapping[str, nn.Module], batch: Any) -> Tensor:
        return F.cross_entropy(m["student"](batch[0]), batch[1])

    student = Level(
        "student",
        network(run["student"].net),
        inner,
        sgd(lr=0.1, momentum=0.9, weight_decay=5e-4),
        config,
        batches(other, "student.b"),
        lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [15, 25], 0.1),
    )
    weigher = Level(
        "weigher",
        network(run["weigher"].v, nn.Sigmoid()),
        outer,
        adam(lr=1e-2),
        {},
        batches(other, "weigher.b"),
    )
    expected = betty_run(
        [weigher, student], {"weigher": ["student"]}, {"student": ["weigher"]}, "weigher", 30
    )
    found = trace(run)

    compare(found, expected)


# Learning by ignoring, three levels (examples/learning_by_ignoring)

IGNORING = """
dim n, m, k
data source : {{ x: real[n, 64], y: int<10>[n] }} from memory()
data target : {{ x: real[m, 64], y: int<10>[m] }} from memory()
data val    : {{ x: real[k, 64], y: int<10>[k] }} from memory()

level pretrain {{
  module net = mlp([64, 12, 10], act = tanh)
  draw b from source(batch = 30, shuffle = true)
  minimize mean(sigmoid(reweight.score(b.x)[:, 0]) * xent(net(b.x), b.y))
  optimizer = sgd(lr = 0.2, momentum = 0.9)
  steps     = {pretrain}
  hypergrad = {strategy}
}}

level finetune {{
  module net = mlp([64, 12, 10], act = tanh)
  draw b from target(batch = 20, shuffle = true)
  minimize mean(xent(net(b.x), b.y)) + 0.1 * sumsq(params(net) - params(pretrain*.net))
  optimizer = sgd(lr = 0.2, momentum = 0.9)
  steps     = {finetune}
  hypergrad = {strategy}
}}

level reweight {{
  module score = mlp([64, 8, 1], act = tanh)
  draw b from val(batch = 20, shuffle = true)
  minimize mean(xent(finetune*.net(b.x), b.y))
  optimizer = sgd(lr = 0.5)
}}

run {{ steps = 12  precision = fp64  compat = "betty" }}
"""


def tanh(found: nn.Module) -> nn.Module:
    net = network(found)
    net[1] = nn.Tanh()  # type: ignore[operator]
    return net


@pytest.mark.parametrize(
    ("strategy", "config"),
    [
        ("finite_diff", {"type": "darts"}),
        ("sama(eps = 1.0)", {"type": "sama"}),
    ],
)
@pytest.mark.parametrize("unroll", [(1, 1), (2, 3)])
def test_learning_by_ignoring(
    strategy: str, config: Mapping[str, str], unroll: tuple[int, int]
) -> None:
    x, y = digits()
    cuts = {"source": slice(0, 200), "target": slice(200, 260), "val": slice(260, 320)}
    data = {name: {"x": x[cut], "y": y[cut]} for name, cut in cuts.items()}
    data["source"]["x"] = data["source"]["x"].flip(-1)
    text = IGNORING.format(strategy=strategy, pretrain=unroll[0], finetune=unroll[1])
    run, other = started(text, data), started(text, data)

    def pretrain(m: Mapping[str, nn.Module], batch: Any) -> Tensor:
        x, y = batch
        weight = torch.sigmoid(m["reweight"](x))[:, 0]
        return (weight * F.cross_entropy(m["pretrain"](x), y, reduction="none")).mean()

    def finetune(m: Mapping[str, nn.Module], batch: Any) -> Tensor:
        pairs = zip(m["finetune"].parameters(), m["pretrain"].parameters(), strict=True)
        drift = sum(((a - b) ** 2).sum() for a, b in pairs)
        return F.cross_entropy(m["finetune"](batch[0]), batch[1]) + 0.1 * drift

    def reweight(m: Mapping[str, nn.Module], batch: Any) -> Tensor:
        return F.cross_entropy(m["finetune"](batch[0]), batch[1])

    momentum = sgd(lr=0.2, momentum=0.9)
    levels = [
        Level("reweight", tanh(run["reweight"].score), reweight, sgd(lr=0.5), {},
              batches(other, "reweight.b")),
        Level("finetune", tanh(run["finetune"].net), finetune, momentum,
              {"unroll_steps": unroll[1], **config}, batches(other, "finetune.b")),
        Level("pretrain", tanh(run["pretrain"].net), pretrain, momentum,
              {"unroll_steps": unroll[0], **config}, batches(other, "pretrain.b")),
    ]  # fmt: skip
    expected = betty_run(
        levels,
        {"reweight": ["pretrain"]},
        {"pretrain": ["finetune"], "finetune": ["reweight"]},
        "reweight",
        12 * unroll[0] * unroll[1],
    )
    begin = deepcopy(run["reweight"].values())
    found = trace(run)

    assert max((found[-1]["reweight"][k] - v).abs().max() for k, v in begin.items()) > 1e-3
    compare(found, expected)


# A level that two others star, and that reads both: every walk that Betty finds

DIAMOND = """
level low {
  var x : real[3] = zeros
  minimize sumsq(x - [0.2, 0.4, 0.6] * mid.y) + 0.5 * sumsq(x + top.z) + 0.1 * sumsq(x)
  optimizer = sgd(lr = 0.1)
  steps     = 2
}

level mid {
  var y : real[3] = fill(0.5)
  minimize sumsq(y - 1) + sumsq(y + low*.x) + 0.3 * sumsq(y - top.z)
  optimizer = sgd(lr = 0.1)
  steps     = 3
}

level top {
  var z : real[3] = fill(0.2)
  minimize sumsq(mid*.y - 2) + 0.5 * sumsq(low*.x - z)
  optimizer = sgd(lr = 0.05)
}

run { steps = 10  precision = fp64  compat = "betty" }
"""


def test_every_walk() -> None:
    """Quadratic, so that the sum of Betty's differences is the difference along the sum."""
    program = bettyc.loads(DIAMOND)
    assert [d.code for d in program.check().diagnostics] == ["MLO0619"]
    scale = torch.tensor([0.2, 0.4, 0.6])

    def low(m: Mapping[str, Any], _: Any) -> Tensor:
        x, y, z = (m[name].value for name in ("low", "mid", "top"))
        return ((x - scale * y) ** 2).sum() + 0.5 * ((x + z) ** 2).sum() + 0.1 * (x**2).sum()

    def mid(m: Mapping[str, Any], _: Any) -> Tensor:
        x, y, z = (m[name].value for name in ("low", "mid", "top"))
        return ((y - 1) ** 2).sum() + ((y + x) ** 2).sum() + 0.3 * ((y - z) ** 2).sum()

    def top(m: Mapping[str, Any], _: Any) -> Tensor:
        x, y, z = (m[name].value for name in ("low", "mid", "top"))
        return ((y - 2) ** 2).sum() + 0.5 * ((x - z) ** 2).sum()

    levels = [
        Level("top", Owned(torch.full((3,), 0.2)), top, sgd(lr=0.05), {}),
        Level("mid", Owned(torch.full((3,), 0.5)), mid, sgd(lr=0.1), {"unroll_steps": 3}),
        Level("low", Owned(torch.zeros(3)), low, sgd(lr=0.1), {"unroll_steps": 2}),
    ]
    expected = betty_run(
        levels,
        {"mid": ["low"], "top": ["low", "mid"]},
        {"low": ["mid", "top"], "mid": ["top"]},
        "top",
        60,
    )
    found = trace(program.compile().start(seed=0))

    assert (found[-1]["top"]["z"] - 0.2).abs().max() > 0.05
    compare(found, expected)


# iMAML: the inner problem starts from the outer one's variables, the outer one adds tasks up
# (examples/implicit_maml)

MAML = """
dim T, S, d
data tasks : { x: real[T, S, d], y: real[T, S], qx: real[T, S, d], qy: real[T, S] } from memory()
draw t from tasks(batch = 1, shuffle = true)

level adapt {
  var w : real[d] = zeros
  minimize 0.5 * mean((tanh(t.x[0] @ w) - t.y[0])^2) + 0.25 * sumsq(w - meta.w)
  optimizer = sgd(lr = 0.4)
  steps     = 4
  start     = copy(meta.w)
  hypergrad = cg(iters = 2)
}

level meta {
  var w : real[d] = fill(0.5)
  minimize 0.5 * mean((tanh(t.qx[0] @ adapt*.w) - t.qy[0])^2)
  optimizer   = adam(lr = 0.1)
  accumulate  = 3
  lr_schedule = cosine(total = 24)
}

run { steps = 24  precision = fp64  compat = "betty" }
"""


def test_implicit_maml() -> None:
    g = torch.Generator().manual_seed(3)
    x, qx = torch.randn(7, 5, 4, generator=g), torch.randn(7, 5, 4, generator=g)
    truth = torch.randn(7, 4, 1, generator=g)
    data = {"x": x, "qx": qx, "y": (x @ truth).tanh()[..., 0], "qy": (qx @ truth).tanh()[..., 0]}
    run, other = started(MAML, {"tasks": data}), started(MAML, {"tasks": data})
    draw = other.draws["t"]

    def task(field: str) -> Tensor:
        return draw.columns["t", field][0]

    def start(m: Mapping[str, Any]) -> None:
        draw.advance()
        m["adapt"].value.data.copy_(m["meta"].value.data)

    def inner(m: Mapping[str, Any], _: Any) -> Tensor:
        w = m["adapt"].value
        fit = ((task("x") @ w).tanh() - task("y")) ** 2
        return 0.5 * fit.mean() + 0.25 * ((w - m["meta"].value) ** 2).sum()

    def outer(m: Mapping[str, Any], _: Any) -> Tensor:
        return 0.5 * (((task("qx") @ m["adapt"].value).tanh() - task("qy")) ** 2).mean()

    levels = [
        Level("adapt", Owned(torch.zeros(4)), inner, sgd(lr=0.4),
              {"type": "cg", "cg_iterations": 2, "unroll_steps": 4}, start=start),
        Level("meta", Owned(torch.full((4,), 0.5)), outer, adam(lr=0.1),
              {"gradient_accumulation": 3}, scheduler=lambda o: CosineAnnealingLR(o, 24)),
    ]  # fmt: skip
    expected = betty_run(levels, {"meta": ["adapt"]}, {"adapt": ["meta"]}, "meta", 24 * 4)
    found = trace(run)

    assert (found[-1]["meta"]["w"] - 0.5).abs().max() > 0.1
    compare(found, expected)
