"""Every strategy equals its own closed form: not the truth where the formula is not the truth."""

import pytest
import torch
from hypergradients import after, differentiate, unrolled
from problems import FRAME, Problem, central, logistic, normal, relative, ridge, spd, two_levels
from trajectories import Steps, momentum

from bettyc.runtime.adjoint import Lower
from bettyc.runtime.report import SolveError
from bettyc.strategies import CG, Exact, FiniteDiff, Frozen, Minres, Neumann, Unroll

SOLVERS = [Exact(), CG(tol=1e-12), Minres(tol=1e-12)]


@pytest.mark.parametrize("strategy", SOLVERS)
def test_ridge_equals_the_closed_form(strategy):
    problem = ridge()
    found = differentiate(problem, Lower(strategy))

    assert relative(found.grad, problem.answer) < 1e-8
    assert found.reports[0].relative_residual < 1e-8
    assert found.reports[0].converged


@pytest.mark.parametrize("strategy", SOLVERS)
def test_logistic_equals_differences_of_the_solved_problem(strategy):
    problem = logistic()

    assert relative(differentiate(problem, Lower(strategy)).grad, problem.answer) < 1e-5


def test_neumann_equals_its_sum():
    problem = ridge()
    h, a, cross = (problem.extra[name] for name in ("h", "a", "cross"))
    lr, eye = 0.3, torch.eye(len(h), dtype=h.dtype)
    for terms in (1, 2, 7):
        u = sum(lr * torch.linalg.matrix_power(eye - lr * h, k) @ a for k in range(terms))
        found = differentiate(problem, Lower(Neumann(terms=terms, lr=lr)))

        assert relative(found.grad, -cross @ u) < 1e-8
        # without its last term, which is that residual
        residual = torch.linalg.matrix_power(eye - lr * h, terms - 1) @ a
        left = float(residual.norm() / a.norm())
        assert found.reports[0].relative_residual == pytest.approx(left, rel=1e-8)


def test_neumann_without_lr_converges():
    problem = ridge()
    found = differentiate(problem, Lower(Neumann(terms=400)))

    assert relative(found.grad, problem.answer) < 1e-6


def test_finite_diff_equals_its_quotient():
    problem = logistic()
    fit, tune = problem.objectives["fit"], problem.objectives["tune"]
    w, x, lr, eps = problem.theta["fit"], problem.theta["tune"], 0.05, 1e-2
    a = torch.func.grad(lambda w: tune.function({"fit": w, "tune": x}))(w)
    e = eps / a.norm()

    def upper(w):
        return torch.func.grad(lambda x: fit.function({"fit": w, "tune": x}))(x)

    expected = -lr * (upper(w + e * a) - upper(w - e * a)) / (2 * e)
    found = differentiate(problem, Lower(FiniteDiff(eps=eps), lr=lr))

    assert relative(found.grad, expected) < 1e-6


def test_finite_diff_scales_with_the_lower_learning_rate():
    problem = ridge()
    one = differentiate(problem, Lower(FiniteDiff(), lr=0.1)).grad
    two = differentiate(problem, Lower(FiniteDiff(), lr=0.2)).grad
    # ridge's lower objective is quadratic in w: the difference is exact
    expected = -0.1 * problem.extra["cross"] @ problem.extra["a"]

    assert relative(one, expected) < 1e-9
    assert relative(two, 2 * expected) < 1e-9


def test_finite_diff_without_a_learning_rate_names_the_cure():
    with pytest.raises(SolveError, match="choose cg or exact"):
        differentiate(ridge(), Lower(FiniteDiff()))


def unroll(problem: Problem, steps: Steps, options: Unroll) -> torch.Tensor:
    """The strategy's hypergradient at the end of the steps."""
    return differentiate(after(problem, steps), Lower(options, trajectory=steps)).grad


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("length", [1, 5, 10, 17])
def test_unroll_equals_explicit_steps_on_a_quadratic(length, recompute):
    h = spd(4, 5, seed=3)
    problem = two_levels(h)
    b_x, lr, eye = problem.extra["b_x"], 0.7, torch.eye(4, dtype=h.dtype)
    start = normal(4, seed=8)
    # w_T = (I - lr H)^T w_0 - sum_k (I - lr H)^k lr (B x + b)
    jacobian = -sum(lr * torch.linalg.matrix_power(eye - lr * h, k) @ b_x for k in range(length))
    w = torch.linalg.matrix_power(eye - lr * h, length) @ start - sum(
        lr
        * torch.linalg.matrix_power(eye - lr * h, k)
        @ (b_x @ problem.theta["up"] + problem.extra["b"])
        for k in range(length)
    )
    c = problem.theta["low"] - problem.extra["a"]
    expected = problem.theta["up"] + jacobian.T @ (w - c)

    found = unroll(problem, Steps(length, start, lr, [FRAME]), Unroll(recompute=recompute))

    assert relative(found, expected) < 1e-10


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", ["plain", "momentum", "copy", "lr", "copy momentum lr"])
def test_unroll_equals_autograd_through_the_steps(kind, recompute):
    problem = logistic()
    update, state = Steps.update, None
    if "momentum" in kind:
        update, state = momentum, {"speed": torch.zeros(5, dtype=torch.float64)}
    steps = Steps(
        7,
        (lambda t: 0.5 * t["tune"] + 1) if "copy" in kind else torch.zeros(5, dtype=torch.float64),
        (lambda t: 0.3 * torch.sigmoid(t["tune"][0])) if "lr" in kind else 0.4,
        [FRAME],
        update,
        state,
    )
    x = problem.theta["tune"].clone().requires_grad_()
    (expected,) = torch.autograd.grad(unrolled(problem, steps, x), [x])

    assert relative(unroll(problem, steps, Unroll(recompute=recompute)), expected) < 1e-10


def test_unroll_copied_start_is_not_counted_twice():
    # The objective reads the very variables that the level starts from (iMAML's proximal term).
    problem = two_levels(spd(3, 3, seed=1), uppers=3)
    steps = Steps(4, lambda t: t["up"], 0.3, [FRAME])
    x = problem.theta["up"].clone().requires_grad_()

    def oracle(x):
        theta = x
        for _ in range(4):
            h, b_x, b = (problem.extra[name] for name in ("h", "b_x", "b"))
            theta = theta - 0.3 * (h @ theta + b_x @ x + b)
        return problem.objectives["up"].function({"low": theta, "up": x})

    expected = central(oracle, x.detach())
    assert relative(unroll(problem, steps, Unroll()), expected) < 1e-8


@pytest.mark.parametrize("truncate", [1, 3, 6])
def test_unroll_truncated_keeps_the_last_steps(truncate):
    h = spd(4, 5, seed=3)
    problem = two_levels(h)
    lr, eye = 0.7, torch.eye(4, dtype=h.dtype)
    steps = Steps(6, torch.zeros(4, dtype=h.dtype), lr, [FRAME])
    full = unroll(problem, steps, Unroll())
    jacobian = [
        -lr * torch.linalg.matrix_power(eye - lr * h, k) @ problem.extra["b_x"] for k in range(6)
    ]
    w = sum(
        -lr
        * torch.linalg.matrix_power(eye - lr * h, k)
        @ (problem.extra["b_x"] @ problem.theta["up"] + problem.extra["b"])
        for k in range(6)
    )
    a = w - (problem.theta["low"] - problem.extra["a"])
    expected = problem.theta["up"] + sum(jacobian[:truncate]).T @ a

    for recompute in (False, True):
        found = unroll(problem, steps, Unroll(truncate=truncate, recompute=recompute))
        assert relative(found, expected) < 1e-10
    assert truncate == 6 or relative(full, expected) > 1e-3


def test_unroll_of_no_steps_differentiates_the_start():
    problem = two_levels(spd(3, 3, seed=1), uppers=3)
    found = unroll(problem, Steps(0, lambda t: 2 * t["up"], 0.3, [FRAME]), Unroll())
    a = 2 * problem.theta["up"] - (problem.theta["low"] - problem.extra["a"])

    assert relative(found, problem.theta["up"] + 2 * a) < 1e-12


def test_none_keeps_the_direct_part_only():
    problem = two_levels(spd(3, 3, seed=1))

    assert torch.equal(differentiate(problem, Lower(Frozen())).grad, problem.theta["up"])
