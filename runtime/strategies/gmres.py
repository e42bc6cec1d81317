r"""Inverse Hessian products by generalised minimal residuals.

    u_k minimises ||(H + damping I) u - a|| over the Krylov space, by Arnoldi with full
    orthogonalisation

Valid for every regular system, symmetric or not; it loses no orthogonality, so it reaches the dense
answer where minres stalls. One product per step, restart + 1 vectors of memory and restart^2 / 2
products of vectors per cycle. Where a cycle makes no progress (a singular system whose range the
right-hand side leaves) it stops and says so.

Saad and Schultz. SIAM Journal on Scientific and Statistical Computing 7(3), 1986.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bettyc.runtime.strategies.system import Solution, System, not_finite, rayleigh, steps_for
from bettyc.strategies import Gmres

Matvec = Callable[[Tensor], Tensor]


def solve(system: System, options: Gmres) -> Solution:
    """u = (H + damping I)^-1 a."""
    a, damping = system.rhs, options.damping
    steps = options.iters or steps_for(system.size)
    found = restarted(
        lambda v: system.product(v) + damping * v,
        a,
        options.tol,
        steps,
        options.restart,
        system.level,
    )
    left = found.r + damping * found.x
    note = ""
    if not found.converged:
        note = f"not converged in {found.steps} steps; raise `iters` or `restart`"
        if found.stalled:
            note = "singular Hessian: the least-squares solution is used; set `damping`"
    return Solution(
        found.x,
        iterations=found.steps,
        residual=float(left.norm()),
        min_ritz=rayleigh(found.x, a - left),
        converged=found.converged,
        note=note,
        severe=bool(note) and (found.stalled or not options.iters),
    )


@dataclass(frozen=True)
class Cycles:
    """x, shape (n,), and its true residual; stalled: a cycle made no progress."""

    x: Tensor
    r: Tensor
    steps: int
    converged: bool
    stalled: bool


def restarted(
    matvec: Matvec, b: Tensor, tol: float, steps: int, restart: int, level: str
) -> Cycles:
    """Cycles of at most `restart` steps from the true residual of the one before."""
    x, r, taken = torch.zeros_like(b), b, 0
    goal = tol * float(b.norm())
    while float(r.norm()) > goal:
        if taken >= steps:
            return Cycles(x, r, taken, False, False)
        step, used = cycle(matvec, r, min(restart, steps - taken), goal, level)
        taken += used
        left = b - matvec(x + step)
        if not float(left.norm()) < 0.9 * float(r.norm()):
            keep = float(left.norm()) < float(r.norm())
            return Cycles(x + step if keep else x, left if keep else r, taken, False, taken < steps)
        x, r = x + step, left
    return Cycles(x, r, taken, True, False)


def cycle(matvec: Matvec, r: Tensor, steps: int, goal: float, level: str) -> tuple[Tensor, int]:
    """The correction that minimises the residual over one Krylov space, and the products it
    took.
    """
    beta = float(r.norm())
    basis = [r / beta]
    h = torch.zeros(steps + 1, steps, dtype=torch.float64)
    left = _Rotations(beta)
    used = 0
    for k in range(steps):
        w = matvec(basis[k])
        size = float(w.norm())
        if not math.isfinite(size):
            raise not_finite(level)
        q = torch.stack(basis)
        for _ in range(2):  # twice is enough to keep the basis orthogonal to rounding
            part = q @ w
            w = w - q.T @ part
            h[: k + 1, k] += part.double().cpu()
        norm = float(w.norm())
        h[k + 1, k] = norm
        used = k + 1
        if norm <= 100 * torch.finfo(r.dtype).eps * size:
            break
        if left.add(h[: k + 2, k].tolist()) <= 0.5 * goal:
            break
        basis.append(w / norm)
    y = _least_squares(h[: used + 1, :used], beta).to(r)
    return torch.stack(basis[:used]).T @ y, used


class _Rotations:
    """The least-squares residual as columns of the Hessenberg matrix arrive, by Givens
    rotations.
    """

    def __init__(self, beta: float) -> None:
        self._turns: list[tuple[float, float]] = []
        self._left = beta

    def add(self, column: list[float]) -> float:
        """The residual norm with this column, of one entry more than the one before."""
        for i, (c, s) in enumerate(self._turns):
            upper, lower = column[i], column[i + 1]
            column[i], column[i + 1] = c * upper + s * lower, c * lower - s * upper
        radius = math.hypot(column[-2], column[-1])
        c, s = (column[-2] / radius, column[-1] / radius) if radius else (1.0, 0.0)
        self._turns.append((c, s))
        self._left *= abs(s)
        return self._left


def _least_squares(block: Tensor, beta: float) -> Tensor:
    """y minimising ||beta e_1 - H y||, of least norm where H is rank deficient."""
    target = torch.zeros(len(block), dtype=block.dtype)
    target[0] = beta
    u, s, vt = torch.linalg.svd(block, full_matrices=False)
    kept = s > torch.finfo(block.dtype).eps * len(block) * s[0]
    return vt.T @ torch.where(kept, (u.T @ target) / torch.where(kept, s, 1), 0)
