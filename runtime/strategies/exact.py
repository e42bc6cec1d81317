r"""Inverse Hessian products by factorisation.

    H diagonal          u = a / diag(H)
    H positive          H = L L^T, Cholesky
    otherwise           H = Q L Q^T, u = Q L^+ Q^T a: the solution of least norm

Valid for every symmetric H. At a saddle point (indefinite H) the answer is exact and the report
says so; for a singular H the part of `a` in the null space is dropped, with a warning. A diagonal H
is recognised with three products: H applied to the vector of ones gives the diagonal, and two
random vectors confirm it. Otherwise `size` products, taken in batches, size^2 numbers of memory and
size^3 / 3 operations.

Golub and Van Loan. Matrix Computations, 4th edition, chapter 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bettyc.runtime.report import SolveError
from bettyc.runtime.strategies.system import Solution, System, rayleigh
from bettyc.strategies import Exact


def solve(system: System, options: Exact) -> Solution:
    """u = H^-1 a; the residual costs one product where H is diagonal and none otherwise."""
    a = system.rhs
    if not a.numel():
        return Solution(a.clone(), residual=0.0, converged=True)
    diagonal = diagonal_of(system)
    if diagonal is not None:
        u, note = divide(diagonal, a)
        r = diagonal * u - a
    else:
        h = system.dense()
        u, note = solve_dense(h, a)
        r = h @ u - a
    return Solution(
        u,
        residual=float(r.norm()),
        min_ritz=rayleigh(u, r + a),
        converged=not note.startswith("singular"),
        note=note,
        severe=note != "",
    )


def diagonal_of(system: System) -> Tensor | None:
    """diag(H) if H is diagonal, else None.

    H z = (H 1) * z for a random z holds only for a diagonal H, up to a set of measure zero.
    """
    diagonal = system.product(torch.ones_like(system.rhs))
    if system.size == 1:
        return diagonal
    generator = torch.Generator().manual_seed(0)
    tolerance = 8 * torch.finfo(diagonal.dtype).eps * diagonal.abs().max()
    for _ in range(2):
        z = torch.randn(system.size, generator=generator, dtype=torch.float64).to(diagonal)
        if not bool(((system.product(z) - diagonal * z).abs() <= tolerance * z.abs()).all()):
            return None
    return diagonal


def solve_dense(h: Tensor, a: Tensor) -> tuple[Tensor, str]:
    """H^-1 a for symmetric h (n, n), and a note where h is not safely positive definite."""
    if not bool(torch.isfinite(h).all()):
        raise SolveError("the Hessian has entries that are not finite; lower the learning rate")
    eps = torch.finfo(h.dtype).eps * len(h)
    factor, failed = torch.linalg.cholesky_ex(h)
    if not int(failed) and bool(factor.diagonal().min() ** 2 > eps * h.diagonal().max()):
        return torch.cholesky_solve(a[:, None], factor)[:, 0], ""
    values, vectors = torch.linalg.eigh(h)
    u, note = divide(values, vectors.T @ a, eps)
    return vectors @ u, note


def divide(values: Tensor, a: Tensor, eps: float | None = None) -> tuple[Tensor, str]:
    """a / values, zero where a value is zero to rounding, and a note where one is not positive."""
    eps = torch.finfo(values.dtype).eps if eps is None else eps
    kept = values.abs() > eps * values.abs().max()
    u = torch.where(kept, a / torch.where(kept, values, 1), 0)
    if not bool(kept.all()):
        return u, "singular Hessian: the solution of least norm is used"
    if float(values.min()) < 0:
        return u, "indefinite Hessian: the level is at a saddle point or a maximum"
    return u, ""
