r"""Inverse Hessian products by conjugate gradient.

    (H + damping I) u = a,   ||residual|| <= tol ||a||   or at most `iters` steps

Valid for positive definite H; after k steps the error in the H-norm is at most
2 ((sqrt(kappa) - 1) / (sqrt(kappa) + 1))^k of the first. One product per step, one more for a warm
start and one for the true residual; five vectors of memory.

What can go wrong, and what is done about it:
    a = 0                        u = 0 without a product
    the residual vanishes        stop; the next step would be 0/0
    p.Hp <= 0                    H is indefinite, or singular and a leaves its range: the system is
                                 solved by minres, with a warning
    rounding in the residual     `converged` is false and a note says so; a warning above 0.001
    steps run out                the iterate is used, `converged` is false
    a product is not finite      SolveError

The smallest Ritz value comes from the Lanczos matrix that the step lengths define.

Hestenes and Stiefel 1952; in hypergradients Pedregosa 2016 and iMAML, Rajeswaran, Finn, Kakade,
Levine, NeurIPS 2019, arXiv:1909.04630.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bettyc.runtime.strategies import minres
from bettyc.runtime.strategies.precondition import preconditioner
from bettyc.runtime.strategies.system import Solution, System, not_finite, rayleigh, steps_for
from bettyc.strategies import CG

Matvec = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Krylov:
    """What the loop returns: x, shape (n,), its recursive residual, and the history of its scalars.

    stop: "converged", "steps" or "curvature" (a direction with p.Ap <= 0 was met).
    """

    x: Tensor
    r: Tensor
    stop: str
    alphas: tuple[float, ...]
    betas: tuple[float, ...]


def solve(system: System, options: CG) -> Solution:
    """u = (H + damping I)^-1 a by conjugate gradient."""
    a, damping = system.rhs, options.damping
    size = float(a.norm())
    if not size:
        u = torch.zeros_like(a)
        return Solution(u, residual=0.0, converged=True, memory=_kept(options, u))
    steps, goal = options.iters or steps_for(a.numel()), options.tol * size
    matvec = shift(system.product, damping)
    start = system.warm.get("u") if options.warm else None
    x, r = (torch.zeros_like(a), a) if start is None else (start, a - matvec(start))
    precond = preconditioner(system, options.precond, damping, options.probes)
    found = conjugate_gradient(matvec, x, r, goal, steps, precond, system.level)
    if found.stop == "curvature":
        return fall_back(system, options, len(found.alphas))
    r = a - matvec(found.x) if system.certify else found.r
    # H u - a without the damping, from the residual of the damped system.
    left = r + damping * found.x
    note, severe = _remark(found, float(r.norm()) / size, options)
    return Solution(
        found.x,
        iterations=len(found.alphas),
        residual=float(left.norm()),
        min_ritz=_least(found, a, left, damping, precond is None and start is None),
        converged=float(r.norm()) <= goal,
        note=note,
        severe=severe,
        memory=_kept(options, found.x),
    )


def _kept(options: CG, u: Tensor) -> dict[str, Tensor]:
    return {"u": u} if options.warm else {}


def _remark(found: Krylov, relative: float, options: CG) -> tuple[str, bool]:
    """A note on what is not as asked, and whether it deserves a warning."""
    if found.stop == "steps" and not options.iters:
        return f"not converged in {len(found.alphas)} steps; raise `iters` or `damping`", True
    if found.stop == "converged" and relative > 2 * options.tol:
        note = f"rounding keeps the residual at {relative:.1e}; use fp64 or raise `damping`"
        return note, relative > 1e-3
    return "", False


def shift(matvec: Matvec, damping: float) -> Matvec:
    """v -> H v + damping v."""
    return matvec if damping == 0 else lambda v: matvec(v) + damping * v


def refine(
    level: str,
    matvec: Matvec,
    a: Tensor,
    start: Tensor | None,
    tol: float,
    steps: int,
    precond: Matvec | None,
    certify: bool,
) -> tuple[Krylov, int]:
    """Conjugate gradient, restarted from the true residual while the recursive one was too
    hopeful.
    """
    x = torch.zeros_like(a) if start is None else start
    r = a.clone() if start is None else a - matvec(x)
    goal = tol * float(a.norm())
    taken = 0
    first: Krylov | None = None
    for _ in range(3):
        found = conjugate_gradient(matvec, x, r, goal, steps - taken, precond, level)
        taken += len(found.alphas)
        first = first or found
        if found.stop == "curvature" or not certify:
            break
        x, r = found.x, a - matvec(found.x)
        found = Krylov(x, r, "converged" if float(r.norm()) <= goal else "steps", (), ())
        if found.stop == "converged" or taken >= steps:
            break
    return Krylov(found.x, found.r, found.stop, first.alphas, first.betas), taken


def conjugate_gradient(
    matvec: Matvec,
    x: Tensor,
    r: Tensor,
    goal: float,
    steps: int,
    precond: Matvec | None = None,
    level: str = "",
) -> Krylov:
    """Conjugate gradient from x, shape (n,), with residual r = b - A x, until ||r|| <= goal."""
    z = r if precond is None else precond(r)
    p = z
    rho = float(r @ z)
    alphas: list[float] = []
    betas: list[float] = []
    tiny = torch.finfo(r.dtype).eps
    for _ in range(steps):
        if float(r.norm()) <= goal:
            return Krylov(x, r, "converged", tuple(alphas), tuple(betas))
        q = matvec(p)
        curvature = float(p @ q)
        if curvature != curvature or abs(curvature) == float("inf"):
            raise not_finite(level)
        if curvature <= tiny * float(p.norm()) * float(q.norm()):
            return Krylov(x, r, "curvature", tuple(alphas), tuple(betas))
        alpha = rho / curvature
        x = x + alpha * p
        r = r - alpha * q
        z = r if precond is None else precond(r)
        rho, beta = float(r @ z), float(r @ z) / rho
        p = z + beta * p
        alphas.append(alpha)
        betas.append(beta)
    stop = "converged" if float(r.norm()) <= goal else "steps"
    return Krylov(x, r, stop, tuple(alphas), tuple(betas))


def fall_back(system: System, options: CG, taken: int) -> Solution:
    """minres for the same system, where conjugate gradient met non-positive curvature."""
    found = minres.symmetric(
        system, options.tol, options.iters or steps_for(system.size), options.damping
    )
    cure = "raise `damping`, or bring the level closer to its minimum"
    return Solution(
        found.u,
        iterations=taken + found.iterations,
        residual=found.residual,
        min_ritz=found.min_ritz,
        converged=found.converged,
        note=f"curvature is not positive: solved by minres; {cure}"
        + (f"; {found.note}" if found.note else ""),
        severe=True,
        memory=_kept(options, found.u),
    )


def ritz(alphas: tuple[float, ...], betas: tuple[float, ...]) -> float | None:
    """The smallest eigenvalue of the Lanczos matrix of the first steps (200 at most); None without
    any.
    """
    k = min(len(alphas), 200)
    if not k:
        return None
    t = torch.zeros(k, k, dtype=torch.float64)
    for i in range(k):
        t[i, i] = 1 / alphas[i] + (betas[i - 1] / alphas[i - 1] if i else 0.0)
        if i:
            t[i, i - 1] = t[i - 1, i] = max(betas[i - 1], 0.0) ** 0.5 / alphas[i - 1]
    return float(torch.linalg.eigvalsh(t)[0])


def _least(krylov: Krylov, a: Tensor, r: Tensor, damping: float, plain: bool) -> float | None:
    """The smallest Ritz value of H; under a preconditioner or a warm start, u's Rayleigh
    quotient.
    """
    if plain:
        found = ritz(krylov.alphas, krylov.betas)
        return None if found is None else found - damping
    return rayleigh(krylov.x, a - r)
