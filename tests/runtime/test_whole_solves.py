"""At -O2 a solve with a compiled Hessian product is one call of C: as step by step, as dense."""

from __future__ import annotations

import pytest
import torch
from toys import start

from bettyc.kernels import dispatch, native
from bettyc.runtime import compiled
from bettyc.runtime.passes import Curvature

PROGRAM = """
mlo 0.1
dim n, d
data train : { x: real[n, d] } from memory()
level fit {
  VARIABLES
  minimize LOSS
  optimizer = sgd(lr = 0.05)
  steps = 4
  start = reset
  hypergrad = STRATEGY
}
level tune {
  var decay : real[d] = fill(-1.0)
  minimize sumsq(READ - 0.3) + 0.01 * sumsq(decay)
  optimizer = sgd(lr = 0.1)
}
run { steps = 3  precision = fp64 }
"""
# name -> (variables, objective): one variable of the level's size, and several
LEVELS = {
    "one": (
        "var w : real[d] = fill(0.1)",
        "mean(softplus(train.x @ w)) + sum(exp(tune.decay) * w^2) + sumsq(w[1:d] - w[0:d - 1])",
    ),
    "several": (
        "var w : real[d] = fill(0.1)\n  var b : real = 0.2",
        "mean(softplus(train.x @ w + b)) + sum(exp(tune.decay) * w^2) + 0.3 * b^2",
    ),
}  # fmt: skip
STRATEGIES = [
    "cg(iters = 3)", "cg(iters = 3, damping = 0.2)", "cg(tol = 1e-11)",
    "cg(iters = 2, warm = true)", "neumann(terms = 6, lr = 0.1)", "neumann(terms = 5)",
    "neumann(terms = 4, lr = 20.0)",
]  # fmt: skip


def data():
    g = torch.Generator().manual_seed(3)
    return {"train": {"x": torch.randn(40, 5, generator=g, dtype=torch.float64)}}


def begun(name, strategy, opt, read="fit*.w"):
    variables, loss = LEVELS[name]
    text = PROGRAM.replace("VARIABLES", variables).replace("LOSS", loss).replace("READ", read)
    text = text.replace("STRATEGY", strategy)
    return start(text, data(), opt=opt)


@pytest.fixture
def calls(monkeypatch):
    """Whole solves by their name."""
    if native.library() is None:
        pytest.skip(native.reason())
    monkeypatch.setattr(compiled, "REPAID", 0)
    found = []
    for method in ("solve", "series"):
        original = getattr(Curvature, method)

        def spy(self, *args, original=original, method=method, **options):
            made = original(self, *args, **options)
            found.append(method if made is not None else None)
            return made

        monkeypatch.setattr(Curvature, method, spy)
    with dispatch.use("auto"):
        yield found


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", LEVELS)
def test_it_reports_and_gives_what_single_steps_do(calls, name, strategy):
    run, plain = begun(name, strategy, 2), begun(name, strategy, 0)
    for _ in range(2):  # the second solve may start from the first
        got, want = run.hypergrad("tune"), plain.hypergrad("tune")
        assert torch.allclose(got.flat, want.flat, rtol=1e-8, atol=1e-12)
        (report,), (told,) = got.report, want.report
        for key in ("iterations", "converged", "severe", "strategy"):
            assert getattr(report, key) == getattr(told, key), key
        assert (report.note == "") == (told.note == "")
        assert report.min_ritz == pytest.approx(told.min_ritz, rel=1e-6)
        assert report.relative_residual == pytest.approx(
            told.relative_residual, rel=1e-3, abs=1e-10
        )
    assert calls
    assert set(calls) == {"solve" if strategy.startswith("cg") else "series"}


@pytest.mark.parametrize("name", LEVELS)
def test_it_is_the_dense_solution(calls, name):
    run = begun(name, "cg(tol = 1e-12)", 2)
    got = run.hypergrad("tune").flat
    decay = run["tune"].decay
    theta = torch.full((6,) if name == "several" else (5,), 0.1, dtype=torch.float64)
    theta[5:] = 0.2
    x = data()["train"]["x"]

    def lower(t, r):
        bias = t[5] if name == "several" else 0.0
        loss = torch.nn.functional.softplus(x @ t[:5] + bias).mean() + (r.exp() * t[:5] ** 2).sum()
        return loss + (0.3 * t[5] ** 2 if name == "several" else ((t[1:] - t[:-1]) ** 2).sum())

    for _ in range(4):
        theta = theta - 0.05 * torch.func.grad(lower)(theta, decay)
    h = torch.func.jacrev(torch.func.grad(lower))(theta, decay)
    cross = torch.func.jacrev(torch.func.grad(lower), argnums=1)(theta, decay)
    a = torch.zeros_like(theta)
    a[:5] = 2 * (theta[:5] - 0.3)
    want = 0.02 * decay - cross.T @ torch.linalg.solve(h, a)
    assert torch.allclose(got, want, rtol=1e-9)
    assert calls == ["solve"]


def test_products_are_counted(calls):
    run = begun("several", "cg(iters = 3)", 2)
    (report,) = run.hypergrad("tune").report
    assert report.products == report.iterations == 3  # none on the residual: rounding is far below
    (report,) = begun("several", "neumann(terms = 6, lr = 0.1)", 2).hypergrad("tune").report
    assert report.products == 5


def test_a_zero_right_hand_side_costs_nothing(calls):
    for strategy in ("cg(iters = 3)", "neumann(terms = 6, lr = 0.1)", "neumann(terms = 3)"):
        run = begun("one", strategy, 2, read="relu(fit*.w - 9)")
        got = run.hypergrad("tune")
        assert torch.equal(got.flat, 0.02 * run["tune"].decay)
        assert got.report[0].relative_residual == 0
        assert got.report[0].products == 0
