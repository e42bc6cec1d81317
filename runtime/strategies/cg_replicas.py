r"""Conjugate gradient for all replicas of a level at once.

    (H_i + damping I) u_i = a_i,   one system per replica

One product serves all systems: the objective is a sum over replicas, so that its Hessian is block
diagonal. Each system has its own step lengths and stops on its own (`bettyc.kernels.cg_batched`).
A product certifies systems that have converged by their recurrence; where steps run out first, its
residual is the true one but for rounding, and no product is spent on it.
Those that meet curvature that is not positive are left to `bettyc.runtime.strategies.cg`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bettyc.kernels import cg_batched
from bettyc.kernels.cg_update import CONVERGED, CURVATURE, NOT_FINITE
from bettyc.runtime.strategies.cg import remark
from bettyc.runtime.strategies.system import System, not_finite, steps_for
from bettyc.strategies import CG


@dataclass(frozen=True)
class Rows:
    """u of all systems, shape (replicas, size), and of the least favourable of them: residual
    ||H u - a|| (None if not known), also relative to ||a||, and u.Hu / u.u. left: the systems that
    are not solved.
    """

    u: Tensor
    left: tuple[int, ...]
    products: int
    iterations: int
    residual: float | None
    relative_residual: float | None
    min_ritz: float | None
    converged: bool
    note: str
    severe: bool


def solve(system: System, options: CG) -> Rows | None:
    """None where it cannot start as asked."""
    if options.warm or options.precond != "none":
        return None
    a, damping = system.rhs, options.damping

    def product(v: Tensor) -> Tensor:
        return system.product(v).reshape(v.shape)

    steps = options.iters or steps_for(a.shape[1])
    found = cg_batched.solved(
        product, a.contiguous(), tol=options.tol, max_iters=steps, damping=damping
    )
    u, r, state = found.x, found.r, found.state
    codes = state[:, 2]
    if bool((codes == NOT_FINITE).any()):
        raise not_finite(system.level)
    bent = codes == CURVATURE
    rest = tuple(bent.nonzero().flatten().tolist())
    if rest:
        # zero systems with zero answers: they count for nothing below
        u, a, r = (x.masked_fill(bent[:, None], 0.0) for x in (u, a, r))
        state[bent, 0], codes = 0.0, codes.masked_fill(bent, CONVERGED)
    sizes = _norms(a).clamp_min(torch.finfo(torch.float64).tiny)
    met = bool((state[:, 0] <= state[:, 1]).all() | (codes == CONVERGED).all())
    taken, products = int(state[:, 3].max()), int(state[:, 3].sum())
    relative = float((state[:, 0].sqrt() / sizes).max())
    residual = undamped = ritz = None
    if system.certify:
        if met:
            h_u = product(u)
            products += len(a)
        else:
            h_u = a - r - damping * u  # far from rounding the recurrence's residual is the true one
        left = _norms(a - h_u)
        relative = float((_norms(a - h_u - damping * u) / sizes).max())
        residual, undamped = float(left.max()), float((left / sizes).max())
        ritz = _least(u, h_u)
    elif not damping:
        residual, undamped = float(state[:, 0].max().sqrt()), relative
    note, severe = remark(met, taken, relative, options)
    converged = relative <= options.tol
    return Rows(u, rest, products, taken, residual, undamped, ritz, converged, note, severe)


def _norms(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows.double(), dim=1)


def _least(u: Tensor, h_u: Tensor) -> float | None:
    square = u.double().square().sum(1)
    rates = ((u.double() * h_u.double()).sum(1) / square)[square > 0]
    return float(rates.min()) if len(rates) else None
