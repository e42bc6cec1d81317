"""Partial sums of squares, for kernels that need a norm on the device.

sums[i] is the sum, in float64, of v_j^2 over the blocks i, i + count, ... of v; whoever needs the
norm adds the `count` numbers, a power of two of them, in its own kernel. 4 bytes per element of
float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bettyc.kernels.cg_update import BLOCK, programs
from bettyc.kernels.jit import jit

if TYPE_CHECKING:
    import triton.language as tl


@jit
def sum_squares_kernel(v, sums, n, BLOCK: tl.constexpr):
    i_p = tl.program_id(0)
    b_sum = tl.zeros([BLOCK], tl.float64)
    for i in range(i_p, tl.cdiv(n, BLOCK), tl.num_programs(0)):
        o = tl.cast(i, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        b_v = tl.cast(tl.load(v + o, mask=o < n, other=0.0), tl.float64)
        b_sum += b_v * b_v
    tl.store(sums + i_p, tl.sum(b_sum, 0))


def launch_sum_squares(v: Tensor) -> Tensor:
    """The partial sums of a contiguous tensor, float64 (count,)."""
    count = programs(v.numel())
    sums = v.new_empty(count, dtype=torch.float64)
    sum_squares_kernel[(count,)](v, sums, v.numel(), BLOCK=BLOCK, num_warps=8)
    return sums
