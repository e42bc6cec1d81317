r"""Optimizers that run until they have converged: exact, newton, lbfgs.

All work on one flat tensor, theta of shape (size,), and stop when the Euclidean norm of the
gradient is at most `tol`, or when rounding leaves nothing to gain.

    exact    theta -= H^-1 g, twice, to remove what rounding left; for quadratic objectives
    newton   theta -= t (H + damping I)^-1 g, t halved until the objective falls (Armijo); a
             Hessian that is not positive definite is shifted until it is
    lbfgs    torch.optim.LBFGS with strong-Wolfe line search (Nocedal and Wright, chapter 7)

Beyond DENSE variables, exact and newton solve their systems by conjugate gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

DENSE = 1500
HALVINGS = 40
# Iterations of L-BFGS after which it is asked whether rounding leaves anything to gain.
CHUNK = 20


class Problem(Protocol):
    """The objective as a function of one flat tensor, everything else held fixed."""

    def gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Value and gradient, detached."""
        ...

    def value(self, theta: Tensor) -> Tensor:
        """The value alone."""
        ...

    def hessian(self, theta: Tensor) -> Hessian:
        """The second derivative at theta."""
        ...


class Hessian(Protocol):
    def dense(self) -> Tensor: ...

    def hvp(self, v: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Solved:
    """theta, and how it was found. evaluations: of the gradient; norm: of the last gradient."""

    theta: Tensor
    loss: Tensor
    evaluations: int
    norm: float
    converged: bool


def exact(problem: Problem, theta: Tensor, options: Mapping[str, Any]) -> Solved:
    """One linear solve and one correction. Converged: the gradient fell to rounding."""
    value, g = problem.gradient(theta)
    first = _norm(g)
    h = problem.hessian(theta)
    factor = _factor(h.dense()) if theta.numel() <= DENSE else None
    evaluations = 1
    for _ in range(2):
        if not _norm(g) > 0:
            break
        step = _apply(factor, g) if factor is not None else _conjugate(h.hvp, g)
        moved = theta - step
        new_value, new_g = problem.gradient(moved)
        evaluations += 1
        if not _norm(new_g) < _norm(g):
            break
        theta, value, g = moved, new_value, new_g
    size = _norm(g)
    limit = 1e3 * torch.finfo(theta.dtype).eps * max(first, 1.0)
    return Solved(theta, value, evaluations, size, size <= limit)


def newton(problem: Problem, theta: Tensor, options: Mapping[str, Any]) -> Solved:
    tol, damping = options["tol"], options["damping"]
    value, g = problem.gradient(theta)
    evaluations = 1
    for _ in range(options["max_iter"]):
        if _norm(g) <= tol:
            break
        h = problem.hessian(theta)
        step = _direction(h, g, damping)
        moved, new_value, tries = _backtrack(problem, theta, value, g, step)
        evaluations += tries
        if moved is None:
            break
        theta = moved
        value, new_g = problem.gradient(theta)
        evaluations += 1
        stalled = not _norm(new_g) < _norm(g) and not bool(new_value < value)
        g = new_g
        if stalled:
            break
    size = _norm(g)
    return Solved(theta, value, evaluations, size, size <= tol)


def lbfgs(problem: Problem, theta: Tensor, options: Mapping[str, Any]) -> Solved:
    x = theta.clone().requires_grad_()
    tol = float(options["tol"])
    optimizer = torch.optim.LBFGS(
        [x],
        lr=options["lr"],
        max_iter=CHUNK,
        max_eval=4 * CHUNK,
        history_size=options["history"],
        # torch looks at the largest entry, the program means the norm
        tolerance_grad=tol / max(x.numel(), 1) ** 0.5,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )
    count = 0

    def closure() -> Tensor:
        nonlocal count
        count += 1
        value, g = problem.gradient(x.detach())
        x.grad = g
        return value

    value, g = problem.gradient(x.detach())
    size = _norm(g)
    for _ in range(0, options["max_iter"], CHUNK):
        if size <= tol:
            break
        before, best = float(value), size
        optimizer.step(closure)
        value, g = problem.gradient(x.detach())
        size = _norm(g)
        rounding = 10 * torch.finfo(theta.dtype).eps * abs(before)
        if not (before - float(value) > rounding or size < 0.9 * best):
            break
    return Solved(x.detach(), value, count + 1, size, size <= tol)


SOLVERS: dict[str, Callable[[Problem, Tensor, Mapping[str, Any]], Solved]] = {
    "exact": exact,
    "newton": newton,
    "lbfgs": lbfgs,
}


def _norm(g: Tensor) -> float:
    return float(torch.linalg.vector_norm(g))


def _direction(h: Hessian, g: Tensor, damping: float) -> Tensor:
    if g.numel() > DENSE:
        return _conjugate(lambda v: h.hvp(v) + damping * v, g)
    matrix = h.dense()
    if damping:
        matrix = matrix + damping * torch.eye(len(matrix)).to(matrix)
    return _apply(_factor(matrix), g)


def _factor(matrix: Tensor) -> Tensor:
    """The Cholesky factor of the matrix, shifted by as little as makes it positive definite."""
    shift = 0.0
    scale = float(matrix.diagonal().abs().max()) if matrix.numel() else 1.0
    eye = torch.eye(len(matrix)).to(matrix)
    while True:
        factor, failed = torch.linalg.cholesky_ex(matrix + shift * eye if shift else matrix)
        if not int(failed) or not torch.isfinite(matrix).all():
            return factor
        shift = 10 * shift if shift else 1e-10 * max(scale, 1e-30)


def _apply(factor: Tensor, g: Tensor) -> Tensor:
    return torch.cholesky_solve(g[:, None], factor)[:, 0]


def _conjugate(product: Callable[[Tensor], Tensor], g: Tensor) -> Tensor:
    """H^-1 g by conjugate gradient, to rounding or to the first direction of negative curvature."""
    x, r = torch.zeros_like(g), g.clone()
    p, rr = r.clone(), float(r @ r)
    stop = (torch.finfo(g.dtype).eps * 10) ** 2 * rr
    for _ in range(min(10 * len(g), 2000)):
        hp = product(p)
        curvature = float(p @ hp)
        if curvature <= 0:
            return x if float(x @ x) > 0 else g
        alpha = rr / curvature
        x, r = x + alpha * p, r - alpha * hp
        new = float(r @ r)
        if new <= stop:
            break
        p, rr = r + (new / rr) * p, new
    return x


def _backtrack(
    problem: Problem, theta: Tensor, value: Tensor, g: Tensor, step: Tensor
) -> tuple[Tensor | None, Tensor, int]:
    """The first point along -step where the objective falls enough; None where it falls nowhere."""
    slope, t = float(g @ step), 1.0
    rounding = 10 * torch.finfo(theta.dtype).eps * abs(float(value))
    for tries in range(1, HALVINGS + 1):
        moved = theta - t * step
        new = problem.value(moved)
        if bool(torch.isfinite(new)) and float(new) <= float(value) - 1e-4 * t * slope + rounding:
            return moved, new, tries
        t *= 0.5
    return None, value, HALVINGS
