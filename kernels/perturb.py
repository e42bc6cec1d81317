r"""Both points of a central difference, as copies.

    plus = theta + step v      minus = theta - step v      step = eps, or eps / |v| if relative

theta itself is only read, so nothing drifts when it is used again. |v| is summed in float64 through
partials in a fixed order and stays on the device. v = 0 gives two copies of theta.
Bytes per element of float32: 16 (theta, v; plus, minus), and 4 for the norm; as operations 40.

DARTS, Liu, Simonyan, Yang, ICLR 2019, arXiv:1806.09055, section 2.3 (eps = 0.01, relative).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bettyc.kernels import checks, dispatch, native
from bettyc.kernels.jit import jit
from bettyc.kernels.sum_squares import launch_sum_squares

if TYPE_CHECKING:
    import triton.language as tl

BLOCK = 1024


def perturb(
    theta: Tensor,
    v: Tensor,
    eps: float,
    *,
    relative: bool = True,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """theta + step v, theta - step v, and the step, a float64 scalar on the device.

    theta, v: (n,), contiguous, of one dtype. out: two tensors like theta, written and returned.
    """
    plus, minus = out or (torch.empty_like(theta), torch.empty_like(theta))
    checks.vectors("perturb", theta=theta, v=v, plus=plus, minus=minus)
    checks.apart("perturb", theta=theta, plus=plus, minus=minus)
    checks.apart("perturb", v=v, plus=plus, minus=minus)
    step = dispatch.run("perturb", WAYS, theta, theta, v, plus, minus, eps, relative)
    return plus, minus, step


def reference(
    theta: Tensor, v: Tensor, plus: Tensor, minus: Tensor, eps: float, relative: bool
) -> Tensor:
    """The two updates in torch."""
    step = torch.full((), eps, dtype=torch.float64, device=theta.device)
    if relative:
        norm = v.double().square().sum().sqrt()
        step = torch.where(norm > 0, step / norm, 0.0)
    shift = step.to(theta.dtype) * v
    plus.copy_(theta + shift)
    minus.copy_(theta - shift)
    return step


def _native(
    theta: Tensor, v: Tensor, plus: Tensor, minus: Tensor, eps: float, relative: bool
) -> Tensor:
    step = native.function("perturb", theta.dtype)(
        theta.data_ptr(), v.data_ptr(), plus.data_ptr(), minus.data_ptr(), eps, relative,
        theta.numel(), native.threads(),
    )  # fmt: skip
    return torch.tensor(step, dtype=torch.float64)


@jit
def perturb_kernel(
    theta, v, plus, minus, sums, step, eps: tl.float64, n,
    COUNT: tl.constexpr, RELATIVE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i_p = tl.program_id(0)
    scale = tl.cast(eps, tl.float64)
    if RELATIVE:
        squared = tl.sum(tl.load(sums + tl.arange(0, COUNT)), 0)
        scale = tl.where(squared > 0.0, scale / tl.sqrt(tl.where(squared > 0.0, squared, 1.0)), 0.0)
    if i_p == 0:
        tl.store(step, scale)
    o = tl.cast(i_p, tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m = o < n
    b_theta = tl.load(theta + o, mask=m, other=0.0)
    b_shift = tl.cast(scale, b_theta.dtype) * tl.load(v + o, mask=m, other=0.0)
    tl.store(plus + o, b_theta + b_shift, mask=m)
    tl.store(minus + o, b_theta - b_shift, mask=m)


def launch(
    theta: Tensor, v: Tensor, plus: Tensor, minus: Tensor, eps: float, relative: bool
) -> Tensor:
    """The norm where it is needed, then one program per block."""
    n = theta.numel()
    step = theta.new_empty((), dtype=torch.float64)
    sums = launch_sum_squares(v) if relative else step
    perturb_kernel[(max(1, -(-n // BLOCK)),)](
        theta, v, plus, minus, sums, step, eps, n,
        COUNT=sums.numel(), RELATIVE=relative, BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
    return step


WAYS = {"torch": reference, "native": _native, "triton": launch}
