r"""One term of the truncated Neumann series, in place.

    v -= lr q          total += v          with q = H v

so that lr * total tends to H^-1 a for v = total = a at the start, when every eigenvalue of H lies
in (0, 2 / lr). Bytes per element of float32: 20 (v, total, q; v, total); as two operations 24.

Lorraine, Vicol, Duvenaud. AISTATS 2020, arXiv:1911.02590, algorithm 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from bettyc.kernels import checks, dispatch, native
from bettyc.kernels.jit import jit

if TYPE_CHECKING:
    import triton.language as tl

BLOCK = 1024


def neumann_update(v: Tensor, total: Tensor, q: Tensor, lr: float) -> None:
    """v -= lr q, then total += v, in place. All (n,), contiguous, of one dtype."""
    checks.vectors("neumann_update", v=v, total=total, q=q)
    checks.apart("neumann_update", v=v, total=total, q=q)
    dispatch.run("neumann_update", WAYS, v, v, total, q, lr)


def reference(v: Tensor, total: Tensor, q: Tensor, lr: float) -> None:
    """The two updates in torch."""
    v.add_(q, alpha=-lr)
    total.add_(v)


def _native(v: Tensor, total: Tensor, q: Tensor, lr: float) -> None:
    update = native.function("neumann_update", v.dtype)
    update(v.data_ptr(), total.data_ptr(), q.data_ptr(), lr, v.numel(), native.threads())


@jit
def neumann_update_kernel(v, total, q, lr: tl.float64, n, BLOCK: tl.constexpr):
    o = tl.cast(tl.program_id(0), tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m = o < n
    b_v = tl.load(v + o, mask=m, other=0.0)
    b_v -= tl.cast(lr, b_v.dtype) * tl.load(q + o, mask=m, other=0.0)
    tl.store(v + o, b_v, mask=m)
    tl.store(total + o, tl.load(total + o, mask=m, other=0.0) + b_v, mask=m)


def launch(v: Tensor, total: Tensor, q: Tensor, lr: float) -> None:
    """One program per block."""
    if v.numel():
        neumann_update_kernel[(-(-v.numel() // BLOCK),)](
            v, total, q, lr, v.numel(), BLOCK=BLOCK, num_warps=4
        )


WAYS = {"torch": reference, "native": _native, "triton": launch}
