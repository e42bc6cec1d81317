"""Random problems: exact strategies equal dense algebra, series equal their sums, graphs their
closed forms.
"""

import pytest
import torch
from hypergradients import after, differentiate
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nonlinear import curved
from problems import FRAME, normal, relative, spd, two_levels
from quadratics import build
from trajectories import Steps

from bettyc.runtime.adjoint import Lower, hypergradient
from bettyc.runtime.nesting import Nest
from bettyc.runtime.response import Point, Reduced
from bettyc.strategies import CG, Exact, Forward, Gmres, Minres, Neumann, OneStep, Unroll

FEW = settings(max_examples=25, deadline=None, derandomize=True)
MANY = settings(max_examples=60, deadline=None)
SEEDS = st.integers(0, 10_000)


@pytest.mark.parametrize("strategy", [Exact(), CG(tol=1e-14), Minres(tol=1e-14), Gmres(tol=1e-14)])
@FEW
@given(n=st.integers(1, 15), decades=st.floats(0, 6), seed=SEEDS)
def test_direct_and_krylov_strategies_equal_the_dense_solve(strategy, n, decades, seed):
    problem = two_levels(spd(n, 10**decades, seed), seed)

    assert relative(differentiate(problem, Lower(strategy)).grad, problem.answer) < 1e-8


@FEW
@given(n=st.integers(1, 8), decades=st.floats(0, 6), seed=SEEDS)
def test_an_indefinite_hessian_does_not_change_the_answer(n, decades, seed):
    q, _ = torch.linalg.qr(normal(n, n, seed=seed))
    signs = torch.sign(normal(n, seed=seed + 1))
    h = (q * signs * torch.logspace(0, -decades / 2, n, dtype=torch.float64)) @ q.T
    problem = two_levels(0.5 * (h + h.T), seed)
    for strategy in (Exact(), CG(tol=1e-13), Minres(tol=1e-13), Gmres(tol=1e-13)):
        assert relative(differentiate(problem, Lower(strategy)).grad, problem.answer) < 1e-8


@pytest.mark.parametrize("strategy", [Unroll(recompute=True), Forward()])
@settings(max_examples=4, deadline=None, derandomize=True)
@given(n=st.integers(1, 4), decades=st.floats(0, 2), seed=SEEDS)
def test_unrolling_to_convergence_equals_the_dense_solve(strategy, n, decades, seed):
    condition = 10**decades
    problem = two_levels(spd(n, condition, seed), seed)
    # the error shrinks by 1 - 1/condition per step
    steps = Steps(int(24 * condition) + 2, torch.zeros(n, dtype=torch.float64), 1.0, [FRAME])
    found = differentiate(after(problem, steps), Lower(strategy, trajectory=steps))

    assert relative(found.grad, problem.answer) < 1e-8


@FEW
@given(n=st.integers(1, 8), terms=st.integers(1, 12), lr=st.floats(0.01, 1.9), seed=SEEDS)
def test_neumann_equals_its_sum(n, terms, lr, seed):
    h = spd(n, 50, seed)
    problem = two_levels(h, seed)
    step = torch.eye(n, dtype=h.dtype) - lr * h
    u = sum(lr * torch.linalg.matrix_power(step, k) @ problem.extra["a"] for k in range(terms))
    expected = problem.theta["up"] - problem.extra["b_x"].T @ u

    assert relative(differentiate(problem, Lower(Neumann(terms, lr))).grad, expected) < 1e-8
    one = problem.theta["up"] - problem.extra["b_x"].T @ (lr * problem.extra["a"])
    assert relative(differentiate(problem, Lower(OneStep(), lr=lr)).grad, one) < 1e-8


@st.composite
def graphs(draw):
    """Two to five levels of one or two variables, with any stars downwards and values upwards."""
    count = draw(st.integers(2, 5))
    names = [f"l{i}" for i in range(count)]
    sizes = {name: draw(st.integers(1, 2)) for name in names}
    flags = st.booleans()
    stars = {q: tuple(r for r in names[:j] if draw(flags)) for j, q in enumerate(names)}
    values = {q: tuple(r for r in names[j + 1 :] if draw(flags)) for j, q in enumerate(names)}
    return build(sizes, stars, values, seed=draw(st.integers(0, 1000)))


def check_graph(problem, strategy):
    nest = Nest(
        {q: (q, *problem.stars[q], *problem.values[q]) for q in problem.order}, problem.order
    )
    for root in problem.order:
        try:
            direct, total = nest.sweep(root), nest.sweep(root, frozenset(problem.order))
        except ValueError:
            assume(False)
        # everything below root at its solution for random values of everything else
        matrix, shift = problem.response(root)
        z = matrix @ normal(len(shift), seed=7) + shift
        at = problem.problem(z)
        point = Point(nest, at.objectives, at.frames, at.theta)
        shared = {"objectives": at.objectives, "theta": at.theta, "frames": at.frames}
        lowers = {p.level: Lower(strategy) for p in direct}
        found = hypergradient(root, **shared, lowers=lowers, pulls=direct)
        expected = problem.direct_answer(root, z)
        assert float((found.grad - expected).norm()) <= 1e-8 * max(float(expected.norm()), 0.01)
        assert len(found.reports) <= len(problem.below(root))
        lowers = {p.level: Lower(strategy, reduced=Reduced(p.level, point)) for p in total}
        found = hypergradient(root, **shared, lowers=lowers, pulls=total)
        expected = problem.nested_answer(root, z)
        assert float((found.grad - expected).norm()) <= 1e-8 * max(float(expected.norm()), 0.01)


@FEW
@given(problem=graphs())
def test_any_graph_of_quadratics(problem):
    check_graph(problem, Exact())


@pytest.mark.parametrize("strategy", [CG(tol=1e-14), Minres(tol=1e-14), Gmres(tol=1e-14)])
@settings(max_examples=6, deadline=None, derandomize=True)
@given(problem=graphs())
def test_krylov_strategies_on_any_graph_of_quadratics(strategy, problem):
    check_graph(problem, strategy)


def check_unrolled_graph(problem, strategy):
    """Every level below a root after 120 gradient steps of length 1 with the others held still; the
    error is (1 - 1/condition)^120 = 2e-12. Total curvature where a level is no function of itself
    through those that it stars: the others' steps would each be a hypergradient (MLO0612).
    """
    nest = Nest(
        {q: (q, *problem.stars[q], *problem.values[q]) for q in problem.order}, problem.order
    )
    for root in problem.order:
        try:
            direct, total = nest.sweep(root), nest.sweep(root, frozenset(problem.order))
        except ValueError:
            assume(False)
        matrix, shift = problem.response(root)
        z = matrix @ normal(len(shift), seed=7) + shift
        at = problem.problem(z)
        point = Point(nest, at.objectives, at.frames, at.theta)
        shared = {"objectives": at.objectives, "theta": at.theta, "frames": at.frames}

        def unrolled(level, at=at):
            start = torch.zeros_like(at.theta[level])
            return Lower(strategy, trajectory=Steps(120, start, 1.0, [FRAME]))

        lowers = {p.level: unrolled(p.level) for p in direct}
        found = hypergradient(root, **shared, lowers=lowers, pulls=direct)
        expected = problem.direct_answer(root, z)
        assert float((found.grad - expected).norm()) <= 1e-8 * max(float(expected.norm()), 0.01)
        lowers = {
            p.level: Lower(Exact(), reduced=Reduced(p.level, point))
            if nest.inner(p.level)
            else unrolled(p.level)
            for p in total
        }
        found = hypergradient(root, **shared, lowers=lowers, pulls=total)
        expected = problem.nested_answer(root, z)
        assert float((found.grad - expected).norm()) <= 1e-8 * max(float(expected.norm()), 0.01)


@pytest.mark.parametrize("strategy", [Unroll(), Unroll(recompute=True), Forward()])
@settings(max_examples=8, deadline=None, derandomize=True)
@given(problem=graphs())
def test_unrolling_to_convergence_on_any_graph_of_quadratics(strategy, problem):
    check_unrolled_graph(problem, strategy)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [Unroll(), Unroll(recompute=True), Forward()])
@MANY
@given(problem=graphs())
def test_unrolling_on_very_many_graphs_of_quadratics(strategy, problem):
    check_unrolled_graph(problem, strategy)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [Exact(), CG(tol=1e-14), Minres(tol=1e-14), Gmres(tol=1e-14)])
@MANY
@given(problem=graphs())
def test_very_many_graphs_of_quadratics(strategy, problem):
    check_graph(problem, strategy)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(seed=SEEDS)
def test_total_equals_differences_of_random_curved_chains(seed):
    # weak enough for every level to be convex, so that there is one solution
    at = curved(seed, strength=0.1).problem(0.5 * normal(2, seed=seed))
    nest = Nest({n: f.reads for n, f in at.objectives.items()}, at.order)
    point = Point(nest, at.objectives, at.frames, at.theta)
    pulls = nest.sweep("top", frozenset(at.order))
    found = hypergradient(
        "top",
        objectives=at.objectives,
        theta=at.theta,
        frames=at.frames,
        lowers={p.level: Lower(Exact(), reduced=Reduced(p.level, point)) for p in pulls},
        pulls=pulls,
    )

    assert float((found.grad - at.answer).norm()) < 1e-6 * max(float(at.answer.norm()), 0.1)
