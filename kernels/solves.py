r"""Whole solves in one call of native.c, where H is one pass over the data or a compiled formula.

Conjugate gradient is that of cg_update.py, with the bits of its steps. What a solve is asked for
afterwards comes with it: the smallest Ritz value, and the true residual, for one more product
where rounding may have moved it. The Neumann series is that of neumann_update.py, begun with lr a.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from bettyc.kernels.cg_update import CONVERGED, CURVATURE, NOT_FINITE

_Found = ctypes.c_double * 10
_P, _L = ctypes.c_void_p, ctypes.c_long


class Matrix(ctypes.Structure):
    """struct matrix of native.c."""

    _fields_ = [
        *((name, _P) for name in ("pass_", "function", "operands", "scratch", "gemm")),
        *((name, _L) for name in ("n", "v_at", "out_at")),
        ("threads", ctypes.c_int),
    ]


class Solvable(Protocol):
    """A product that native.c can take by itself: `entry` is called with a `Matrix` first."""

    def solve(self, entry: str, *arguments: object) -> None:
        """Call a function of native.c; the caller keeps what the arguments point to."""
        ...


class Certificate(NamedTuple):
    """What the true residual a - H u says. residual: its norm; damped: the norm of
    a - (H + damping I) u; rayleigh: u.Hu / u.u, None for u = 0.
    """

    residual: float
    damped: float
    rayleigh: float | None


class Info(NamedTuple):
    """What a solve reports; as `bettyc.kernels.cg.Info`. size: the norm of the right-hand side.
    products: taken in all. certificate: None where it was not asked for.
    """

    size: float
    relative_residual: float
    code: int
    iterations: int
    products: int
    min_ritz: float | None
    certificate: Certificate | None

    @property
    def converged(self) -> bool:
        return self.code == CONVERGED

    @property
    def curvature(self) -> bool:
        return self.code == CURVATURE

    @property
    def breakdown(self) -> bool:
        return self.code == NOT_FINITE


def cg(
    product: Solvable,
    a: Tensor,
    *,
    tol: float,
    max_iters: int,
    damping: float = 0.0,
    x0: Tensor | None = None,
    certify: bool = False,
) -> tuple[Tensor, Info]:
    """u with |a - (H + damping I) u| <= tol |a|, and how the solve went. a, x0: (n,), contiguous,
    of the product's dtype; they are left as they are.
    """
    u = torch.empty_like(a) if x0 is None else x0.clone()
    n = a.numel()
    # one allocation: history in float64 first, then r, p, q
    work = torch.empty(2 * max(max_iters, 1) + 3 * n, dtype=torch.float64)
    history, found = work.data_ptr(), _Found()
    product.solve(
        "cg_solve",
        a.data_ptr(), u.data_ptr(), history + 16 * max(max_iters, 1), damping, tol, max_iters,
        x0 is not None, certify, history, found,
    )  # fmt: skip
    aa, rr, code, steps, products, ritz, left, damped, uu, uhu = found
    size = aa**0.5
    certificate = None
    if certify and size:
        certificate = Certificate(left**0.5, damped**0.5, uhu / uu if uu > 0 else None)
    return u, Info(
        size,
        (rr / aa) ** 0.5 if size else 0.0,
        int(code),
        int(steps),
        int(products),
        ritz if steps else None,
        certificate,
    )


class Series(NamedTuple):
    """A truncated Neumann series. size: |a|. least: the least Rayleigh quotient of its terms,
    infinite without a product. residual: the norm of the last term. stopped: a term grew.
    """

    total: Tensor
    size: float
    least: float
    residual: float
    products: int
    stopped: bool


def neumann(product: Solvable, a: Tensor, *, lr: float, terms: int, growth: float) -> Series:
    """lr * sum over k < terms of (I - lr H)^k a. growth: how much larger than the first a term may
    be where curvature is negative. a: (n,), contiguous, left as it is.
    """
    total, found = torch.empty_like(a), _Found()
    work = a.new_empty(2 * a.numel())
    product.solve(
        "neumann_solve", a.data_ptr(), total.data_ptr(), work.data_ptr(), lr, terms, growth, found
    )
    size, least, residual, products, stopped = found[:5]
    return Series(total, size, least, residual, int(products), bool(stopped))
