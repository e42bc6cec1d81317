r"""Inverse Hessian products by a low-rank sketch and the Woodbury identity.

    H ~ C W^+ C^T,   C = H Q,   W = Q^T C,   Q a random orthonormal (n, rank)
    (damping I + C W^+ C^T)^-1 a  =  (a - C (damping W + C^T C)^+ C^T a) / damping

For a positive semi-definite H the sketch lies between 0 and H, so the error is at most that of the
eigenvalues beyond `rank`; with rank = n it is the damped inverse exactly. `rank` products (in one
batch), n * rank numbers; the sketch does not depend on a. The paper draws columns of H; random
directions have the same cost and an error bound that does not depend on the basis.

Hataya and Yamada. AISTATS 2023, arXiv:2302.09726; Frangella, Tropp and Udell, arXiv:2110.02820.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bettyc.runtime.report import SolveError
from bettyc.runtime.strategies.system import Solution, System, not_finite, rayleigh
from bettyc.strategies import Nystrom


def solve(system: System, options: Nystrom) -> Solution:
    """u = (sketch + damping I)^-1 a."""
    a = system.rhs
    if not a.numel():
        return Solution(a.clone(), residual=0.0)
    if options.damping <= 0:
        raise SolveError(f"nystrom through `{system.level}` needs a `damping` above 0")
    c, w = sketch(system, min(options.rank, system.size))
    core = options.damping * w + c.T @ c
    if not bool(torch.isfinite(core).all()):
        raise not_finite(system.level)
    u = (a - c @ (_pinv(core) @ (c.T @ a))) / options.damping
    h_u = system.certificate(u) if system.certify else None
    negative = float(torch.linalg.eigvalsh(w)[0]) < -1e-6 * float(w.norm())
    note = "indefinite Hessian: the sketch does not bound it; use minres" if negative else ""
    return Solution(
        u,
        iterations=c.shape[1],
        residual=None if h_u is None else float((h_u - a).norm()),
        min_ritz=None if h_u is None else rayleigh(u, h_u),
        note=note,
        severe=negative,
    )


def sketch(system: System, rank: int) -> tuple[Tensor, Tensor]:
    """C = H Q, shape (size, rank), and W = Q^T H Q, for a fixed random Q with orthonormal
    columns.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(system.size, rank, generator=generator, dtype=torch.float64)
    q = torch.linalg.qr(noise)[0].to(system.rhs)
    c = system.product_rows(q.T).T
    w = q.T @ c
    return c, 0.5 * (w + w.T)


def _pinv(core: Tensor) -> Tensor:
    return torch.linalg.pinv(core, rtol=torch.finfo(core.dtype).eps * len(core), hermitian=True)
