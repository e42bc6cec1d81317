r"""Preconditioners of conjugate gradient: an approximation of (H + damping I)^-1 that is cheap to
apply.

    none         the identity
    optimizer    division by the optimizer's own scale, such as Adam's sqrt(v) + eps: no product
    diagonal     division by |mean_j z_j * H z_j|, z_j random signs: `probes` products
                 Hutchinson 1990; Bekas, Kokiopoulou, Saad 2007
    nystrom      with a sketch U L U^T of rank `probes`, l its least eigenvalue,
                 P^-1 = (l + damping) U (L + damping)^-1 U^T + (I - U U^T)
                 Frangella, Tropp, Udell, arXiv:2110.02820, algorithm 5.1

All are positive definite, as conjugate gradient needs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bettyc.runtime.strategies.nystrom import sketch
from bettyc.runtime.strategies.system import System

Apply = Callable[[Tensor], Tensor]


def preconditioner(system: System, name: str, damping: float, probes: int) -> Apply | None:
    """r -> P^-1 r; None for the identity, and for `optimizer` where it has no scale yet."""
    if name == "diagonal":
        return _divide(hutchinson(system, probes), damping)
    if name == "nystrom":
        return _low_rank(system, damping, probes)
    if name == "optimizer" and system.scale is not None:
        return _divide(system.scale.flatten().to(system.rhs), damping)
    return None


def hutchinson(system: System, probes: int) -> Tensor:
    """An unbiased estimate of diag(H), shape (size,)."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (probes, system.size), generator=generator).to(system.rhs) * 2 - 1
    return (signs * system.product_rows(signs)).mean(0)


def _divide(scale: Tensor, damping: float) -> Apply:
    # Entries far below the largest are noise of the estimate; they must not blow up.
    positive = (scale + damping).abs()
    positive = positive.clamp_min(1e-6 * float(positive.max()) or 1.0)
    return lambda r: r / positive


def _low_rank(system: System, damping: float, rank: int) -> Apply | None:
    c, w = sketch(system, min(rank, system.size))
    values, vectors = torch.linalg.eigh(w)
    kept = values > 1e-6 * float(values.max())
    if not bool(kept.any()):
        return None
    # H ~ B B^T with B = C V L^-1/2
    u, s, _ = torch.linalg.svd(c @ vectors[:, kept] / values[kept].sqrt(), full_matrices=False)
    lambdas = s.square()
    factor = (lambdas[-1] + damping) / (lambdas + damping) - 1
    return lambda r: r + u @ (factor * (u.T @ r))
