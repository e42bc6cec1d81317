"""Hypergradients of whole programs, from text to numbers, against algebra and finite
differences.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.optimize
import torch

import bettyc

RIDGE = """
dim n, m, d
data train : {{ x: real[n, d], y: real[n] }} from memory()
data val   : {{ x: real[m, d], y: real[m] }} from memory()

level fit {{
  var w : real[d] = zeros
  minimize 0.5 * mean((train.x @ w - train.y)^2) + 0.5 * sum(exp(tune.log_wd) * w^2)
  hypergrad = {strategy}
  {settings}
}}

level tune {{
  var log_wd : real[d] = fill(-1)
  minimize mean((val.x @ fit*.w - val.y)^2) + 0.01 * sumsq(log_wd)
  optimizer = sgd(lr = 0.1)
}}

run {{ steps = 3  precision = fp64 }}
"""


@pytest.fixture
def data() -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=6)

    def rows(count: int) -> dict[str, np.ndarray]:
        x = rng.normal(size=(count, 6))
        return {"x": x, "y": x @ truth + 0.3 * rng.normal(size=count)}

    return {"train": rows(40), "val": rows(25)}


def solve(data: dict[str, dict[str, np.ndarray]], a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The Hessian of `fit` and its solution."""
    x, y = data["train"]["x"], data["train"]["y"]
    h = x.T @ x / len(y) + np.diag(np.exp(a))
    return h, np.linalg.solve(h, x.T @ y / len(y))


def cotangent(data: dict[str, dict[str, np.ndarray]], w: np.ndarray) -> np.ndarray:
    """Gradient of the validation loss in w."""
    x, y = data["val"]["x"], data["val"]["y"]
    return 2 * x.T @ (x @ w - y) / len(y)


def hypergradient(
    text: str, data: dict[str, dict[str, np.ndarray]], level: str = "tune"
) -> dict[str, np.ndarray]:
    plan = bettyc.loads(text).compile(data=data)
    found = plan.start(seed=0).hypergrad(level)
    return {name: value.numpy() for name, value in found.items()}


def relative(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


@pytest.mark.parametrize("strategy", ["exact", "cg(tol = 1e-12)", "auto"])
def test_ridge_matches_its_closed_form(
    strategy: str, data: dict[str, dict[str, np.ndarray]]
) -> None:
    a = np.full(6, -1.0)
    h, w = solve(data, a)
    u = np.linalg.solve(h, cotangent(data, w))
    want = 0.02 * a - np.exp(a) * w * u

    got = hypergradient(RIDGE.format(strategy=strategy, settings=""), data)["log_wd"]

    assert relative(got, want) <= 1e-8


@pytest.mark.parametrize("terms", [1, 4, 25])
def test_neumann_is_its_series(terms: int, data: dict[str, dict[str, np.ndarray]]) -> None:
    a, lr = np.full(6, -1.0), 0.1
    h, w = solve(data, a)
    v = cotangent(data, w)
    u, term = np.zeros(6), v.copy()
    for _ in range(terms):
        u += lr * term
        term = term - lr * h @ term
    want = 0.02 * a - np.exp(a) * w * u

    got = hypergradient(
        RIDGE.format(strategy=f"neumann(terms = {terms}, lr = {lr})", settings=""), data
    )["log_wd"]

    assert relative(got, want) <= 1e-8


def test_unroll_differentiates_the_steps(data: dict[str, dict[str, np.ndarray]]) -> None:
    steps, lr = 7, 0.2
    x, y = (torch.from_numpy(data["train"][k]) for k in "xy")
    a = torch.full((6,), -1.0, dtype=torch.float64, requires_grad=True)
    w = torch.zeros(6, dtype=torch.float64)
    for _ in range(steps):
        w = w - lr * (x.T @ (x @ w - y) / len(y) + torch.exp(a) * w)
    vx, vy = (torch.from_numpy(data["val"][k]) for k in "xy")
    loss = ((vx @ w - vy) ** 2).mean() + 0.01 * (a**2).sum()
    (want,) = torch.autograd.grad(loss, a)
    settings = f"optimizer = sgd(lr = {lr})\n  steps = {steps}\n  start = reset"

    got = hypergradient(RIDGE.format(strategy="unroll", settings=settings), data)["log_wd"]

    assert relative(got, want.numpy()) <= 1e-10


def test_finite_difference_is_its_quotient(data: dict[str, dict[str, np.ndarray]]) -> None:
    lr, steps, eps = 0.2, 5, 0.01
    x, y = data["train"]["x"], data["train"]["y"]
    a, w = np.full(6, -1.0), np.zeros(6)
    for _ in range(steps):
        w = w - lr * (x.T @ (x @ w - y) / len(y) + np.exp(a) * w)
    v = cotangent(data, w)
    r = eps / np.linalg.norm(v)
    plus, minus = (0.5 * np.exp(a) * (w + s * r * v) ** 2 for s in (1, -1))
    want = 0.02 * a - lr * (plus - minus) / (2 * r)
    settings = f"optimizer = sgd(lr = {lr})\n  steps = {steps}\n  start = reset"

    got = hypergradient(
        RIDGE.format(strategy=f"finite_diff(eps = {eps})", settings=settings), data
    )["log_wd"]

    assert relative(got, want) <= 1e-6


LOGISTIC = """
dim n, m, d
data train : { x: real[n, d], y: int<2>[n] } from memory()
data val   : { x: real[m, d], y: int<2>[m] } from memory()

level fit {
  var w : real[d] = zeros
  minimize mean(bce(train.x @ w, train.y)) + 0.5 * sum(exp(tune.log_wd) * w^2)
}

level tune {
  var log_wd : real[d] = fill(-2)
  minimize mean(bce(val.x @ fit*.w, val.y))
  optimizer = sgd(lr = 0.1)
}

run { steps = 3  precision = fp64 }
"""


def newton(x: np.ndarray, y: np.ndarray, a: np.ndarray) -> np.ndarray:
    w = np.zeros(x.shape[1])
    for _ in range(50):
        s = 1 / (1 + np.exp(-x @ w))
        g = x.T @ (s - y) / len(y) + np.exp(a) * w
        h = (x * (s * (1 - s))[:, None]).T @ x / len(y) + np.diag(np.exp(a))
        w = w - np.linalg.solve(h, g)
    return w


def test_logistic_matches_central_differences_of_the_resolved_problem() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=5)
    sets = {}
    for name, count in (("train", 60), ("val", 40)):
        x = rng.normal(size=(count, 5))
        sets[name] = {"x": x, "y": (x @ truth + rng.normal(size=count) > 0).astype(np.int64)}

    def loss(a: np.ndarray) -> float:
        w = newton(sets["train"]["x"], sets["train"]["y"], a)
        z = sets["val"]["x"] @ w
        return float(np.mean(np.logaddexp(0, z) - sets["val"]["y"] * z))

    a, eps = np.full(5, -2.0), 1e-5
    want = np.array([(loss(a + eps * e) - loss(a - eps * e)) / (2 * eps) for e in np.eye(5)])

    got = hypergradient(LOGISTIC, sets)["log_wd"]

    assert relative(got, want) <= 1e-5


THREE = """
dim n, m, k, d
data train : { x: real[n, d], y: real[n] } from memory()
data val   : { x: real[m, d], y: real[m] } from memory()
data meta  : { x: real[k, d], y: real[k] } from memory()

def mse(w, s) = mean((s.x @ w - s.y)^2)

level fit {
  var w : real[d] = zeros
  minimize 0.5 * mse(w, train) + 0.5 * sum(exp(reg.log_wd) * w^2)
}

level reg {
  var log_wd : real[d] = fill(-1)
  minimize mse(fit*.w, val) + exp(prior.log_tau) * sumsq(log_wd - prior.mu)
  optimizer = adam(lr = 0.05)
  steps     = 5
  curvature = direct
}

level prior {
  var mu      : real = 0.3
  var log_tau : real = -1
  minimize mse(fit*.w, meta)
  optimizer = adam(lr = 0.05)
}

run { steps = 2  precision = fp64 }
"""


def test_three_levels_match_their_closed_form_with_direct_curvature(
    data: dict[str, dict[str, np.ndarray]],
) -> None:
    """`direct` holds the response of `fit` fixed in the Hessian of `reg`, which is then 2
    exp(log_tau) I.
    """
    rng = np.random.default_rng(2)
    x = rng.normal(size=(20, 6))
    sets = {**data, "meta": {"x": x, "y": x @ rng.normal(size=6)}}
    run = bettyc.loads(THREE).compile(data=sets).start(seed=0)
    run.to_end()
    found = run.hypergrad("prior", respond=False)
    a = run["reg"].log_wd.numpy()
    mu, tau = run["prior"].mu.item(), np.exp(run["prior"].log_tau.item())
    w = run["fit"].w.numpy()
    h = sets["train"]["x"].T @ sets["train"]["x"] / 40 + np.diag(np.exp(a))
    v = 2 * x.T @ (x @ w - sets["meta"]["y"]) / 20
    a_reg = -np.exp(a) * w * np.linalg.solve(h, v)
    u = a_reg / (2 * tau)
    want = np.array([2 * tau * u.sum(), -2 * tau * ((a - mu) * u).sum()])

    got = np.array([found["mu"].item(), found["log_tau"].item()])

    assert relative(got, want) <= 1e-8
    assert abs(mu - 0.3) > 1e-3  # the top level moved


def test_three_levels_match_finite_differences_of_the_nested_problem(
    data: dict[str, dict[str, np.ndarray]],
) -> None:
    """`total`: the top level's loss with `reg` at the minimum of its reduced objective, and
    `fit` at its own.
    """
    rng = np.random.default_rng(2)
    x = rng.normal(size=(20, 6))
    sets = {**data, "meta": {"x": x, "y": x @ rng.normal(size=6)}}
    text = THREE.replace(
        "optimizer = adam(lr = 0.05)\n  steps     = 5\n  curvature = direct",
        "optimizer = sgd(lr = 0.5)\n  stop      = grad_norm < 1e-12\n  curvature = total",
    )
    assert "total" in text
    run = bettyc.loads(text).compile(data=sets).start(seed=0)
    found = run.hypergrad("prior")

    def reg_gradient(a: np.ndarray, mu: float, tau: float) -> np.ndarray:
        h, w = solve(sets, a)
        return 2 * np.exp(tau) * (a - mu) - np.exp(a) * w * np.linalg.solve(h, cotangent(sets, w))

    def nested(p: np.ndarray) -> float:
        a = scipy.optimize.root(reg_gradient, np.zeros(6), args=(p[0], p[1]), tol=1e-13).x
        w = solve(sets, a)[1]
        return float(np.mean((x @ w - sets["meta"]["y"]) ** 2))

    p, eps = np.array([0.3, -1.0]), 1e-4
    want = np.array([(nested(p + eps * e) - nested(p - eps * e)) / (2 * eps) for e in np.eye(2)])
    got = np.array([found["mu"].item(), found["log_tau"].item()])

    assert relative(got, want) <= 1e-6


def ladder(count: int) -> str:
    """One top level over `count` chained pairs: a1, b1 below the top; a2, b2 below both; ..."""
    text = [
        "level top { var t : real = 0.7",
        "  minimize a1*.x^2 + 0.5 * b1*.x^2 + 0.1 * t^2",
        "  optimizer = sgd(lr = 0.1) }",
    ]
    for k in range(1, count + 1):
        for name, weight in (("a", 1.0), ("b", 2.0)):
            lower = f" - 0.3 * a{k + 1}*.x - 0.2 * b{k + 1}*.x" if k < count else " - top.t"
            text.append(f"level {name}{k} {{ var x : real = 0.1")
            text.append(f"  minimize {weight} * (x{lower} - 0.1)^2")
            text.append("  optimizer = sgd(lr = 0.4)  hypergrad = exact }")
    return "\n".join([*text, "run { steps = 1  precision = fp64 }"])


def by_paths(count: int) -> float:
    """The hypergradient at x = 0.1, t = 0.7 as the sum over all 2^count paths of stars."""
    total = 0.2 * 0.7
    for first, *path in itertools.product((0, 1), repeat=count):
        slope = float(np.prod([(0.3, 0.2)[k] for k in path]))
        total += (0.2, 0.1)[first] * slope
    return total


@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_a_ladder_of_diamonds_matches_path_enumeration(count: int) -> None:
    found = bettyc.loads(ladder(count)).compile().start(seed=0).hypergrad("top", respond=False)

    assert found["t"].item() == pytest.approx(by_paths(count), rel=1e-12)
    assert len(found.report) == 2 * count


def test_the_number_of_solves_is_linear_in_the_ladder() -> None:
    found = bettyc.loads(ladder(64)).compile().start(seed=0).hypergrad("top", respond=False)

    assert len(found.report) == 128
    assert found["t"].item() == pytest.approx(0.14 + 0.3 * 0.5**63, rel=1e-12)


FOUR = """
level fit {{ var w : real = 0
  minimize (w - reg.a * side.s)^2 + 0.1 * w^2 }}
level reg {{ var a : real = 0.5
  minimize (fit*.w - 1)^2 + 0.3 * (a - 2)^2
  optimizer = sgd(lr = 0.2)  stop = grad_norm < 1e-12 }}
level side {{ var s : real = 0.7
  minimize (reg*.a - 1.5)^2 + (fit*.w - 0.2)^2 + 0.1 * (s - top.t)^2
  optimizer = sgd(lr = 0.05)  stop = grad_norm < 1e-12 }}
level top {{ var t : real = {t!r}
  minimize (side*.s - 1)^2 + 0.2 * reg*.a
  optimizer = sgd(lr = 0.1) }}
run {{ steps = 1  precision = fp64 }}
"""


def test_four_levels_match_differences_although_a_reduced_objective_reads_more_than_its_text() -> (
    None
):
    """`reg` never mentions `side`, but the response of `fit` inside it does."""

    def top(t: float) -> tuple[float, float]:
        found = bettyc.loads(FOUR.format(t=t)).compile().start(seed=0).hypergrad("top")
        return float(found.loss), float(found["t"])

    eps = 1e-5
    want = (top(0.4 + eps)[0] - top(0.4 - eps)[0]) / (2 * eps)

    assert top(0.4)[1] == pytest.approx(want, rel=1e-7)
