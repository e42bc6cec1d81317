"""Hypergradients against grid search, random search and scikit-learn's CV estimators, equal time.

    python examples/hpo_against_search.py           all three models
    python examples/hpo_against_search.py ridge     some; the figures of the others stay
    python examples/hpo_against_search.py --table   only write the table again

Three models, each with one part of the data to fit and one to choose the hyperparameters by; the
split, the features and the seconds are the same for all methods, and so is what is judged: the
loss on a third part of the model fitted on the first with the hyperparameters of the least loss
on the second. Seconds are CPU seconds of one thread, all that a method does included, its compiling
too. The methods take turns, in another order for each seed.

Beside it stands the loss of the model fitted to the first two parts with those penalties, which
takes no part in the time. The searches fit with scikit-learn. One penalty per feature is there a
matter of scaling the features.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import figures
import numpy as np
import polynomial
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import (
    ElasticNet,
    ElasticNetCV,
    LogisticRegression,
    LogisticRegressionCV,
    Ridge,
    RidgeCV,
)
from sklearn.model_selection import PredefinedSplit
from threadpoolctl import threadpool_limits

import bettyc

HERE = Path(__file__).parent
KEPT = HERE / "figures" / "search"
BEGIN, END = "<!-- search: made by hpo_against_search.py -->", "<!-- end of search -->"
SEEDS = 5
SECONDS = {"ridge": 1.0, "logistic": 1.5, "elastic_net": 1.0}
HIGH = 3.0  # of the natural logarithm of a penalty

Array = NDArray[np.float64]
Parts = dict[str, dict[str, NDArray[Any]]]
Model = tuple[Array, Array]
"""Coefficients of shape (d,) or (d, C), and the intercept."""


RIDGE = """
dim n, m, d
data train : { x: real[n, d], y: real[n] } from memory()
data val   : { x: real[m, d], y: real[m] } from memory()

def mse(w, b, s) = mean((s.x @ w + b - s.y)^2)

level fit {
  var w : real[d] = zeros
  var b : real    = 0
  minimize mse(w, b, train) + sum(exp(tune.penalty) * w^2)
}

level tune {
  var penalty : SHAPE = fill(-3)
  minimize mse(fit*.w, fit*.b, val)
  optimizer = adam(lr = 0.3)
}
"""

LOGISTIC = """
dim n, m, d, C = 10
data train : { x: real[n, d], y: int<C>[n] } from memory()
data val   : { x: real[m, d], y: int<C>[m] } from memory()

def loss(w, b, s) = mean(xent(s.x @ w + b, s.y))

level fit {
  var w : real[d, C] = zeros
  var b : real[C]    = zeros
  minimize loss(w, b, train) + sum(exp(tune.penalty)AXIS * w^2) + 1e-6 * sumsq(b)
  optimizer = lbfgs(tol = 1e-3)
}

level tune {
  var penalty : SHAPE = fill(-3)
  minimize loss(fit*.w, fit*.b, val)
  optimizer = adam(lr = 0.3)
}
"""

# |w| is smoothed, so that the solution is differentiable in the penalties.
ELASTIC_NET = """
dim n, m, d
data train : { x: real[n, d], y: real[n] } from memory()
data val   : { x: real[m, d], y: real[m] } from memory()

def mse(w, b, s) = mean((s.x @ w + b - s.y)^2)

level fit {
  var w : real[d] = zeros
  var b : real    = 0
  minimize mse(w, b, train) + exp(tune.penalty[0]) * sum(sqrt(w^2 + 1e-4))
         + exp(tune.penalty[1]) * sumsq(w)
  optimizer = lbfgs(tol = 1e-4)
}

level tune {
  var penalty : SHAPE = fill(-3)
  minimize mse(fit*.w, fit*.b, val)
  optimizer = adam(lr = 0.3)
}
"""


def products(seed: int) -> Parts:
    """Diabetes with its 65 features and products of features: 177, 133 and 132 rows."""
    rows = polynomial.diabetes()
    return split(rows["x"], rows["y"], (177, 133), seed)


def digits(seed: int) -> Parts:
    """Digits: 200 to fit, 400 to choose by, 1197 to judge."""
    x, y = load_digits(return_X_y=True)
    return split(x / 16, y, (200, 400), seed)


def split(x: Array, y: NDArray[Any], sizes: tuple[int, int], seed: int) -> Parts:
    order = np.random.default_rng(seed).permutation(len(y))
    bounds = (sizes[0], sizes[0] + sizes[1])
    parts = zip(("train", "val", "test"), np.split(order, bounds), strict=True)
    return {name: {"x": x[rows], "y": y[rows]} for name, rows in parts}


def squared(model: Model, part: dict[str, NDArray[Any]]) -> float:
    return float(np.mean((part["x"] @ model[0] + model[1] - part["y"]) ** 2))


def cross_entropy(model: Model, part: dict[str, NDArray[Any]]) -> float:
    logits = part["x"] @ model[0] + model[1]
    right = logits[np.arange(len(logits)), part["y"]]
    return float(np.mean(logsumexp(logits, axis=1) - right))


def scaled(found: Any, x: Array, y: NDArray[Any], log_penalty: Array) -> Model:
    """The model fitted with one penalty per feature, of one that has the penalty one for all."""
    scale = np.exp(-np.broadcast_to(log_penalty, x.shape[1]) / 2)
    found.fit(x * scale, y)
    return found.coef_.T * (scale if found.coef_.ndim == 1 else scale[:, None]), found.intercept_


def ridge(x: Array, y: NDArray[Any], log_penalty: Array) -> Model:
    return scaled(Ridge(alpha=len(y)), x, y, log_penalty)


def logistic(x: Array, y: NDArray[Any], log_penalty: Array) -> Model:
    return scaled(LogisticRegression(C=0.5 / len(y), max_iter=10_000), x, y, log_penalty)


def elastic_net(x: Array, y: NDArray[Any], log_penalty: Array) -> Model:
    l1, l2 = np.exp(log_penalty) / (2, 1)
    found = ElasticNet(alpha=l1 + l2, l1_ratio=l1 / (l1 + l2), max_iter=10_000).fit(x, y)
    return found.coef_, found.intercept_


def ridge_cv(x: Array, y: NDArray[Any], fold: PredefinedSplit, line: Array) -> Array:
    alphas = rows_to_fit(fold) * np.exp(line)
    return np.log(RidgeCV(alphas, cv=fold).fit(x, y).alpha_ / rows_to_fit(fold))


def logistic_cv(x: Array, y: NDArray[Any], fold: PredefinedSplit, line: Array) -> Array:
    rate = 0.5 / rows_to_fit(fold)
    found = LogisticRegressionCV(
        Cs=rate / np.exp(line),
        cv=fold,
        scoring="neg_log_loss",
        refit=False,
        max_iter=10_000,
        l1_ratios=(0.0,),
        use_legacy_attributes=False,
    )
    return np.log(rate / found.fit(x, y).C_)


def elastic_net_cv(x: Array, y: NDArray[Any], fold: PredefinedSplit, line: Array) -> Array:
    ratios = (0.1, 0.5, 0.7, 0.9, 0.95, 0.99, 1.0)  # as its documentation has them
    found = ElasticNetCV(l1_ratio=ratios, alphas=len(line), cv=fold, max_iter=10_000).fit(x, y)
    l1, l2 = 2 * found.alpha_ * found.l1_ratio_, found.alpha_ * (1 - found.l1_ratio_)
    return np.log(np.array([l1, max(l2, 1e-300)]))


def rows_to_fit(fold: PredefinedSplit) -> int:
    return int((fold.test_fold < 0).sum())


@dataclass(frozen=True)
class Penalties:
    """shape: their type in the program; axis: what makes them fit to w; size: how many a search
    has to choose, 0 where scaling the features cannot give them.
    """

    shape: str
    size: int
    axis: str = ""


@dataclass(frozen=True)
class Problem:
    """A model and its data. fit: with logarithms of penalties; choose: those that scikit-learn's
    estimator finds, of a grid; penalties: what may be tuned, by name; low: where the searches
    begin, such that the best single penalty lies inside.
    """

    parts: Callable[[int], Parts]
    loss: Callable[[Model, dict[str, NDArray[Any]]], float]
    fit: Callable[[Array, NDArray[Any], Array], Model]
    choose: Callable[[Array, NDArray[Any], PredefinedSplit, Array], Array]
    program: str
    penalties: dict[str, Penalties]
    low: float = -9.0


PROBLEMS = {
    "ridge": Problem(
        products,
        squared,
        ridge,
        ridge_cv,
        RIDGE,
        {"one": Penalties("real", 1), "per feature": Penalties("real[d]", 65)},
    ),
    "logistic": Problem(
        digits,
        cross_entropy,
        logistic,
        logistic_cv,
        LOGISTIC,
        {
            "one": Penalties("real", 1),
            "per feature": Penalties("real[d]", 64, "[:, new]"),
            "per feature and class": Penalties("real[d, C]", 0),
        },
        low=-14.0,
    ),
    "elastic_net": Problem(
        products,
        squared,
        elastic_net,
        elastic_net_cv,
        ELASTIC_NET,
        {"two": Penalties("real[2]", 2)},
    ),
}


@dataclass(frozen=True)
class Found:
    """The loss to choose by, the model fitted to the first part, the logarithms
    of its penalties, how many were tried, and the model fitted to both parts with these penalties.
    """

    loss: float
    model: Model
    log_penalty: Array
    tried: int
    on_both: Model | None = None


def best(problem: Problem, parts: Parts, tried: Iterator[Array], seconds: float) -> Found:
    """The best of the hyperparameters that are tried until the time is up."""
    end = time.process_time() + seconds
    found: Found | None = None
    count = 0
    for log_penalty in tried:
        model = problem.fit(parts["train"]["x"], parts["train"]["y"], log_penalty)
        if found and time.process_time() > end:
            break
        count += 1
        loss = problem.loss(model, parts["val"])
        if found is None or loss < found.loss:
            found = Found(loss, model, log_penalty, count)
    assert found is not None
    return replace(found, tried=count)


def grid(size: int, low: float) -> Iterator[Array]:
    """The points of a grid, which becomes twice as fine each time it is through."""
    done: set[tuple[float, ...]] = set()
    for level in range(20):
        line = np.linspace(low, HIGH, 2 ** (level + 1) + 1)
        for point in np.stack(np.meshgrid(*[line] * size), -1).reshape(-1, size):
            if tuple(point) not in done:
                done.add(tuple(point))
                yield point


def uniform(size: int, low: float, seed: int) -> Iterator[Array]:
    random = np.random.default_rng(seed)
    while True:
        yield random.uniform(low, HIGH, size)


def both(parts: Parts) -> dict[str, NDArray[Any]]:
    """The rows to fit and the rows to choose by, together."""
    return {c: np.concatenate([parts["train"][c], parts["val"][c]]) for c in ("x", "y")}


def cross_validated(problem: Problem, parts: Parts, seconds: float) -> Found:
    """scikit-learn's estimator with the largest grid, of 5, 10, 20, …, that the time allows."""
    x, y = both(parts)["x"], both(parts)["y"]
    fold = PredefinedSplit(np.repeat([-1, 0], [len(parts[name]["y"]) for name in ("train", "val")]))
    found: Found | None = None
    size = 5
    while True:
        begin = time.process_time()
        log_penalty = problem.choose(x, y, fold, np.linspace(problem.low, HIGH, size))
        model = problem.fit(parts["train"]["x"], parts["train"]["y"], log_penalty)
        if found and time.process_time() - begin > seconds:
            return found
        found = Found(problem.loss(model, parts["val"]), model, log_penalty, size)
        size *= 2


def hypergradient(problem: Problem, parts: Parts, penalties: Penalties, seconds: float) -> Found:
    end = time.process_time() + seconds
    given: dict[str, Any] = {name: parts[name] for name in ("train", "val")}
    text = problem.program.replace("SHAPE", penalties.shape).replace("AXIS", penalties.axis)
    program = bettyc.loads(text, set={"run.steps": 1_000_000})
    run = program.compile(given).start()
    found: Found | None = None
    count = 0
    while found is None or time.process_time() < end:
        log_penalty = run["tune"].penalty
        loss = run.step().loss["tune"]  # at the penalties before the update
        count += 1
        if found is None or loss < found.loss:
            model = run["fit"].w.numpy(), run["fit"].b.numpy()
            found = Found(loss, model, log_penalty.numpy(), count)
    last = program.compile({**given, "train": both(parts)}).layer("fit")(
        penalty=torch.from_numpy(found.log_penalty)
    )
    return replace(
        found,
        tried=count,
        on_both=(last["w"].detach().numpy(), last["b"].detach().numpy()),
    )


def methods(problem: Problem, parts: Parts, seed: int) -> dict[str, Callable[[float], Found]]:
    """Each takes the seconds it has."""
    found: dict[str, Callable[[float], Found]] = {}
    for name, penalties in problem.penalties.items():
        size = penalties.size
        if 0 < size < 3:
            found[f"grid, {name}"] = partial(best, problem, parts, grid(size, problem.low))
            found[f"scikit-learn CV, {name}"] = partial(cross_validated, problem, parts)
        if size:
            found[f"random, {name}"] = partial(
                best, problem, parts, uniform(size, problem.low, seed)
            )
        found[f"bettyc, {name}"] = partial(hypergradient, problem, parts, penalties)
    return found


def measure(name: str, seed: int, seconds: float) -> dict[str, list[float]]:
    """By method: the loss to choose by, the loss that is judged, the same of the model fitted to
    both parts, and how many were tried.
    """
    problem = PROBLEMS[name]
    parts = problem.parts(seed)
    turns = list(methods(problem, parts, seed).items())
    figures_of = {}
    for method, run in turns[seed % len(turns) :] + turns[: seed % len(turns)]:
        found = run(seconds)
        last = found.on_both or problem.fit(*both(parts).values(), found.log_penalty)
        judged = [problem.loss(model, parts["test"]) for model in (found.model, last)]
        figures_of[method] = [found.loss, *judged, found.tried]
    return {method: figures_of[method] for method, _ in turns}


def table() -> str:
    lines = [
        "| model | seconds | method, penalties | loss to choose by | on test "
        "| on test, fitted to both | tried |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in sorted(path.stem for path in KEPT.glob("*.json")):
        for method, rows in json.loads((KEPT / f"{name}.json").read_text()).items():
            val, test, last, count = (list(column) for column in zip(*rows, strict=True))
            lines.append(
                f"| {name} | {SECONDS[name]:g} | {method} | {figures.cell(val)} "
                f"| {figures.cell(test)} | {figures.cell(last)} | {sum(count) / len(count):.0f} |"
            )
    return "\n".join(lines)


def write_table() -> None:
    text = figures.README.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    figures.README.write_text(f"{head}{BEGIN}\n{table()}\n{END}{tail}")


def main(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    names = [a for a in arguments if a != "--table"] or list(PROBLEMS)
    for name in () if "--table" in arguments else names:
        rows: dict[str, list[list[float]]] = {}
        with threadpool_limits(1):
            measure(name, SEEDS, 0.0)  # imports, and what is compiled once in a process
            for seed in range(SEEDS):
                for method, found in measure(name, seed, SECONDS[name]).items():
                    rows.setdefault(method, []).append([float(f"{v:.5g}") for v in found])
                print(name, seed, flush=True)
        KEPT.mkdir(exist_ok=True)
        (KEPT / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")
    write_table()


if __name__ == "__main__":
    main(sys.argv[1:])
