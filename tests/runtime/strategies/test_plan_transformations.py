"""single_loop and penalty: what they do per update, and where their runs end up."""

import dataclasses

import pytest
import torch
from hypergradients import differentiate
from problems import normal, relative, ridge, spd, two_levels

from bettyc.plan import Pull
from bettyc.runtime.adjoint import Lower
from bettyc.runtime.report import SolveError
from bettyc.strategies import Penalty, SingleLoop


def test_f2sa_error_falls_as_one_over_the_weight():
    problem = two_levels(spd(4, 5, seed=2))
    errors = []
    for weight in (1e2, 1e3, 1e4):
        lower = Lower(Penalty(weight=weight, steps=400, lr=0.8))
        errors.append(relative(differentiate(problem, lower).grad, problem.answer))

    assert errors[0] < 0.05
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.1)
    assert errors[2] == pytest.approx(errors[1] / 10, rel=0.1)


def test_f2sa_keeps_its_copy_and_raises_its_weight():
    problem = two_levels(spd(4, 5, seed=2))
    lower = Lower(Penalty(weight=100.0, growth=50.0, steps=200), lr=0.8)
    first = differentiate(problem, lower)
    second = differentiate(problem, lower, memory=first.memory)

    assert float(second.memory["up/low/weight"]) == 200.0
    assert set(second.memory) == {"up/low/y", "up/low/weight"}
    assert relative(second.grad, problem.answer) < relative(first.grad, problem.answer)


def test_f2sa_uses_the_root_objective_itself_where_only_the_root_reads_the_level():
    # A root objective that is not quadratic, and depends on both arguments at once.
    problem = two_levels(spd(4, 5, seed=2))
    h, b_x, b = (problem.extra[n] for n in ("h", "b_x", "b"))
    x, z, w = problem.theta["up"], problem.theta["low"], 7.0

    def root(t):
        return (t["low"].sum() * t["up"].sum()).sin() + 0.1 * t["low"].pow(4).sum()

    up = dataclasses.replace(problem.objectives["up"], function=root)
    problem = dataclasses.replace(problem, objectives={**problem.objectives, "up": up})
    y = z
    for _ in range(3):
        g = torch.func.grad(lambda y: root({"low": y, "up": x}))(y)
        y = y - 0.2 * (h @ y + b_x @ x + b + g / w)
    expected = torch.func.grad(lambda x: root({"low": y, "up": x}))(x) + w * b_x.T @ (y - z)

    found = differentiate(problem, Lower(Penalty(weight=w, steps=3, lr=0.2)))
    assert relative(found.grad, expected) < 1e-12


def test_bome_direction():
    problem = two_levels(spd(4, 5, seed=2))
    h, b_x, b = (problem.extra[n] for n in ("h", "b_x", "b"))
    z, x = normal(4, seed=7), problem.theta["up"]
    problem = dataclasses.replace(problem, theta={"low": z, "up": x})
    c = two_levels(spd(4, 5, seed=2)).theta["low"] - problem.extra["a"]
    y = z
    for _ in range(6):
        y = y - 0.3 * (h @ y + b_x @ x + b)
    q = torch.cat([h @ z + b_x @ x + b, b_x.T @ (z - y)])
    f = torch.cat([z - c, x])
    m = max(0.5 - float(f @ q / (q @ q)), 0.0)
    expected = f + m * q

    found = differentiate(problem, Lower(Penalty("bome", steps=6, lr=0.3)))

    assert m > 0
    assert relative(found.grad, expected[4:]) < 1e-10
    assert relative(found.directions["low"], expected[:4]) < 1e-10


def test_bome_is_refused_where_another_adjoint_arrives():
    problem = two_levels(spd(4, 5, seed=2))
    middle = type(problem.objectives["low"])(
        "mid", ("mid", "low"), lambda t: (t["mid"] - t["low"]).square().sum()
    )
    up = dataclasses.replace(
        problem.objectives["up"],
        reads=("up", "low", "mid"),
        function=lambda t: (t["mid"] + t["low"]).square().sum(),
    )
    problem = dataclasses.replace(
        problem,
        objectives={"low": problem.objectives["low"], "mid": middle, "up": up},
        theta={**problem.theta, "mid": normal(4, seed=1)},
        pulls=(Pull("mid", ("low",)), Pull("low", ("up",))),
    )
    with pytest.raises(SolveError, match="read by `up` only"):
        differentiate(problem, Lower(Penalty("bome"), lr=0.1))


def value(problem, log_wd):
    """The reduced objective of ridge at log_wd, by a dense solve."""
    h = problem.extra["h"] - torch.diag(problem.theta["tune"].exp()) + torch.diag(log_wd.exp())
    rhs = problem.extra["h"] @ problem.theta["fit"]
    w = torch.linalg.solve(h, rhs)
    return float(problem.objectives["tune"].function({"fit": w, "tune": log_wd}))


def descend(problem, lower, updates, rate, inner=1):
    """A run as the executor does it: steps of the level, then one of the root."""
    theta, memory = {**problem.theta, "fit": torch.zeros_like(problem.theta["fit"])}, {}
    fit = problem.objectives["fit"]
    for _ in range(updates):
        for _ in range(inner):
            g = torch.func.grad(lambda w: fit.function({**theta, "fit": w}))(theta["fit"])
            theta["fit"] = theta["fit"] - lower.lr * g
        found = differentiate(dataclasses.replace(problem, theta=theta), lower, memory=memory)
        memory = found.memory
        theta["tune"] = theta["tune"] - rate * found.grad
        if found.directions:
            theta["fit"] = theta["fit"] - lower.lr * found.directions["fit"]
    return theta["tune"]


@pytest.fixture(scope="module")
def optimum():
    """The problem and the value that 800 steps along the closed form reach (within 1e-4 of the
    best).
    """
    problem = ridge(n=20, d=4)
    base = problem.extra["h"] - torch.diag(problem.theta["tune"].exp())
    rhs = problem.extra["h"] @ problem.theta["fit"]
    log_wd = problem.theta["tune"]
    for _ in range(800):
        h = base + torch.diag(log_wd.exp())
        w = torch.linalg.solve(h, rhs)
        at = {"tune": log_wd}
        a = torch.func.grad(lambda w: problem.objectives["tune"].function({"fit": w, **at}))(w)  # noqa: B023
        log_wd = log_wd + log_wd.exp() * w * torch.linalg.solve(h, a)
    return problem, value(problem, log_wd)


@pytest.mark.parametrize(
    ("strategy", "inner", "left"),
    [
        (SingleLoop(), 1, 0.005),
        (SingleLoop("ma_soba"), 1, 0.005),
        (Penalty(weight=100.0, steps=3), 3, 0.04),
        (Penalty("bome", steps=5), 0, 0.04),
    ],
)
def test_runs_reach_the_optimum(optimum, strategy, inner, left):
    problem, best = optimum
    start = value(problem, problem.theta["tune"])
    found = descend(problem, Lower(strategy, lr=0.3), 200, 2.0, inner)

    # what is left of the gap at the start
    assert (value(problem, found) - best) / (start - best) < left
