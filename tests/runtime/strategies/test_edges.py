"""Where libraries divide by zero: every strategy against its formula, on every awkward system.

On 1/2 w.Hw + w.Bx + b.w every strategy is a u with hypergradient x - B^T u; the table below says
which.
"""

import math

import pytest
import torch
from hypergradients import after, differentiate
from problems import FRAME, Formula, Problem, normal, quadratic, relative, spd
from rows import LR, ROWS, STEPS, Case
from torch import Tensor
from trajectories import Steps

from bettyc.plan import Pull
from bettyc.runtime.adjoint import Lower
from bettyc.runtime.report import SolveError
from bettyc.strategies import (
    CG,
    STRATEGIES,
    Auto,
    FixedPoint,
    Gmres,
    Minres,
    Neumann,
    Unroll,
)


def case(h: Tensor, zero: bool = False, inside: bool = False) -> tuple[Problem, Case, Steps]:
    """A two-level problem after a few gradient steps. zero: no adjoint. inside: the adjoint in H's
    range.
    """
    n = len(h)
    b_x, b, x = normal(n, 2, seed=1), normal(n, seed=2), normal(2, seed=3)
    a = h @ normal(n, seed=4) if inside else normal(n, seed=4)
    a = torch.zeros_like(a) if zero else a
    steps = Steps(STEPS, normal(n, seed=5), LR, [FRAME])
    low = Formula("low", ("low", "up"), lambda t: quadratic(h, b_x, b, t["low"], t["up"]))
    shell = Problem({"low": low}, {"low": steps.start, "up": x}, ("low", "up"))
    w = after(shell, steps).theta["low"]
    up = Formula(
        "up",
        ("up", "low"),
        lambda t: 0.5 * (t["low"] - (w - a)).square().sum() + 0.5 * t["up"].square().sum(),
    )
    problem = Problem(
        {"low": low, "up": up},
        {"low": w, "up": x},
        ("low", "up"),
        (Pull("low", ("up",)),),
        extra={"b_x": b_x},
    )
    return problem, Case(h, a, w, h @ w + b_x @ x + b), steps


def rank_deficient(n: int = 5) -> Tensor:
    q, _ = torch.linalg.qr(normal(n, n, seed=7))
    values = torch.tensor([1.0, 0.7, 0.4, 0.0, 0.0], dtype=torch.float64)
    return (q * values) @ q.T


def saddle(n: int = 5) -> Tensor:
    q, _ = torch.linalg.qr(normal(n, n, seed=8))
    values = torch.tensor([1.0, 0.7, 0.4, 0.3, -0.2], dtype=torch.float64)
    return (q * values) @ q.T


CASES = {
    "regular": (spd(5, 4, seed=9), {}),
    "isotropic": (2 * torch.eye(5, dtype=torch.float64), {}),
    # one step solves it: all that comes after is 0/0 if it is not looked at
    "solved in a step": (torch.eye(5, dtype=torch.float64) / LR, {}),
    "diagonal": (torch.diag(torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)), {}),
    "scalar": (torch.tensor([[0.8]], dtype=torch.float64), {}),
    "empty": (torch.zeros(0, 0, dtype=torch.float64), {}),
    "zero rhs": (spd(5, 4, seed=9), {"zero": True}),
    "indefinite": (saddle(), {}),
    "singular, rhs in range": (rank_deficient(), {"inside": True}),
    "singular": (rank_deficient(), {}),
    "unused variable": (torch.diag(torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)), {}),
    "zero Hessian": (torch.zeros(3, 3, dtype=torch.float64), {}),
}
# On these gmres gives the least-squares solution, not the one of least norm, and warns.
OUTSIDE = {"singular", "unused variable", "zero Hessian"}


def test_every_strategy_has_a_row():
    assert set(ROWS) == {name for name, cls in STRATEGIES.items() if cls is not Auto}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("which", CASES)
def test_defined_answer(which, name):
    h, kind = CASES[which]
    options, answer = ROWS[name]
    problem, system, steps = case(h, **kind)
    lower = Lower(options, lr=LR, trajectory=steps)
    found = differentiate(problem, lower)

    assert torch.isfinite(found.grad).all()
    report = found.reports[0]
    if name == "gmres" and which in OUTSIDE:
        assert report.severe
        assert not report.converged
        return
    if answer is not None:
        u = answer(system)
        expected = problem.theta["up"] - problem.extra["b_x"].T @ u
        assert relative(found.grad, expected) < 1e-9
        if report.relative_residual is not None and len(h):
            if name == "neumann":  # of the sum without its last term
                u = system.series(5)
            left = float((h @ u - system.a).norm()) / max(float(system.a.norm()), 1e-300)
            assert math.isclose(
                report.relative_residual, min(left, 1e300), rel_tol=1e-6, abs_tol=1e-9
            )
    for value in (report.relative_residual, report.min_ritz, report.bound):
        assert value is None or math.isfinite(value)


@pytest.mark.parametrize("name", ["exact", "cg", "minres", "nystrom"])
@pytest.mark.parametrize("which", ["indefinite", "singular", "unused variable", "zero Hessian"])
def test_fallback_warns(which, name):
    options, _ = ROWS[name]
    problem, _, steps = case(CASES[which][0])
    report = differentiate(problem, Lower(options, lr=LR, trajectory=steps)).reports[0]

    if name == "minres" and which == "indefinite":
        assert report.converged
        assert not report.severe  # minres is made for it
    elif name == "nystrom" and which != "indefinite":
        assert not report.severe  # the damped system is regular
    else:
        assert report.severe
        assert report.note


def test_neumann_names_an_indefinite_hessian():
    problem, _, _ = case(-saddle())
    with pytest.raises(SolveError, match="indefinite"):
        differentiate(problem, Lower(Neumann(terms=20)))
    report = differentiate(problem, Lower(Neumann(terms=2, lr=1e-4))).reports[0]
    assert report.severe
    assert report.min_ritz < 0


def test_neumann_with_too_large_a_step_takes_a_smaller_one_and_warns():
    problem, system, _ = case(spd(5, 4, seed=9))
    found = differentiate(problem, Lower(Neumann(terms=300, lr=5.0)))
    expected = problem.theta["up"] - problem.extra["b_x"].T @ system.inverse()

    assert found.reports[0].severe
    assert relative(found.grad, expected) < 1e-9


def test_fixed_point_that_is_no_contraction_is_an_error():
    problem, _, steps = case(-5 * torch.eye(3, dtype=torch.float64))
    with pytest.raises(SolveError, match="contraction"):
        differentiate(problem, Lower(FixedPoint(iters=100), trajectory=steps))


@pytest.mark.parametrize(("strategy", "tol"), [(CG, 0.0), (Minres, 1e-14), (Gmres, 1e-14)])
def test_iterations_past_convergence(strategy, tol):
    problem, system, _ = case(2 * torch.eye(5, dtype=torch.float64))
    for iters in (1, 2, 5):
        found = differentiate(problem, Lower(strategy(iters=iters, tol=tol)))
        expected = problem.theta["up"] - problem.extra["b_x"].T @ (system.a / 2)

        assert relative(found.grad, expected) < 1e-15
        assert not found.reports[0].severe


@pytest.mark.parametrize(
    "options",
    [
        Neumann(terms=40, lr=LR),
        FixedPoint(iters=40, tol=0.0),
        FixedPoint(iters=40),
        Unroll(recompute=True),
        Unroll(truncate=1),
    ],
    ids=str,
)
def test_series_and_replays_past_convergence(options):
    """H = I / lr: the first term, or step, is all there is, and the later ones are zero."""
    problem, system, steps = case(torch.eye(5, dtype=torch.float64) / LR)
    found = differentiate(problem, Lower(options, lr=LR, trajectory=steps))
    expected = problem.theta["up"] - problem.extra["b_x"].T @ (LR * system.a)

    assert relative(found.grad, expected) < 1e-9
    assert torch.isfinite(found.grad).all()


def test_cg_after_k_steps_has_one_iterate_more_than_after_k_minus_one():
    # Some libraries drop the last iterate: k steps must be optimal over k dimensions.
    problem, system, _ = case(spd(5, 30, seed=9))
    h, a = system.h, system.a
    for k in (1, 2, 3):
        basis = torch.stack([torch.linalg.matrix_power(h, i) @ a for i in range(k)], 1)
        u = basis @ torch.linalg.solve(basis.T @ h @ basis, basis.T @ a)
        found = differentiate(problem, Lower(CG(iters=k, tol=0.0)))

        assert relative(found.grad, problem.theta["up"] - problem.extra["b_x"].T @ u) < 1e-10
        assert found.reports[0].iterations == k


@pytest.mark.parametrize("name", ROWS)
def test_objective_that_does_not_depend_on_its_level(name):
    options, _ = ROWS[name]
    problem, _, steps = case(torch.zeros(3, 3, dtype=torch.float64))
    up = problem.theta["up"]
    low = Formula("low", ("low", "up"), lambda t: t["up"].square().sum())
    problem = Problem(
        {**problem.objectives, "low": low}, problem.theta, problem.order, problem.pulls
    )

    found = differentiate(problem, Lower(options, lr=LR, trajectory=steps))

    if name != "penalty":
        assert torch.equal(found.grad, up)
    assert torch.isfinite(found.grad).all()


@pytest.mark.parametrize("name", ["cg", "minres", "gmres", "exact", "neumann", "nystrom"])
def test_a_product_that_is_not_finite_is_an_error(name):
    problem, _, _ = case(spd(5, 4, seed=9))
    h = spd(5, 4, seed=9) * float("nan")
    low = Formula("low", ("low", "up"), lambda t: t["low"] @ h @ t["low"] + t["up"].sum())
    problem = Problem(
        {**problem.objectives, "low": low}, problem.theta, problem.order, problem.pulls
    )
    with pytest.raises(SolveError, match="learning rate"):
        differentiate(problem, Lower(ROWS[name][0]))
