r"""One term of the truncated Neumann series, in place.

    v -= lr q          total += v          with q = H v

so that lr * total tends to H^-1 a for v = total = a at the start, when every eigenvalue of H lies
in (0, 2 / lr). v.q and v.v, by which the series is watched, come with it, summed in float64. Bytes
per element of float32: 20 (v, total, q; v, total); as two operations and two dots 36.

Lorraine, Vicol, Duvenaud. AISTATS 2020, arXiv:1911.02590, algorithm 3.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bettyc.kernels import checks, dispatch, native
from bettyc.kernels.cg_update import BLOCK, programs
from bettyc.kernels.jit import jit

if TYPE_CHECKING:
    import triton.language as tl


def neumann_update(v: Tensor, total: Tensor, q: Tensor, lr: float) -> tuple[float, float]:
    """v -= lr q, then total += v, in place; gives v.q before and v.v after, which waits for the
    device. All (n,), contiguous, of one dtype.
    """
    found: tuple[float, float] | Tensor = neumann_queued(v, total, q, lr)
    if isinstance(found, Tensor):
        along, square = found.tolist()
        return along, square
    return found


def neumann_queued(v: Tensor, total: Tensor, q: Tensor, lr: float) -> Tensor | tuple[float, float]:
    """As `neumann_update`, without waiting: the two numbers are a tensor, (2,), but in C."""
    checks.vectors("neumann_update", v=v, total=total, q=q)
    checks.apart("neumann_update", v=v, total=total, q=q)
    return dispatch.run("neumann_update", WAYS, v, v, total, q, lr)  # type: ignore[no-any-return]


def reference(v: Tensor, total: Tensor, q: Tensor, lr: float) -> Tensor:
    """The two updates in torch."""
    along = v @ q
    v.add_(q, alpha=-lr)
    total.add_(v)
    return torch.stack((along, v @ v))


def _native(v: Tensor, total: Tensor, q: Tensor, lr: float) -> tuple[float, float]:
    update, found = native.function("neumann_update", v.dtype), (ctypes.c_double * 2)()
    update(v.data_ptr(), total.data_ptr(), q.data_ptr(), lr, v.numel(), native.threads(), found)
    return found[0], found[1]


@jit
def neumann_update_kernel(v, total, q, sums, lr: tl.float64, n, BLOCK: tl.constexpr):
    # sums[i, program]: v.q before, v.v after
    i_p = tl.program_id(0)
    programs = tl.num_programs(0)
    b_vq = tl.zeros([BLOCK], tl.float64)
    b_vv = tl.zeros([BLOCK], tl.float64)
    for i in range(i_p, tl.cdiv(n, BLOCK), programs):
        o = tl.cast(i, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        m = o < n
        b_v = tl.load(v + o, mask=m, other=0.0)
        b_q = tl.load(q + o, mask=m, other=0.0)
        b_vq += tl.cast(b_v, tl.float64) * tl.cast(b_q, tl.float64)
        b_v -= tl.cast(lr, b_v.dtype) * b_q
        b_vv += tl.cast(b_v, tl.float64) * tl.cast(b_v, tl.float64)
        tl.store(v + o, b_v, mask=m)
        tl.store(total + o, tl.load(total + o, mask=m, other=0.0) + b_v, mask=m)
    tl.store(sums + i_p, tl.sum(b_vq, 0))
    tl.store(sums + programs + i_p, tl.sum(b_vv, 0))


def launch(v: Tensor, total: Tensor, q: Tensor, lr: float) -> Tensor:
    """One launch; the partial sums are added in a fixed order."""
    count = programs(v.numel())
    sums = v.new_empty((2, count), dtype=torch.float64)
    neumann_update_kernel[(count,)](v, total, q, sums, lr, v.numel(), BLOCK=BLOCK, num_warps=8)
    return sums.sum(1)


WAYS = {"torch": reference, "native": _native, "triton": launch}
