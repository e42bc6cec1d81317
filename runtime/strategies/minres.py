r"""Inverse Hessian products by minimal residuals.

    u_k minimises ||(H + damping I) u - a|| over the Krylov space of step k

Valid for every symmetric H, indefinite ones included; where H is singular and `a` leaves its range,
the part outside is found as the residual that stays, taken off, and the solution of least norm
returned, with a warning. One product per step, two per pass to check; seven vectors of memory. Its
rounding errors grow with the square of the condition number, so it is restarted from the true
residual.

Paige and Saunders. SIAM Journal on Numerical Analysis 12(4), 1975.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bettyc.runtime.strategies.system import Solution, System, not_finite, steps_for
from bettyc.strategies import Minres

Matvec = Callable[[Tensor], Tensor]
PASSES = 4


@dataclass(frozen=True)
class Pass:
    """x, shape (n,), of one run; outside: whether what is left of b lies outside the range of A."""

    x: Tensor
    outside: bool
    steps: int
    min_ritz: float | None


def solve(system: System, options: Minres) -> Solution:
    """u = (H + damping I)^-1 a by minimal residuals."""
    steps = options.iters or steps_for(system.size)
    return symmetric(system, options.tol, steps, options.damping)


def symmetric(system: System, tol: float, steps: int, damping: float) -> Solution:
    """minres with restarts, and with the part of the right-hand side outside the range
    taken off.
    """
    a, level = system.rhs, system.level
    size = float(a.norm())
    if not size:
        return Solution(torch.zeros_like(a), residual=0.0, converged=True)

    def matvec(v: Tensor) -> Tensor:
        return system.product(v) + damping * v

    x, outside, taken, least = refine(matvec, a, tol * size, steps, level)
    note = ""
    if outside is not None:
        x, _, more, _ = refine(matvec, a - outside, tol * size, steps, level)
        taken += more
        note = "singular Hessian: the solution of least norm is used"
    left = a - system.product(x)
    damped = float((left - damping * x - (0 if outside is None else outside)).norm())
    converged = damped <= max(tol, 1e-10 if outside is not None else tol) * size
    if not converged and not note:
        note = f"not converged in {taken} steps; raise `iters`"
    return Solution(
        x,
        iterations=taken,
        residual=float(left.norm()),
        min_ritz=None if least is None else least - damping,
        converged=converged and outside is None,
        note=note,
        severe=note != "",
    )


def refine(
    matvec: Matvec, b: Tensor, goal: float, steps: int, level: str
) -> tuple[Tensor, Tensor | None, int, float | None]:
    """Passes from the true residual until it is below `goal`, stops shrinking, or the steps are
    used.

    Returns x, the residual if it lies outside the range of A (else None), steps and the least Ritz
    value.
    """
    x, r = torch.zeros_like(b), b
    taken, least = 0, None
    for _ in range(PASSES):
        found = minimal_residual(matvec, r, goal, steps - taken, level)
        taken += found.steps
        least = found.min_ritz if least is None else min(least, found.min_ritz or least)
        better = x + found.x
        left = b - matvec(better)
        if found.outside and not float(left.norm()) < 0.5 * float(r.norm()):
            return (
                (x, r, taken, least)
                if float(r.norm()) < float(left.norm())
                else (better, left, taken, least)
            )
        if float(left.norm()) < float(r.norm()):
            x, shrunk, r = better, float(left.norm()) / float(r.norm()), left
        else:
            shrunk = 1.0
        if float(r.norm()) <= goal or taken >= steps or shrunk > 0.5:
            break
    return x, None, taken, least


def minimal_residual(matvec: Matvec, b: Tensor, goal: float, steps: int, level: str) -> Pass:
    """One run from zero: Lanczos, with the least-squares problem solved by rotations as it
    grows.
    """
    eps = torch.finfo(b.dtype).eps
    x = torch.zeros_like(b)
    beta = left = float(b.norm())
    if not beta:
        return Pass(x, False, 0, None)
    v, v_old = b / beta, torch.zeros_like(b)
    w, w_old = torch.zeros_like(b), torch.zeros_like(b)
    cosine, sine, delta_bar, epsilon, beta = -1.0, 0.0, 0.0, 0.0, 0.0
    diagonal: list[float] = []
    below: list[float] = []
    largest = 0.0
    outside = False
    for _ in range(steps):
        y = matvec(v) - beta * v_old
        alpha = float(v @ y)
        y = y - alpha * v
        norm = float(y.norm())
        if not math.isfinite(alpha + norm):
            raise not_finite(level)
        diagonal.append(alpha)
        largest = max(largest, math.hypot(alpha, beta, norm))
        # The next row of the rotated triangle.
        delta = cosine * delta_bar + sine * alpha
        gamma_bar = sine * delta_bar - cosine * alpha
        epsilon_old, epsilon = epsilon, sine * norm
        delta_bar = -cosine * norm
        if math.hypot(gamma_bar, delta_bar) <= 100 * eps * largest:
            outside = True  # A r = 0: nothing of r can be reached
            break
        gamma = math.hypot(gamma_bar, norm)
        cosine, sine = gamma_bar / gamma, norm / gamma
        w, w_old = (v - epsilon_old * w_old - delta * w) / gamma, w
        x = x + (cosine * left) * w
        left = sine * left
        if left <= goal or norm <= 100 * eps * largest:
            break
        v, v_old, beta = y / norm, v, norm
        below.append(norm)
    return Pass(x, outside, len(diagonal), _ritz(diagonal, below))


def _ritz(diagonal: list[float], below: list[float]) -> float:
    """The smallest eigenvalue of the leading part (200 at most) of the Lanczos matrix."""
    k = min(len(diagonal), 200)
    t = torch.diag(torch.tensor(diagonal[:k], dtype=torch.float64))
    off = torch.tensor(below[: k - 1], dtype=torch.float64)
    return float(torch.linalg.eigvalsh(t + torch.diag(off, 1) + torch.diag(off, -1))[0])
