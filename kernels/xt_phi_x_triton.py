"""The Triton kernels of xt_phi_x.py, which says what they compute.

Vector (k = 1, diagonal phi) and matrix forms are apart: the vector form multiplies and sums in
registers, the matrix form uses `tl.dot`. In both, each program walks over blocks of rows with a
stride of the number of programs, and keeps its own sum of shape (d, k).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bettyc.kernels.jit import jit

if TYPE_CHECKING:
    import triton.language as tl

Empty = Callable[[str, tuple[int, ...]], Tensor]

MAX_RESIDENT_VECTOR = 16384  # d of the resident vector form
MAX_RESIDENT_MATRIX = 4096  # d k of the resident matrix form; 8192 spills on sm_90
MAX_COLUMNS = 64
MAX_BLOCK_COLUMNS = 32  # phi = blocks holds (16, k, k) at a time
PROGRAMS = 264  # two for each of the 132 multiprocessors of an H100 or H200


def fits(blocks: bool, k: int) -> bool:
    """Whether there is a kernel for k columns."""
    return k <= (MAX_BLOCK_COLUMNS if blocks else MAX_COLUMNS)


@jit
def apply_phi(
    b_z, o_n, m_n, data, weights, k,
    KIND: tl.constexpr, WEIGHTED: tl.constexpr, ROWS: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    # b_z: [ROWS, K], zero beyond k columns
    o_k = tl.arange(0, K)
    m_k = o_k < k
    m = m_n[:, None] & m_k[None, :]
    if KIND == 0:
        b_s = b_z * tl.load(data + o_n[:, None] * k + o_k[None, :], mask=m, other=0.0)
    elif KIND == 1:
        b_p = tl.load(data + o_n[:, None] * k + o_k[None, :], mask=m, other=0.0)
        b_s = b_p * (b_z - tl.sum(b_p * b_z, 1)[:, None])
        if WEIGHTED:
            b_s = b_s * tl.load(weights + o_n, mask=m_n, other=0.0)[:, None]
    elif KIND == 3:
        b_p = tl.load(data + o_n[:, None] * k + o_k[None, :], mask=m, other=0.0)
        b_q = tl.load(weights + o_n[:, None] * k + o_k[None, :], mask=m, other=0.0)
        b_s = b_q * (b_z - tl.sum(b_p * b_z, 1)[:, None])
    else:
        # [ROWS, K, K]: row i of a block times z
        o_b = (o_n[:, None, None] * k + o_k[None, :, None]) * k + o_k[None, None, :]
        b_a = tl.load(data + o_b, mask=m[:, :, None] & m_k[None, None, :], other=0.0)
        b_s = tl.sum(b_a * b_z[:, None, :], 2)
    return b_s


@jit
def resident_vector_kernel(
    x, v, w, sums, n, d, stride,
    ROWS: tl.constexpr, D: tl.constexpr, PREFETCH: tl.constexpr, ATOMIC: tl.constexpr,
):  # fmt: skip
    i_p = tl.program_id(0)
    o_d = tl.arange(0, D)
    m_d = o_d < d
    o_r = tl.arange(0, ROWS)
    o_n = tl.cast(i_p, tl.int64) * ROWS + o_r
    b_sum = tl.zeros([D], v.dtype.element_ty)
    if PREFETCH:
        # [ROWS, D]
        b_next = tl.load(
            x + o_n[:, None] * stride + o_d[None, :],
            mask=(o_n < n)[:, None] & m_d[None, :],
            other=0.0,
        )
    for i in range(i_p, tl.cdiv(n, ROWS), tl.num_programs(0)):
        # with PREFETCH the next rows are on their way while these are summed; v comes from L1,
        # which leaves its registers to them
        if PREFETCH:
            b_x = b_next
            o_n = tl.cast(i + tl.num_programs(0), tl.int64) * ROWS + o_r
        else:
            o_n = tl.cast(i, tl.int64) * ROWS + o_r
        b_next = tl.load(
            x + o_n[:, None] * stride + o_d[None, :],
            mask=(o_n < n)[:, None] & m_d[None, :],
            other=0.0,
        )
        if PREFETCH:
            o_n = tl.cast(i, tl.int64) * ROWS + o_r
        else:
            b_x = b_next
        b_v = tl.load(v + o_d, mask=m_d, other=0.0)
        b_x = tl.cast(b_x, b_v.dtype)
        b_s = tl.sum(b_x * b_v[None, :], 1) * tl.load(w + o_n, mask=o_n < n, other=0.0)
        b_sum += tl.sum(b_x * b_s[:, None], 0)
    if ATOMIC:
        tl.atomic_add(sums + o_d, b_sum, mask=m_d)
    else:
        tl.store(sums + tl.cast(i_p, tl.int64) * d + o_d, b_sum, mask=m_d)


@jit
def resident_matrix_kernel(
    x, v, data, weights, sums, n, d, k, stride,
    KIND: tl.constexpr, WEIGHTED: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr,
    K: tl.constexpr, ATOMIC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    i_p = tl.program_id(0)
    o_d = tl.arange(0, D)
    o_k = tl.arange(0, K)
    m_d = o_d < d
    m_v = m_d[:, None] & (o_k < k)[None, :]
    o_v = o_d[:, None] * k + o_k[None, :]
    b_v = tl.load(v + o_v, mask=m_v, other=0.0)
    b_sum = tl.zeros([D, K], b_v.dtype)
    for i in range(i_p, tl.cdiv(n, ROWS), tl.num_programs(0)):
        o_n = tl.cast(i, tl.int64) * ROWS + tl.arange(0, ROWS)
        m_n = o_n < n
        b_x = tl.load(
            x + o_n[:, None] * stride + o_d[None, :], mask=m_n[:, None] & m_d[None, :], other=0.0
        )
        b_x = tl.cast(b_x, b_v.dtype)
        b_z = tl.dot(b_x, b_v, input_precision=PRECISION, out_dtype=b_v.dtype)
        b_s = apply_phi(b_z, o_n, m_n, data, weights, k, KIND, WEIGHTED, ROWS, K)
        b_sum += tl.dot(tl.trans(b_x), b_s, input_precision=PRECISION, out_dtype=b_v.dtype)
    if ATOMIC:
        tl.atomic_add(sums + o_v, b_sum, mask=m_v)
    else:
        tl.store(sums + tl.cast(i_p, tl.int64) * d * k + o_v, b_sum, mask=m_v)


@jit
def row_kernel(
    x, v, data, weights, s, n, d, k, stride,
    KIND: tl.constexpr, WEIGHTED: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr,
    K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # two-phase, first: s = phi(X V), a block of rows per program
    o_n = tl.cast(tl.program_id(0), tl.int64) * ROWS + tl.arange(0, ROWS)
    o_k = tl.arange(0, K)
    m_n = o_n < n
    m_k = o_k < k
    b_z = tl.zeros([ROWS, K], v.dtype.element_ty)
    for i in range(0, tl.cdiv(d, D)):
        o_d = i * D + tl.arange(0, D)
        m_d = o_d < d
        b_x = tl.load(
            x + o_n[:, None] * stride + o_d[None, :], mask=m_n[:, None] & m_d[None, :], other=0.0
        )
        b_v = tl.load(
            v + tl.cast(o_d, tl.int64)[:, None] * k + o_k[None, :],
            mask=m_d[:, None] & m_k[None, :],
            other=0.0,
        )
        b_x = tl.cast(b_x, b_v.dtype)
        b_z += tl.dot(b_x, b_v, input_precision=PRECISION, out_dtype=b_v.dtype)
    b_s = apply_phi(b_z, o_n, m_n, data, weights, k, KIND, WEIGHTED, ROWS, K)
    tl.store(s + o_n[:, None] * k + o_k[None, :], b_s, mask=m_n[:, None] & m_k[None, :])


@jit
def column_kernel(
    x, s, sums, n, d, k, stride,
    ROWS: tl.constexpr, D: tl.constexpr, K: tl.constexpr, ATOMIC: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    # two-phase, second: X^T s; a block of columns and every num_programs(1)-th block of rows per
    # program
    i_p = tl.program_id(1)
    o_d = tl.program_id(0) * D + tl.arange(0, D)
    o_k = tl.arange(0, K)
    m_d = o_d < d
    m_k = o_k < k
    b_sum = tl.zeros([D, K], s.dtype.element_ty)
    for i in range(i_p, tl.cdiv(n, ROWS), tl.num_programs(1)):
        o_n = tl.cast(i, tl.int64) * ROWS + tl.arange(0, ROWS)
        m_n = o_n < n
        b_x = tl.load(
            x + o_n[:, None] * stride + o_d[None, :], mask=m_n[:, None] & m_d[None, :], other=0.0
        )
        b_s = tl.load(
            s + o_n[:, None] * k + o_k[None, :], mask=m_n[:, None] & m_k[None, :], other=0.0
        )
        b_x = tl.cast(b_x, b_s.dtype)
        b_sum += tl.dot(tl.trans(b_x), b_s, input_precision=PRECISION, out_dtype=b_s.dtype)
    o_v = tl.cast(o_d, tl.int64)[:, None] * k + o_k[None, :]
    m_v = m_d[:, None] & m_k[None, :]
    if ATOMIC:
        tl.atomic_add(sums + o_v, b_sum, mask=m_v)
    else:
        tl.store(sums + tl.cast(i_p, tl.int64) * d * k + o_v, b_sum, mask=m_v)


@jit
def finish_kernel(
    sums, v, ridge, out, size, count, scale: tl.float64, shift: tl.float64,
    RIDGE: tl.constexpr, COUNT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # out = scale (sum of the partial sums, in an order of their own) + shift v + ridge v
    o = tl.cast(tl.program_id(0), tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m = o < size
    b_v = tl.load(v + o, mask=m, other=0.0)
    # [COUNT, BLOCK]: many partial sums at once, because one after the other each waits for memory
    b_sum = tl.zeros([COUNT, BLOCK], b_v.dtype)
    for i in range(0, tl.cdiv(count, COUNT)):
        o_c = i * COUNT + tl.arange(0, COUNT)
        b_sum += tl.load(
            sums + tl.cast(o_c, tl.int64)[:, None] * size + o[None, :],
            mask=(o_c < count)[:, None] & m[None, :],
            other=0.0,
        )
    b_out = tl.cast(scale, b_v.dtype) * tl.sum(b_sum, 0) + tl.cast(shift, b_v.dtype) * b_v
    if RIDGE:
        b_out += tl.load(ridge + o, mask=m, other=0.0) * b_v
    tl.store(out + o, b_out, mask=m)


def launch(
    x: Tensor,
    v: Tensor,
    kind: int,
    data: Tensor,
    weights: Tensor | None,
    scale: float,
    shift: float,
    ridge: Tensor | None,
    out: Tensor,
    deterministic: bool,
    precision: str,
    empty: Empty,
) -> Tensor:
    """Partial sums, then their sum. kind, data and weights as xt_phi_x.row_data gives them. empty:
    gives working memory.
    """
    d = x.shape[1]
    k = 1 if v.dim() == 1 else v.shape[1]
    wide = power(d)
    columns = max(16, power(k))
    if kind == 0 and k == 1 and wide <= MAX_RESIDENT_VECTOR:
        sums = _resident_vector(x, v, data, wide, deterministic, empty)
    elif max(wide, 16) * columns <= _max_resident_matrix(v.dtype, kind, columns):
        sums = _resident_matrix(x, v, kind, data, weights, k, deterministic, precision, empty)
    else:
        sums = _two_phase(x, v, kind, data, weights, k, deterministic, precision, empty)
    block = 64
    finish_kernel[(-(-v.numel() // block),)](
        sums, v, v if ridge is None else ridge, out, v.numel(), sums.shape[0], scale, shift,
        RIDGE=ridge is not None, COUNT=32, BLOCK=block, num_warps=4,
    )  # fmt: skip
    return out


def _max_resident_matrix(dtype: torch.dtype, kind: int, columns: int) -> int:
    """The largest d k of the resident matrix form."""
    if dtype != torch.float64:
        return MAX_RESIDENT_MATRIX
    # blocks of 32 x 32 doubles for each of 16 rows leave no shared memory for the rest
    return 0 if kind == 2 and columns > 16 else MAX_RESIDENT_MATRIX // 2


def power(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << max(n - 1, 0).bit_length()


def _sums(v: Tensor, count: int, deterministic: bool, empty: Empty) -> Tensor:
    """(count, d, k), or (1, d, k) of zeros for atomics."""
    if deterministic:
        return empty("sums", (count, *v.shape))
    return empty("sums", (1, *v.shape)).zero_()


def _resident_vector(
    x: Tensor, v: Tensor, w: Tensor, wide: int, deterministic: bool, empty: Empty
) -> Tensor:
    n, d = x.shape
    # what an H200 ran fastest, over 60 choices for each of eight shapes (benchmarks/gpu.md)
    block = max(1, min(64, (16384 if x.element_size() == 2 else 8192) // wide))
    count = max(1, min(PROGRAMS * (2 if wide <= 256 else 1), -(-n // block)))
    sums = _sums(v, count, deterministic, empty)
    resident_vector_kernel[(count,)](
        x, v, w, sums, n, d, x.stride(0),
        ROWS=block, D=wide, PREFETCH=wide <= 256,
        ATOMIC=not deterministic, num_warps=4 if wide <= 1024 else 8 if wide <= 8192 else 16,
    )  # fmt: skip
    return sums


def _resident_matrix(
    x: Tensor, v: Tensor, kind: int, data: Tensor, weights: Tensor | None, k: int,
    deterministic: bool, precision: str, empty: Empty,
) -> Tensor:  # fmt: skip
    n, d = x.shape
    block = 16
    count = max(1, min(PROGRAMS, -(-n // block)))
    sums = _sums(v, count, deterministic, empty)
    resident_matrix_kernel[(count,)](
        x, v, data, data if weights is None else weights, sums, n, d, k, x.stride(0),
        KIND=kind, WEIGHTED=weights is not None, ROWS=block, D=max(16, power(d)),
        K=max(16, power(k)), ATOMIC=not deterministic, PRECISION=precision, num_warps=8,
    )  # fmt: skip
    return sums


def _two_phase(
    x: Tensor, v: Tensor, kind: int, data: Tensor, weights: Tensor | None, k: int,
    deterministic: bool, precision: str, empty: Empty,
) -> Tensor:  # fmt: skip
    n, d = x.shape
    columns = max(16, power(k))
    s = empty("rows", (n, k))
    row_block, wide = 16 if kind == 2 else 32, 64
    if n:
        row_kernel[(-(-n // row_block),)](
            x, v, data, data if weights is None else weights, s, n, d, k, x.stride(0),
            KIND=kind, WEIGHTED=weights is not None, ROWS=row_block, D=wide, K=columns,
            PRECISION=precision, num_warps=4,
        )  # fmt: skip
    across = -(-d // wide)
    count = max(1, min(-(-PROGRAMS * 4 // across), -(-n // 32)))
    sums = _sums(v, count, deterministic, empty)
    column_kernel[(across, count)](
        x, s, sums, n, d, k, x.stride(0),
        ROWS=32, D=wide, K=columns, ATOMIC=not deterministic, PRECISION=precision, num_warps=4,
    )  # fmt: skip
    return sums
