"""`hypergrad = score(...)` with policies over continuous actions, against closed forms: polynomial
rewards of normal actions, and linear-quadratic control.

`judge` averages the rewards a^3 - 2 a^2 + a of two actions a_k ~ N(m_k, s^2), m_k = x_k . pi in the
situations x_k. The expectation of that average is

    mean over k of  m_k^3 + 3 m_k s^2 - 2 (m_k^2 + s^2) + m_k

Its derivative is the expectation of polynomials of degree 5 in two normal numbers. The 36 pairs out
of (sqrt 3, -sqrt 3, 0, 0, 0, 0), which is Gauss-Hermite quadrature with equal weights, have that
expectation exactly: a source that deals them out makes the estimate exact.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

import bettyc

TEXT = """
dim S = 2, F = 2
extern source acted(policy: real[F], spread: real) : { x: real[S, F], a: real[S] } from "none:acted"

level judge {
  var v : real = 0
  draw b from acted(policy = actor.pi, spread = actor.log_spread)
  minimize 0.5 * (v - mean(b.a^3 - 2 * b.a^2 + b.a))^2
  optimizer = sgd(lr = 1)
  start     = reset
  hypergrad = score(
    log_prob = sum(normal_log_prob(b.a, b.x @ actor.pi, exp(actor.log_spread))),
    samples  = 36,
    baseline = BASELINE,
  )
}

level actor {
  var pi         : real[F] = zeros
  var log_spread : real    = 0
  maximize judge*.v
  optimizer = sgd(lr = 0.1)
}

run { precision = fp64 }
"""
SITUATIONS = torch.tensor([[1.0, 0.2], [0.5, -1.0]], dtype=torch.float64)
LQR = Path(__file__).parents[2] / "examples" / "lqr.mlo"


class Acted:
    """The two actions, with the next pair of noises at every call."""

    def __init__(self) -> None:
        root = 3**0.5
        self.noise = itertools.cycle(itertools.product((root, -root, 0, 0, 0, 0), repeat=2))

    def __call__(self, policy: Tensor, spread: Tensor) -> dict[str, Tensor]:
        noise = torch.tensor(next(self.noise), dtype=torch.float64)
        return {"x": SITUATIONS, "a": SITUATIONS @ policy + spread.exp() * noise}


@pytest.mark.parametrize(("baseline", "factor"), [("none", 1.0), ("leave_one_out", 36 / 35)])
@pytest.mark.parametrize(("pi", "log_spread"), [([0.4, -0.3], -0.5), ([-0.8, 0.6], 0.1)])
def test_the_gradient_of_a_normal_policy_is_that_of_the_expectation(
    pi: list[float], log_spread: float, baseline: str, factor: float
) -> None:
    """Dealt numbers are not independent: leaving one out gives 36 / 35 of the covariance."""
    text = TEXT.replace("BASELINE", baseline)
    run = bettyc.loads(text).compile(externs={"acted": Acted()}).start(seed=0)
    run["actor"].assign(pi=torch.tensor(pi).double(), log_spread=log_spread)
    found = run.hypergrad("actor")

    m = SITUATIONS @ torch.tensor(pi).double()
    v = torch.tensor(2 * log_spread).double().exp()
    by_mean = 3 * m**2 + 3 * v - 4 * m + 1
    torch.testing.assert_close(found["pi"], factor * by_mean @ SITUATIONS / 2)
    torch.testing.assert_close(found["log_spread"], factor * 2 * v * (3 * m - 2).mean())


# Linear-quadratic control -------------------------------------------------------------------------


@pytest.fixture
def lqr(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(LQR.parent)
    monkeypatch.delitem(sys.modules, "lqr", raising=False)
    import lqr

    return lqr


def test_riccati_is_that_of_scipy(lqr: Any) -> None:
    a, b = lqr.A.numpy(), lqr.B.numpy()[:, None]
    price = np.array([[lqr.PRICE]])
    x = scipy.linalg.solve_discrete_are(0.8**0.5 * a, 0.8**0.5 * b, np.eye(2), price)
    gain = np.linalg.solve(price + 0.8 * b.T @ x @ b, 0.8 * b.T @ x @ a)
    found = lqr.riccati(0.8)

    np.testing.assert_allclose(found["gain"], gain[0], rtol=1e-10)
    np.testing.assert_allclose(found["cost"], np.trace(x), rtol=1e-10)
    np.testing.assert_allclose(lqr.expected(found["gain"], 0.8), np.trace(x), rtol=1e-10)


def noisy_cost(gain: Tensor, discount: float, spread: float, steps: int, lqr: Any) -> Tensor:
    """The expected cost of both episodes with noise, by its recursion from the end."""
    closed = lqr.A - torch.outer(lqr.B, gain)
    stage = torch.eye(2, dtype=torch.float64) + lqr.PRICE * torch.outer(gain, gain)
    x, noise = torch.zeros(2, 2, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for _ in range(steps):
        noise = spread**2 * (lqr.PRICE + discount * (lqr.B @ x @ lqr.B)) + discount * noise
        x = stage + discount * closed.T @ x @ closed
    return x.trace() + 2 * noise


def test_the_hypergradient_of_the_gain_is_that_of_the_expected_cost(lqr: Any) -> None:
    """Its standard error by estimates from ten seeds; the bound is four of them."""
    torch.set_num_threads(1)
    settings = {"run.precision": "fp64", "judge.hypergrad.samples": 50}
    plan = bettyc.load(LQR, set=settings).compile()
    gain = torch.tensor([0.5, 0.9], dtype=torch.float64, requires_grad=True)
    estimates = []
    for seed in range(10):
        run = plan.start(seed=seed)
        run["actor"].assign(gain=gain.detach())
        estimates.append(run.hypergrad("actor")["gain"])
    found = torch.stack(estimates)
    (want,) = torch.autograd.grad(noisy_cost(gain, 0.8, 0.5, 20, lqr), gain)

    error = found.std(0) / 10**0.5
    assert bool(((found.mean(0) - want).abs() < 4 * error).all()), (found.mean(0), want, error)
    assert float(error.norm()) < 0.25 * float(want.norm())


def test_the_best_gain_is_where_that_gradient_vanishes(lqr: Any) -> None:
    best = lqr.riccati(0.8)["gain"].requires_grad_()
    (at_best,) = torch.autograd.grad(noisy_cost(best, 0.8, 0.5, 60, lqr), best)

    assert float(at_best.norm()) < 1e-4
