"""Betty's formulas, against the same written by hand on a logistic regression in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import bettyc
from bettyc.runtime.report import SolveError

TEXT = """
dim n, m, d
data train : {{ x: real[n, d], y: int<2>[n] }} from memory()
data val   : {{ x: real[m, d], y: int<2>[m] }} from memory()

level fit {{
  var w : real[d] = fill(0.1)
  minimize mean(bce(train.x @ w, train.y)) + 0.5 * sum(exp(tune.log_wd) * w^2)
  optimizer = {optimizer}
  {settings}
}}

level tune {{
  var log_wd : real[d] = fill(-1)
  minimize mean(bce(val.x @ fit*.w, val.y))
  optimizer = sgd(lr = 1)
}}

run {{ steps = 3  precision = fp64  compat = "betty" }}
"""
SGD = "sgd(lr = 0.1)"


def rows(count: int, seed: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 5, generator=g, dtype=torch.float64)
    return {"x": x, "y": torch.randint(2, (count,), generator=g)}


DATA = {"train": rows(20, 0), "val": rows(12, 1)}


def loss(part: str, w: Tensor) -> Tensor:
    data = DATA[part]
    return F.binary_cross_entropy_with_logits(data["x"] @ w, data["y"].double())


def inner(w: Tensor, log_wd: Tensor) -> Tensor:
    return loss("train", w) + 0.5 * (log_wd.exp() * w**2).sum()


def started(settings: str, optimizer: str = SGD) -> bettyc.Run:
    program = bettyc.loads(TEXT.format(optimizer=optimizer, settings=settings))
    return program.compile(data=DATA).start(seed=0)


class Here:
    """The two levels after some rounds: what Betty's formulas are made of, by autograd."""

    def __init__(self, run: bettyc.Run) -> None:
        self.w = run["fit"].w.detach().clone()
        self.log_wd = run["tune"].log_wd.detach().clone()
        self.found = run.hypergrad("tune", respond=False)["log_wd"]
        w = self.w.clone().requires_grad_()
        (self.a,) = torch.autograd.grad(loss("val", w), w)
        self.hessian = torch.autograd.functional.hessian(lambda v: inner(v, self.log_wd), self.w)

    def below(self, w: Tensor) -> Tensor:
        """The gradient of the lower objective in the upper variable."""
        log_wd = self.log_wd.clone().requires_grad_()
        return torch.autograd.grad(inner(w, log_wd), log_wd)[0]

    def difference(self, v: Tensor, radius: float) -> Tensor:
        eps = radius / (v.norm() + 1e-15)
        return (self.below(self.w - eps * v) - self.below(self.w + eps * v)) / (2 * eps)

    def cross(self, u: Tensor) -> Tensor:
        """-(dg/dlog_wd)^T u; the cross term is diagonal."""
        return -self.log_wd.exp() * self.w * u


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("radius", [0.01, 0.5])
def test_finite_diff_has_no_learning_rate(radius: float) -> None:
    run = started(f"steps = 2  hypergrad = finite_diff(eps = {radius})")
    run.step()
    here = Here(run)

    close(here.found, here.difference(here.a, radius))


def test_finite_diff_is_what_auto_means() -> None:
    run = started("steps = 2")
    run.step()
    here = Here(run)

    close(here.found, here.difference(here.a, 0.01))


@pytest.mark.parametrize(("options", "alpha"), [("terms = 6, lr = 0.5", 0.5), ("terms = 6", 1.0)])
def test_neumann_adds_its_terms(options: str, alpha: float) -> None:
    run = started(f"steps = 2  hypergrad = neumann({options})")
    run.step()
    here = Here(run)

    eye = torch.eye(5, dtype=torch.float64)
    series = sum(torch.linalg.matrix_power(eye - alpha * here.hessian, k) for k in range(6))
    close(here.found, here.cross(alpha * series @ here.a))


def test_neumann_goes_on_where_it_diverges_and_says_so() -> None:
    run = started("steps = 2  hypergrad = neumann(terms = 6, lr = 5.0)")
    run.step()
    here = Here(run)

    eye = torch.eye(5, dtype=torch.float64)
    series = sum(torch.linalg.matrix_power(eye - 5 * here.hessian, k) for k in range(6))
    close(here.found, here.cross(5 * series @ here.a))
    assert "diverges" in run.hypergrad("tune", respond=False).report[0].note


@pytest.mark.parametrize("iters", [1, 2, 4])
def test_cg_makes_directions_of_old_residuals(iters: int) -> None:
    run = started(f"steps = 2  hypergrad = cg(iters = {iters})")
    run.step()
    here = Here(run)

    x, r, p = torch.zeros_like(here.a), here.a, here.a
    for _ in range(iters):
        alpha = (r @ r) / (here.hessian @ p @ p)
        x = x + alpha * p
        new = r - alpha * here.hessian @ p
        p = r + (new @ new) / (r @ r) * p
        r = new
    close(here.found, here.cross(x))
    assert run.hypergrad("tune", respond=False).report[0].severe == (iters > 1)


def test_cg_without_iterations_takes_one_as_in_betty() -> None:
    run = started("steps = 2  hypergrad = cg")
    run.step()
    here = Here(run)

    close(here.found, here.cross((here.a @ here.a) / (here.hessian @ here.a @ here.a) * here.a))


def test_sama_of_sgd_is_a_difference_along_the_adjoint() -> None:
    run = started("steps = 2  hypergrad = sama(eps = 1.0)")
    run.step()
    here = Here(run)

    close(here.found, here.difference(here.a, 1.0))


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_sama_takes_the_derivative_of_adam_without_bias_correction(name: str) -> None:
    """P = du/dg for u = lr m(g) / sqrt(v(g)), by autograd; torch's optimizer gives m and v."""
    run = started(
        "steps = 4  hypergrad = sama(eps = 1.0)",
        f"{name}(lr = 0.05, betas = [0.8, 0.9], eps = 1e-14, weight_decay = 0)",
    )
    w = torch.full((5,), 0.1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([w], lr=0.05, betas=(0.8, 0.9), eps=1e-14)
    for _ in range(4):
        optimizer.zero_grad()
        before = {k: v.clone() for k, v in optimizer.state.get(w, {}).items()}
        inner(w, torch.full((5,), -1.0, dtype=torch.float64)).backward()
        optimizer.step()
    run.step()
    here = Here(run)
    torch.testing.assert_close(here.w, w.detach(), rtol=1e-12, atol=0)

    assert w.grad is not None
    g = w.grad.clone().requires_grad_()
    m = 0.8 * before["exp_avg"] + 0.2 * g
    v = 0.9 * before["exp_avg_sq"] + 0.1 * g * g
    (diagonal,) = torch.autograd.grad((0.05 * m / v.sqrt()).sum(), g)
    torch.testing.assert_close(
        here.found, here.difference(diagonal * here.a, 1.0), rtol=1e-8, atol=1e-12
    )


def test_what_is_not_finite_is_an_error() -> None:
    run = started("steps = 2  hypergrad = neumann(terms = 400, lr = 1e8)")

    with pytest.raises(SolveError, match="not finite"):
        run.step()


def test_what_is_detached_moves_along_in_a_difference() -> None:
    """dC/dt = v exp(t v) (w - 2)^2 with v = detach(w), which Betty computes anew at both points."""
    text = """
        level fit {
          var w : real = 0.5
          minimize exp(tune.t * detach(w)) * (w - 2)^2
          optimizer = sgd(lr = 0.1)
          hypergrad = finite_diff(eps = 0.3)
        }
        level tune { var t : real = 0.4  minimize (fit*.w - 1)^2  optimizer = sgd(lr = 0.1) }
        run { precision = fp64  compat = "betty" }
    """
    run = bettyc.loads(text).compile().start(seed=0)
    run.step()
    w, t = run["fit"].w.item(), run["tune"].t.item()

    def below(v: float) -> float:
        return v * math.exp(t * v) * (v - 2) ** 2

    a = 2 * (w - 1)
    expected = a * (below(w - 0.3) - below(w + 0.3)) / 0.6
    found = run.hypergrad("tune", respond=False)["t"].item()
    assert found == pytest.approx(expected, rel=1e-9)


def test_cg_stops_where_betty_divides_zero_by_zero() -> None:
    """One variable: solved in one step. Betty's third would be nan."""
    text = """
        level fit {
          var w : real = 0
          minimize (w - tune.t)^2
          optimizer = sgd(lr = 0.1)
          hypergrad = cg(iters = 3)
        }
        level tune { var t : real = 2  minimize (fit*.w - 1)^2  optimizer = sgd(lr = 0.1) }
        run { steps = 2  precision = fp64  compat = "betty" }
    """
    run = bettyc.loads(text).compile().start(seed=0)
    run.step()
    found = run.hypergrad("tune", respond=False)

    # dw/dt = 1 at the solution, whatever w is
    assert found["t"].item() == pytest.approx(2 * (run["fit"].w.item() - 1), rel=1e-12)
    assert "converged" in found.report[0].note
