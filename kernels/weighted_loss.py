r"""Per-sample weighted losses with their derivatives, in one pass over the outputs.

    loss = scale sum_i w_i l(z_i, y_i)
    dz_i = scale w_i l'(z_i, y_i)        the derivative in the outputs
    l_i  = l(z_i, y_i)                   scale l_i is the derivative in the weight w_i

    bce        l = max(z, 0) - z y + log(1 + exp(-|z|))    l' = sigmoid(z) - y    y in [0, 1]
    squared    l = (z - y)^2 / 2                           l' = z - y
    xent       l = logsumexp(z) - z_y                      l' = softmax(z) - e_y  y a class

z and y are (n,), but z is (n, k) for xent.

The exponent of a positive number is never taken. `loss` is summed in float64 through partials in a
fixed order. Bytes per element of float32 z, k columns: 4 for z, 4 for dz, and 12 / k per row;
torch's autograd moves about three times that.

Reweighting: Ren, Zeng, Yang, Urtasun. ICML 2018, arXiv:1803.09050.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from bettyc.kernels import checks, dispatch
from bettyc.kernels.jit import jit

if TYPE_CHECKING:
    import triton.language as tl

Kind = Literal["bce", "squared", "xent"]
KINDS = ("bce", "squared", "xent")
MAX_COLUMNS = 8192  # a row of the outputs lies in registers


def weighted_loss(
    kind: Kind, z: Tensor, y: Tensor, w: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss (float64 scalar), dz (like z) and the losses of the samples (n,).

    z: (n,) for bce and squared, (n, k) for xent. y: like z, or int64 (n,) in [0, k). w: (n,), dtype
    of z.
    """
    check(kind, z, y, w)
    return dispatch.run("weighted_loss", WAYS, z, kind, z, y, w, scale)


def check(kind: str, z: Tensor, y: Tensor, w: Tensor) -> None:
    """Raise ValueError unless the operands fit. That classes are in range is the caller's care."""
    op = "weighted_loss"
    if kind not in KINDS:
        raise ValueError(f"{op}: no loss {kind!r}; losses: {', '.join(KINDS)}")
    if z.dim() != (2 if kind == "xent" else 1) or (kind == "xent" and z.shape[1] == 0):
        raise ValueError(f"{op}: `z` has shape {tuple(z.shape)} for {kind}")
    checks.operands(op, z=z, y=y, w=w)
    checks.shape(op, "y", y, (z.shape[0],))
    checks.shape(op, "w", w, (z.shape[0],))
    if y.dtype != (torch.int64 if kind == "xent" else z.dtype) or w.dtype != z.dtype:
        raise ValueError(f"{op}: dtypes of z, y, w are {z.dtype}, {y.dtype}, {w.dtype}")


def reference(
    kind: Kind, z: Tensor, y: Tensor, w: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The formulas in torch."""
    if kind == "bce":
        each = z.clamp(min=0) - z * y + torch.log1p(torch.exp(-z.abs()))
        slope = torch.sigmoid(z) - y
    elif kind == "squared":
        slope = z - y
        each = slope.square() / 2
    else:
        top = torch.log_softmax(z, 1)
        each = -top.gather(1, y[:, None])[:, 0]
        slope = top.exp()
        slope[torch.arange(len(y), device=y.device), y] -= 1
    factor = scale * w
    return (
        scale * (w.double() * each.double()).sum(),
        slope * (factor[:, None] if kind == "xent" else factor),
        each,
    )


@jit
def scalar_loss_kernel(
    z, y, w, dz, each, sums, scale: tl.float64, n, SQUARED: tl.constexpr, BLOCK: tl.constexpr
):
    i_p = tl.program_id(0)
    o = tl.cast(i_p, tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m = o < n
    b_z = tl.load(z + o, mask=m, other=0.0)
    b_y = tl.load(y + o, mask=m, other=0.0)
    b_w = tl.load(w + o, mask=m, other=0.0)
    if SQUARED:
        b_slope = b_z - b_y
        b_each = b_slope * b_slope * 0.5
    else:
        b_e = tl.exp(-tl.abs(b_z))
        # log(1 + e), without losing e below the rounding of 1
        b_log = tl.where(b_e < 1e-4, b_e * (1.0 - 0.5 * b_e), tl.log(1.0 + b_e))
        b_each = tl.maximum(b_z, 0.0) - b_z * b_y + b_log
        b_slope = tl.where(b_z >= 0.0, 1.0, b_e) / (1.0 + b_e) - b_y
    tl.store(each + o, b_each, mask=m)
    tl.store(dz + o, tl.cast(scale, b_z.dtype) * b_w * b_slope, mask=m)
    b_sum = tl.where(m, tl.cast(b_w, tl.float64) * tl.cast(b_each, tl.float64), 0.0)
    tl.store(sums + i_p, tl.sum(b_sum, 0))


@jit
def xent_kernel(
    z, y, w, dz, each, sums, scale: tl.float64, n, k, ROWS: tl.constexpr, K: tl.constexpr
):
    i_p = tl.program_id(0)
    o_n = tl.cast(i_p, tl.int64) * ROWS + tl.arange(0, ROWS)
    o_k = tl.arange(0, K)
    m_n = o_n < n
    m = m_n[:, None] & (o_k < k)[None, :]
    o = o_n[:, None] * k + o_k[None, :]
    # [ROWS, K]
    b_z = tl.load(z + o, mask=m, other=float("-inf"))
    b_z = tl.where(m_n[:, None], b_z, 0.0)
    b_y = tl.load(y + o_n, mask=m_n, other=0)
    b_w = tl.load(w + o_n, mask=m_n, other=0.0)
    b_hit = o_k[None, :] == b_y[:, None]
    b_z -= tl.max(b_z, 1)[:, None]
    b_e = tl.exp(b_z)
    b_total = tl.sum(b_e, 1)
    b_each = tl.log(b_total) - tl.sum(tl.where(b_hit, b_z, 0.0), 1)
    b_slope = b_e / b_total[:, None] - tl.where(b_hit, 1.0, 0.0)
    tl.store(each + o_n, b_each, mask=m_n)
    tl.store(dz + o, (tl.cast(scale, b_w.dtype) * b_w)[:, None] * b_slope, mask=m)
    b_sum = tl.where(m_n, tl.cast(b_w, tl.float64) * tl.cast(b_each, tl.float64), 0.0)
    tl.store(sums + i_p, tl.sum(b_sum, 0))


def launch(
    kind: Kind, z: Tensor, y: Tensor, w: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One program per block of rows; the partial sums are added by torch."""
    n, k = z.shape[0], 1 if z.dim() == 1 else z.shape[1]
    if k > MAX_COLUMNS or not n:
        return reference(kind, z, y, w, scale)
    wide = 1 << (k - 1).bit_length()
    block = 1024 if kind != "xent" else max(1, 2048 // wide)
    grid = (-(-n // block),)
    dz, each = torch.empty_like(z), torch.empty_like(w)
    sums = z.new_empty(grid, dtype=torch.float64)
    if kind == "xent":
        xent_kernel[grid](
            z,
            y,
            w,
            dz,
            each,
            sums,
            scale,
            n,
            k,
            ROWS=block,
            K=wide,
            num_warps=4 if wide <= 2048 else 8,
        )
    else:
        squared = kind == "squared"
        scalar_loss_kernel[grid](
            z, y, w, dz, each, sums, scale, n, SQUARED=squared, BLOCK=block, num_warps=4
        )
    return scale * sums.sum(), dz, each


WAYS = {"torch": reference, "triton": launch}
