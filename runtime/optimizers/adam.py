r"""Adam, and AdamW with decoupled weight decay.

    m = lerp(m, g, 1 - b1)             v = b2 v + (1 - b2) g^2
    theta -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)

adam adds wd * theta to g; adamw first scales theta by 1 - lr * wd. With amsgrad, v is replaced by
its running maximum. State: two tensors (three with amsgrad).

Kingma and Ba, ICLR 2015, arXiv:1412.6980; Loshchilov and Hutter, ICLR 2019, arXiv:1711.05101;
Reddi, Kale and Kumar, ICLR 2018.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bettyc.runtime.optimizers.arithmetic import Pure, root
from bettyc.runtime.optimizers.rule import Options, Rule, State


def init(theta: Tensor, options: Options) -> State:
    state: State = {"m": torch.zeros_like(theta), "v": torch.zeros_like(theta)}
    if options["amsgrad"]:
        state["v_max"] = torch.zeros_like(theta)
    return state


def adam(
    theta: Tensor, grad: Tensor, state: State, count: int, options: Options, ops: type[Pure] = Pure
) -> tuple[Tensor, State]:
    decay = options["weight_decay"]
    if isinstance(decay, Tensor) or decay != 0:
        grad = Pure.add(grad, theta, decay)
    return _moments(theta, grad, state, count + 1, options, ops)


def adamw(
    theta: Tensor, grad: Tensor, state: State, count: int, options: Options, ops: type[Pure] = Pure
) -> tuple[Tensor, State]:
    decay, lr = options["weight_decay"], options["lr"]
    if isinstance(decay, Tensor) or decay != 0:
        theta = ops.scale(theta, 1 - lr * decay)
    return _moments(theta, grad, state, count + 1, options, ops)


def _moments(
    theta: Tensor, grad: Tensor, state: State, step: int, options: Options, ops: type[Pure]
) -> tuple[Tensor, State]:
    beta1, beta2 = options["betas"]
    m = ops.lerp(state["m"], grad, 1 - beta1)
    v = ops.addmul(ops.scale(state["v"], beta2), grad, grad, 1 - beta2)
    new: State = {"m": m, "v": v}
    if options["amsgrad"]:
        v = new["v_max"] = torch.maximum(state["v_max"], v)
    rate = options["lr"] / (1 - beta1**step)
    spread = root(v) / (1 - beta2**step) ** 0.5 + options["eps"]
    return ops.adddiv(theta, m, spread, -rate), new


ADAM = Rule(init, adam)
ADAMW = Rule(init, adamw)
