"""What a report says is true: residuals, Ritz values, bounds, products; and the options of the
solvers.
"""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from hypergradients import differentiate
from problems import normal, relative, ridge, spd, two_levels

from bettyc.runtime.adjoint import Lower
from bettyc.runtime.objective import Frame
from bettyc.runtime.products import Products
from bettyc.runtime.strategies import cg
from bettyc.runtime.strategies.precondition import hutchinson
from bettyc.runtime.strategies.system import System
from bettyc.strategies import CG, Exact, Gmres, Minres, Neumann, Nystrom, OneStep, SingleLoop


def away(problem, seed=3):
    """The problem off its solution, so that a is a general vector."""
    n = problem.theta["low"].numel()
    return dataclasses.replace(problem, theta={**problem.theta, "low": normal(n, seed=seed)})


@pytest.mark.parametrize(
    "strategy",
    [
        CG(iters=3),
        Minres(iters=3),
        Gmres(iters=3),
        Neumann(terms=4, lr=0.5),
        Nystrom(rank=2),
        OneStep(),
    ],
)
def test_the_bound_holds_and_is_the_residual_over_mu(strategy):
    h = spd(6, 10, seed=1)
    problem = away(two_levels(h, uppers=6))
    b_x = problem.extra["b_x"]
    a = problem.theta["low"] - (two_levels(h, uppers=6).theta["low"] - problem.extra["a"])
    found = differentiate(problem, Lower(strategy, mu=0.1, lr=0.3))
    u = torch.linalg.solve(b_x.T, problem.theta["up"] - found.grad)
    report = found.reports[0]

    assert report.relative_residual == pytest.approx(float((h @ u - a).norm() / a.norm()), rel=1e-6)
    assert report.bound == pytest.approx(float((h @ u - a).norm()) / 0.1, rel=1e-6)
    assert float((u - torch.linalg.solve(h, a)).norm()) <= report.bound
    assert 0.1 - 1e-9 <= report.min_ritz <= 1 + 1e-9


@pytest.mark.parametrize("strategy", [CG(tol=1e-12), Minres(tol=1e-12)])
def test_the_smallest_ritz_value_reaches_the_smallest_eigenvalue(strategy):
    report = differentiate(two_levels(spd(6, 10, seed=1)), Lower(strategy)).reports[0]

    assert report.min_ritz == pytest.approx(0.1, rel=1e-6)


def test_products_are_counted():
    problem = two_levels(spd(6, 10, seed=1))
    for certify, extra in ((True, 1), (False, 0)):
        report = differentiate(problem, Lower(CG(tol=1e-15)), certify=certify).reports[0]
        assert report.products == report.iterations + extra
        # rounding is far below the residual: the true one would say nothing new
        report = differentiate(problem, Lower(CG(iters=3)), certify=certify).reports[0]
        assert report.iterations == report.products == 3
        # the series knows a residual, and only a bound takes the product
        for mu, more in ((None, 0), (0.1, extra)):
            lower = Lower(Neumann(terms=4, lr=0.3), mu=mu)
            assert differentiate(problem, lower, certify=certify).reports[0].products == 3 + more
    assert differentiate(problem, Lower(Exact())).reports[0].products <= 6 + 2


@pytest.mark.parametrize("iters", [3, 10, 40, 100])
@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_a_residual_without_a_product_of_its_own_is_the_true_one(iters, damping):
    """In float32, badly conditioned, so that the recursion and the truth come apart."""
    h, a = spd(40, 1e5, seed=1).float(), normal(40, seed=2).float()
    system = SimpleNamespace(
        level="low", rhs=a, theta={"low": a}, objective=None, warm={}, certify=True, size=40,
        for_solver=lambda: lambda v: h @ v, certificate=lambda u: h @ u,
    )  # fmt: skip
    found = cg.solve(system, CG(iters=iters, tol=0.0, damping=damping))
    left = h.double() @ found.u.double() - a.double()

    assert found.residual == pytest.approx(float(left.norm()), rel=0.1)


def test_damping_is_part_of_the_system():
    h = spd(5, 10, seed=1)
    problem = two_levels(h)
    eye = torch.eye(5, dtype=h.dtype)
    u = torch.linalg.solve(h + 0.3 * eye, problem.extra["a"])
    expected = problem.theta["up"] - problem.extra["b_x"].T @ u
    for strategy in (CG(tol=1e-13, damping=0.3), Minres(tol=1e-13, damping=0.3)):
        found = differentiate(problem, Lower(strategy))
        left = float((h @ u - problem.extra["a"]).norm() / problem.extra["a"].norm())
        assert relative(found.grad, expected) < 1e-10
        assert found.reports[0].relative_residual == pytest.approx(left, rel=1e-6)
        assert found.reports[0].converged
        assert found.reports[0].min_ritz == pytest.approx(0.1, rel=1e-6)
    assert (
        relative(differentiate(problem, Lower(Gmres(tol=1e-13, damping=0.3))).grad, expected)
        < 1e-10
    )


def test_damping_makes_an_indefinite_system_definite():
    h = spd(5, 10, seed=1) - 0.2 * torch.eye(5, dtype=torch.float64)
    problem = two_levels(h)
    assert differentiate(problem, Lower(CG(tol=1e-10))).reports[0].severe
    assert not differentiate(problem, Lower(CG(tol=1e-10, damping=0.3))).reports[0].severe


def scaled(n=40):
    """A Hessian that is badly scaled along the axes, with a little coupling."""
    scale = torch.logspace(0, 4, n, dtype=torch.float64).sqrt()
    core = torch.eye(n, dtype=torch.float64) + 0.1 * spd(n, 10, seed=2)
    return scale[:, None] * core * scale


@pytest.mark.parametrize("precond", ["diagonal", "optimizer"])
def test_a_diagonal_preconditioner_saves_steps_on_bad_scales(precond):
    h = scaled()
    problem = two_levels(h)
    lower = Lower(CG(tol=1e-8), scale=h.diagonal().clone())
    plain = differentiate(problem, lower)
    lower = dataclasses.replace(lower, strategy=CG(tol=1e-8, precond=precond))
    helped = differentiate(problem, lower)

    assert relative(helped.grad, problem.answer) < 1e-5
    assert helped.reports[0].iterations < plain.reports[0].iterations / 3
    assert helped.reports[0].min_ritz >= float(torch.linalg.eigvalsh(h)[0]) * (1 - 1e-9)


def test_a_nystrom_preconditioner_saves_steps_on_a_decaying_spectrum():
    q, _ = torch.linalg.qr(normal(60, 60, seed=4))
    values = torch.cat([torch.logspace(3, 1, 8), torch.linspace(1.0, 0.5, 52)]).double()
    problem = two_levels((q * values) @ q.T)
    plain = differentiate(problem, Lower(CG(tol=1e-8)))
    helped = differentiate(problem, Lower(CG(tol=1e-8, precond="nystrom", probes=12)))

    assert relative(helped.grad, problem.answer) < 1e-6
    assert helped.reports[0].iterations < 0.6 * plain.reports[0].iterations


def test_hutchinson_is_unbiased():
    h = spd(6, 10, seed=1)
    problem = two_levels(h)
    system = System(
        "low", "up", problem.objectives["low"], problem.theta, Frame({}), problem.extra["a"], ()
    )
    spread = (2 * (h.square().sum(1) - h.diagonal().square())).sqrt()
    error = (hutchinson(system, 4000) - h.diagonal()).abs()

    assert bool((error < 4 * spread / 4000**0.5).all())


def test_a_warm_start_continues_from_the_last_solution():
    problem = two_levels(spd(20, 100, seed=1))
    lower = Lower(CG(tol=1e-10, warm=True))
    first = differentiate(problem, lower)
    again = differentiate(problem, lower, memory=first.memory)
    moved = dataclasses.replace(
        problem, theta={**problem.theta, "low": 1.001 * problem.theta["low"]}
    )
    near = differentiate(moved, lower, memory=first.memory)

    assert set(first.memory) == {"up/low/u"}
    assert again.reports[0].iterations == 0
    assert relative(again.grad, problem.answer) < 1e-8
    assert near.reports[0].iterations < first.reports[0].iterations
    cold = differentiate(moved, Lower(CG(tol=1e-12)))
    assert relative(near.grad, cold.grad) < 1e-7


def test_warm_few_steps_add_up():
    problem = two_levels(spd(12, 30, seed=1))
    memory = {}
    for _ in range(60):
        found = differentiate(problem, Lower(CG(iters=2, warm=True)), memory=memory)
        memory = found.memory

    assert relative(found.grad, problem.answer) < 1e-6


def test_restarts_repair_the_rounding_of_minres():
    problem = two_levels(spd(12, 1e6, seed=3), 3)
    report = differentiate(problem, Lower(Minres(tol=1e-9))).reports[0]

    assert report.converged
    assert report.relative_residual < 1e-9


def test_cg_says_where_rounding_is_in_the_way():
    problem = two_levels(spd(12, 1e6, seed=1))
    found = differentiate(problem, Lower(CG(tol=1e-14)))
    report = found.reports[0]

    assert relative(found.grad, problem.answer) < 1e-8
    assert not report.converged
    assert 1e-14 < report.relative_residual < 1e-9
    assert "rounding" in report.note
    assert not report.severe


def test_cg_that_runs_out_of_its_own_steps_warns():
    problem = two_levels(spd(200, 1e8, seed=1))
    report = differentiate(problem, Lower(CG(tol=1e-12))).reports[0]
    asked = differentiate(problem, Lower(CG(tol=1e-12, iters=5))).reports[0]

    assert (report.iterations, report.converged, report.severe) == (1000, False, True)
    assert "raise `iters`" in report.note
    assert (asked.iterations, asked.converged, asked.severe) == (5, False, False)


@pytest.mark.parametrize("name", ["minres", "gmres"])
def test_minimal_residual_methods_are_optimal_after_k_steps(name):
    problem = two_levels(spd(6, 30, seed=9))
    h, a = problem.extra["h"], problem.extra["a"]
    for k in (1, 2, 3, 4):
        krylov = torch.stack([torch.linalg.matrix_power(h, i) @ a for i in range(k)], 1)
        u = krylov @ torch.linalg.lstsq(h @ krylov, a[:, None]).solution[:, 0]
        options = {"minres": Minres, "gmres": Gmres}[name](iters=k, tol=0.0)
        found = differentiate(problem, Lower(options))

        assert relative(found.grad, problem.theta["up"] - problem.extra["b_x"].T @ u) < 1e-8
        assert found.reports[0].iterations == k


def test_low_rank_hessian_is_recovered_by_a_sketch_of_its_rank():
    c = normal(10, 3, seed=5)
    problem = away(two_levels(c @ c.T))
    h, b_x = problem.extra["h"], problem.extra["b_x"]
    a = problem.theta["low"] - (two_levels(c @ c.T).theta["low"] - problem.extra["a"])
    u = torch.linalg.solve(h + 0.1 * torch.eye(10, dtype=h.dtype), a)
    expected = problem.theta["up"] - b_x.T @ u

    assert relative(differentiate(problem, Lower(Nystrom(3, 0.1))).grad, expected) < 1e-10
    assert relative(differentiate(problem, Lower(Nystrom(2, 0.1))).grad, expected) > 1e-3


def test_dense_hessian_equals_autograd():
    problem = ridge()
    products = Products(problem.objectives["fit"], problem.theta, Frame({}), ("tune",))

    assert relative(products.dense(), problem.extra["h"]) < 1e-13
    assert relative(products.dense(chunk=2), problem.extra["h"]) < 1e-13
    v = normal(6, seed=1)
    assert relative(products.cross(v)["tune"], problem.extra["cross"] @ v) < 1e-12


def test_an_operator_that_cannot_be_batched_gives_the_same_hessian():
    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, g):
            return 3 * g * ctx.saved_tensors[0] ** 2

    problem = two_levels(spd(4, 3, seed=1))
    low = problem.objectives["low"]
    own = type(low)("low", ("low", "up"), lambda t: low.function(t) + Cube.apply(t["low"]).sum())
    h = problem.extra["h"] + torch.diag(6 * problem.theta["low"])

    assert relative(Products(own, problem.theta, Frame({})).dense(), h) < 1e-12


def test_soba_follows_its_recursion():
    h = spd(4, 5, seed=2)
    problem = two_levels(h)
    a, b_x = problem.extra["a"], problem.extra["b_x"]
    u, memory = torch.zeros(4, dtype=h.dtype), {}
    for _ in range(5):
        found = differentiate(problem, Lower(SingleLoop(lr=0.4)), memory=memory)
        assert relative(found.grad, problem.theta["up"] - b_x.T @ u) < 1e-12
        u, memory = u - 0.4 * (h @ u - a), found.memory


def test_ma_soba_averages_the_whole_direction():
    h = spd(4, 5, seed=2)
    problem = two_levels(h)
    a, b_x = problem.extra["a"], problem.extra["b_x"]
    u, d, memory = torch.zeros(4, dtype=h.dtype), None, {}
    for _ in range(5):
        found = differentiate(
            problem, Lower(SingleLoop("ma_soba", lr=0.4, average=0.25)), memory=memory
        )
        direction = problem.theta["up"] - b_x.T @ u
        d = direction if d is None else 0.75 * d + 0.25 * direction
        assert relative(found.grad, d) < 1e-12
        u, memory = u - 0.4 * (h @ u - a), found.memory


def test_the_certificate_brings_the_cross_terms(monkeypatch):
    """One backward gives both; a direction that was changed since, or another one, gets its own."""
    problem = away(two_levels(spd(6, 10, seed=1), uppers=6))
    objective, frame = problem.objectives["low"], problem.frames["low"]
    calls = []
    back = Products._back
    monkeypatch.setattr(
        Products,
        "_back",
        lambda self, inputs, v: calls.append(len(inputs)) or back(self, inputs, v),
    )
    made = Products(objective, problem.theta, frame, ("up",))
    u = normal(6, seed=5)
    h_u, crossed = made.certificate(u), made.cross(u)["up"]
    assert calls == [2]
    assert relative(h_u, made.hvp(u)) < 1e-14
    assert relative(crossed, made.cross(u.clone())["up"]) < 1e-14
    u.mul_(2)
    assert relative(made.cross(u)["up"], 2 * crossed) < 1e-14
    assert calls == [2, 1, 1, 1]
