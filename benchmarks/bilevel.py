"""Two-level problems that every library can be given: plain gradient descent from a fixed start
below, conjugate gradient through it, gradient descent above.

    w_K(lam):  w <- w - lr * dg/dw(w, lam), `steps` times from `start`
    lam     <- lam - upper_lr * m,   m <- momentum * m + d f(w_K)/d lam    by CG of `cg` steps
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """lower(w, lam) and upper(w) in torch and, for JAX, as functions of jax.numpy. `program` is the
    same in bettyc's language, with levels `fit` and `tune`; `data` by data set name.
    """

    name: str
    program: str
    data: dict[str, dict[str, Tensor]]
    lower: Callable[[Tensor, Tensor], Tensor]
    upper: Callable[[Tensor], Tensor]
    jax: Callable[[], tuple[Callable[..., Any], Callable[..., Any]]]
    start: Tensor
    lam: Tensor
    steps: int
    lr: float
    cg: int
    upper_lr: float
    momentum: float
    per_step: bool  # times are given per inner step, not per round
    near: float = 0.05  # how far the hypergradient of another method may be from that of CG


class Contender(Protocol):
    """One library at work on one problem."""

    def round(self) -> None:
        """One update of lam with everything below it."""
        ...

    def lam(self) -> Tensor:
        """The upper variables, flat."""
        ...


def logistic(seed: int = 0, dtype: torch.dtype = torch.float32) -> Problem:
    """Per-coordinate weight decay of logistic regression, 20 features, 500 + 500 rows."""
    g = torch.Generator().manual_seed(seed)
    truth = torch.randn(20, generator=g)

    def rows() -> dict[str, Tensor]:
        x = torch.randn(500, 20, generator=g)
        noise = torch.rand(500, generator=g)
        return {"x": x.to(dtype), "y": (torch.sigmoid(x @ truth) > noise).to(dtype)}

    train, val = rows(), rows()
    bce = torch.nn.functional.binary_cross_entropy_with_logits

    def lower(w: Tensor, lam: Tensor) -> Tensor:
        return bce(train["x"] @ w, train["y"]) + 0.5 * (lam.exp() * w * w).sum()

    def upper(w: Tensor) -> Tensor:
        return bce(val["x"] @ w, val["y"])

    def in_jax() -> tuple[Callable[..., Any], Callable[..., Any]]:
        import jax
        import jax.numpy as jnp

        tx, ty, vx, vy = (jnp.asarray(p[k].numpy()) for p in (train, val) for k in "xy")

        def mean_bce(z: Any, y: Any) -> Any:
            return jnp.mean(jax.nn.softplus(z) - y * z)

        return (
            lambda w, lam: mean_bce(tx @ w, ty) + 0.5 * jnp.sum(jnp.exp(lam) * w * w),
            lambda w: mean_bce(vx @ w, vy),
        )

    return Problem(
        "logistic", LOGISTIC, {"train": train, "val": val}, lower, upper, in_jax,
        torch.zeros(20, dtype=dtype), torch.zeros(20, dtype=dtype), 100, 0.1, 3, 1.0, 0.9, True,
    )  # fmt: skip


LOGISTIC = """
mlo 0.1
dim n, d
data train : { x: real[n, d], y: real[n] } from memory()
data val   : { x: real[n, d], y: real[n] } from memory()
level fit {
  var w : real[d] = zeros
  minimize mean(bce(train.x @ w, train.y)) + 0.5 * sum(exp(tune.log_wd) * w^2)
  optimizer = sgd(lr = 0.1)
  steps = 100
  start = reset
  hypergrad = cg(iters = 3, tol = 1e-30)
}
level tune {
  var log_wd : real[d] = zeros
  minimize mean(bce(val.x @ fit*.w, val.y))
  optimizer = sgd(lr = 1.0, momentum = 0.9)
}
run { steps = 100000  eval = every(100000) }
"""


def cleaning(seed: int = 0, dtype: torch.dtype = torch.float32) -> Problem:
    """One weight per row of softmax regression on 5000 x 784 x 10, half of the labels wrong."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.rand(10, 784, generator=g)

    def rows() -> dict[str, Tensor]:
        y = torch.randint(0, 10, (5000,), generator=g)
        x = (centres[y] + torch.randn(5000, 784, generator=g)).div_(28)
        return {"x": x.to(dtype), "y": y}

    train, val = rows(), rows()
    wrong = torch.rand(5000, generator=g) < 0.5
    train["y"] = torch.where(wrong, torch.randint(0, 10, (5000,), generator=g), train["y"])
    xent = torch.nn.functional.cross_entropy

    def lower(w: Tensor, lam: Tensor) -> Tensor:
        losses = xent(train["x"] @ w.view(784, 10), train["y"], reduction="none")
        return (torch.sigmoid(lam) * losses).mean() + 0.001 * (w * w).sum()

    def upper(w: Tensor) -> Tensor:
        return xent(val["x"] @ w.view(784, 10), val["y"])

    def in_jax() -> tuple[Callable[..., Any], Callable[..., Any]]:
        import jax
        import jax.numpy as jnp

        tx, ty, vx, vy = (jnp.asarray(p[k].numpy()) for p in (train, val) for k in "xy")

        def losses(z: Any, y: Any) -> Any:
            return jax.nn.logsumexp(z, 1) - jnp.take_along_axis(z, y[:, None], 1)[:, 0]

        def lower(w: Any, lam: Any) -> Any:
            weighted = jax.nn.sigmoid(lam) * losses(tx @ w.reshape(784, 10), ty)
            return jnp.mean(weighted) + 0.001 * jnp.sum(w * w)

        return lower, lambda w: jnp.mean(losses(vx @ w.reshape(784, 10), vy))

    return Problem(
        "cleaning", CLEANING, {"train": train, "val": val}, lower, upper, in_jax,
        torch.zeros(7840, dtype=dtype), torch.zeros(5000, dtype=dtype), 20, 1.0, 10, 100.0, 0.0,
        False,
        near=1.0,  # 20 steps and 10 products are far from convergence
    )  # fmt: skip


CLEANING = """
mlo 0.1
dim n, d, C = 10
data train : { x: real[n, d], y: int<C>[n] } from memory()
data val   : { x: real[n, d], y: int<C>[n] } from memory()
level fit {
  var W : real[d, C] = zeros
  minimize mean(sigmoid(tune.score) * xent(train.x @ W, train.y)) + 0.001 * sumsq(W)
  optimizer = sgd(lr = 1.0)
  steps = 20
  start = reset
  hypergrad = cg(iters = 10, tol = 1e-30)
}
level tune {
  var score : real[n] = zeros
  minimize mean(xent(val.x @ fit*.W, val.y))
  optimizer = sgd(lr = 100.0)
}
run { steps = 100000  eval = every(100000) }
"""

PROBLEMS = {"logistic": logistic, "cleaning": cleaning}
