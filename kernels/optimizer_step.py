r"""One optimizer step on a flat buffer, with weight decay and clipping, in place.

    g = c grad,   c = min(1, max_norm / (|grad| + 1e-6)), 1 without max_norm
    sgd     g += wd theta;  m = mu m + (1 - dampening) g  (m = g in the first step)
            theta -= lr m, or lr (g + mu m) with nesterov, or lr g where mu = 0
    adam    g += wd theta            adamw   theta -= lr wd theta
            m += (1 - b1) (g - m);  v = b2 v + (1 - b2) g^2
            theta -= lr / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps)

The formulas and the defaults are torch.optim's (clipping: torch.nn.utils.clip_grad_norm_). t is
counted in a tensor on the device and lr may be one, so that a captured graph can be replayed while
both change. Bytes per element of float32: sgd 12, with momentum 20, adam and adamw 28; 4 more with
max_norm.

Kingma and Ba, ICLR 2015, arXiv:1412.6980; Loshchilov and Hutter, ICLR 2019, arXiv:1711.05101.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from bettyc.kernels import checks, dispatch, native
from bettyc.kernels.jit import jit
from bettyc.kernels.sum_squares import launch_sum_squares

if TYPE_CHECKING:
    import triton.language as tl

BLOCK = 1024


@dataclass(frozen=True)
class Options:
    """What stays the same from step to step. `lr` is an argument of the step."""

    rule: Literal["sgd", "adam", "adamw"]
    weight_decay: float = 0.0
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    max_norm: float | None = None

    def __post_init__(self) -> None:
        if self.rule not in ("sgd", "adam", "adamw"):
            raise ValueError(f"optimizer_step: no rule {self.rule!r}; rules: sgd, adam, adamw")
        if self.nesterov and (self.momentum <= 0 or self.dampening != 0):
            raise ValueError("optimizer_step: nesterov needs momentum above 0 and no dampening")
        if self.max_norm is not None and not self.max_norm >= 0:
            raise ValueError(f"optimizer_step: max_norm is {self.max_norm}")


@dataclass(frozen=True)
class State:
    """m, v: like theta, or None where the rule has none. count: float64 scalar, steps taken."""

    m: Tensor | None
    v: Tensor | None
    count: Tensor


def start(theta: Tensor, options: Options) -> State:
    """The state before the first step."""
    adam = options.rule != "sgd"
    m = torch.zeros_like(theta) if adam or options.momentum else None
    count = torch.zeros((), dtype=torch.float64, device=theta.device)
    return State(m, torch.zeros_like(theta) if adam else None, count)


def optimizer_step(
    theta: Tensor, grad: Tensor, state: State, lr: float | Tensor, options: Options
) -> None:
    """Update theta (n,) and the state in place. lr: a number, or a float64 scalar tensor."""
    operands = {"theta": theta, "grad": grad}
    operands |= {} if state.m is None else {"m": state.m}
    operands |= {} if state.v is None else {"v": state.v}
    checks.vectors("optimizer_step", **operands)
    checks.apart("optimizer_step", **operands)
    if isinstance(lr, Tensor) and (lr.shape != () or lr.dtype != torch.float64):
        raise ValueError(
            f"optimizer_step: `lr` is {lr.dtype} {tuple(lr.shape)}, not a float64 scalar"
        )
    dispatch.run("optimizer_step", WAYS, theta, theta, grad, state, lr, options)


def reference(
    theta: Tensor, grad: Tensor, state: State, lr: float | Tensor, options: Options
) -> None:
    """The step in torch, scalars in float64 on the device."""
    state.count.add_(1)
    g = grad if options.max_norm is None else grad * clip(grad, options.max_norm).to(grad.dtype)
    decay = options.weight_decay
    if options.rule == "adamw":
        theta.mul_(_as(theta, 1 - lr * decay))
    elif decay:
        g = g + decay * theta
    if options.rule == "sgd":
        theta.sub_(_as(theta, lr) * _momentum(g, state, options))
        return
    assert state.m is not None
    assert state.v is not None
    beta1, beta2 = options.betas
    state.m.lerp_(g, 1 - beta1)
    state.v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    rate = lr / (1 - beta1**state.count)
    spread = (1 - beta2**state.count).sqrt()
    theta.sub_(_as(theta, rate) * state.m / (state.v.sqrt() / _as(theta, spread) + options.eps))


def clip(grad: Tensor, max_norm: float) -> Tensor:
    """The factor that brings |grad| down to max_norm; float64 scalar, at most 1."""
    return (max_norm / (grad.double().square().sum().sqrt() + 1e-6)).clamp(max=1.0)


def _momentum(g: Tensor, state: State, options: Options) -> Tensor:
    if state.m is None:
        return g
    mu = options.momentum
    later = mu * state.m + (1 - options.dampening) * g
    state.m.copy_(torch.where(state.count == 1, g, later))
    return g + mu * state.m if options.nesterov else state.m


def _as(theta: Tensor, scalar: float | Tensor) -> float | Tensor:
    return scalar.to(theta.dtype) if isinstance(scalar, Tensor) else scalar


def _native(
    theta: Tensor, grad: Tensor, state: State, lr: float | Tensor, options: Options
) -> None:
    state.count.add_(1)
    n, threads, decay = theta.numel(), native.threads(), options.weight_decay
    factor = 1.0
    if options.max_norm is not None:
        squared = native.function("sum_squares", grad.dtype)(grad.data_ptr(), n, threads)
        factor = min(1.0, options.max_norm / (squared**0.5 + 1e-6))
    pointers = (theta.data_ptr(), grad.data_ptr(), native.pointer(state.m))
    if options.rule == "sgd":
        mode = 0 if state.m is None else (2 if options.nesterov else 1) + 4 * int(state.count == 1)
        native.function("sgd_step", theta.dtype)(
            *pointers,
            float(lr),
            decay,
            options.momentum,
            options.dampening,
            mode,
            factor,
            n,
            threads,
        )
        return
    native.function("adam_step", theta.dtype)(
        *pointers, native.pointer(state.v), float(lr), decay, *options.betas, options.eps,
        options.rule == "adamw", factor, float(state.count), n, threads,
    )  # fmt: skip


@jit
def clip_factor(sums, max_norm, COUNT: tl.constexpr):
    norm = tl.sqrt(tl.sum(tl.load(sums + tl.arange(0, COUNT)), 0))
    return tl.minimum(tl.cast(max_norm, tl.float64) / (norm + 1e-6), 1.0)


@jit
def sgd_kernel(
    theta, grad, buffer, count, lr_tensor, sums,
    lr: tl.float64, decay: tl.float64, momentum: tl.float64, dampening: tl.float64,
    max_norm: tl.float64, n,
    MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr, LR_TENSOR: tl.constexpr,
    COUNT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # COUNT = 0 stands for no clipping; `count` already counts this step
    o = tl.cast(tl.program_id(0), tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m = o < n
    b_theta = tl.load(theta + o, mask=m, other=0.0)
    b_g = tl.load(grad + o, mask=m, other=0.0)
    if COUNT > 0:
        b_g *= tl.cast(clip_factor(sums, max_norm, COUNT), b_g.dtype)
    b_g += tl.cast(decay, b_g.dtype) * b_theta
    if MOMENTUM:
        b_m = tl.cast(momentum, b_g.dtype) * tl.load(buffer + o, mask=m, other=0.0)
        b_m += tl.cast(1.0 - dampening, b_g.dtype) * b_g
        b_m = tl.where(tl.load(count) <= 1.0, b_g, b_m)
        tl.store(buffer + o, b_m, mask=m)
        if NESTEROV:
            b_g += tl.cast(momentum, b_g.dtype) * b_m
        else:
            b_g = b_m
    rate = tl.cast(tl.load(lr_tensor) if LR_TENSOR else lr, b_g.dtype)
    tl.store(theta + o, b_theta - rate * b_g, mask=m)


@jit
def adam_kernel(
    theta, grad, first, second, count, lr_tensor, sums, lr: tl.float64, decay: tl.float64,
    beta1: tl.float64, beta2: tl.float64, log_beta1: tl.float64, log_beta2: tl.float64,
    eps: tl.float64, max_norm: tl.float64, n,
    DECOUPLED: tl.constexpr, LR_TENSOR: tl.constexpr, COUNT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # beta^t is exp(t log beta), in float64
    o = tl.cast(tl.program_id(0), tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m = o < n
    b_theta = tl.load(theta + o, mask=m, other=0.0)
    b_g = tl.load(grad + o, mask=m, other=0.0)
    if COUNT > 0:
        b_g *= tl.cast(clip_factor(sums, max_norm, COUNT), b_g.dtype)
    rate = tl.cast(tl.load(lr_tensor) if LR_TENSOR else lr, tl.float64)
    if DECOUPLED:
        b_theta *= tl.cast(1.0 - rate * decay, b_g.dtype)
    else:
        b_g += tl.cast(decay, b_g.dtype) * b_theta
    t = tl.load(count)
    rate = rate / (1.0 - tl.exp(t * tl.cast(log_beta1, tl.float64)))
    fix = 1.0 / tl.sqrt(1.0 - tl.exp(t * tl.cast(log_beta2, tl.float64)))
    b_m = tl.load(first + o, mask=m, other=0.0)
    b_m += tl.cast(1.0 - beta1, b_g.dtype) * (b_g - b_m)
    b_v = tl.cast(beta2, b_g.dtype) * tl.load(second + o, mask=m, other=0.0)
    b_v += tl.cast(1.0 - beta2, b_g.dtype) * b_g * b_g
    tl.store(first + o, b_m, mask=m)
    tl.store(second + o, b_v, mask=m)
    b_spread = tl.sqrt(b_v) * tl.cast(fix, b_g.dtype) + tl.cast(eps, b_g.dtype)
    tl.store(theta + o, b_theta - tl.cast(rate, b_g.dtype) * b_m / b_spread, mask=m)


def launch(theta: Tensor, grad: Tensor, state: State, lr: float | Tensor, options: Options) -> None:
    """The norm where there is clipping, then one program per block."""
    state.count.add_(1)
    n = theta.numel()
    sums, used = state.count, 0
    if options.max_norm is not None:
        sums = launch_sum_squares(grad)
        used = sums.numel()
    grid = (max(1, -(-n // BLOCK)),)
    shared = {"LR_TENSOR": isinstance(lr, Tensor), "COUNT": used, "BLOCK": BLOCK, "num_warps": 4}
    limit = options.max_norm or 0.0
    pointer, number = (lr, 0.0) if isinstance(lr, Tensor) else (state.count, lr)
    if options.rule == "sgd":
        sgd_kernel[grid](
            theta, grad, theta if state.m is None else state.m, state.count, pointer, sums,
            number, options.weight_decay, options.momentum, options.dampening, limit, n,
            MOMENTUM=state.m is not None, NESTEROV=options.nesterov, **shared,
        )  # fmt: skip
        return
    log1, log2 = torch.tensor(options.betas, dtype=torch.float64).log().tolist()
    adam_kernel[grid](
        theta, grad, state.m, state.v, state.count, pointer, sums, number, options.weight_decay,
        *options.betas, log1, log2, options.eps, limit, n,
        DECOUPLED=options.rule == "adamw", **shared,
    )  # fmt: skip


WAYS = {"torch": reference, "native": _native, "triton": launch}
