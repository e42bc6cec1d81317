r"""Adagrad.

    v += g^2;   theta -= lr / (1 + (t - 1) * lr_decay) * g / (sqrt(v) + eps)

Duchi, Hazan and Singer, JMLR 12 (2011).
"""

from __future__ import annotations

import torch
from torch import Tensor

from bettyc.runtime.optimizers.arithmetic import Pure, root
from bettyc.runtime.optimizers.rule import Options, Rule, State


def init(theta: Tensor, options: Options) -> State:
    return {"v": torch.full_like(theta, options["initial_accumulator_value"])}


def update(
    theta: Tensor, grad: Tensor, state: State, count: int, options: Options, ops: type[Pure] = Pure
) -> tuple[Tensor, State]:
    decay = options["weight_decay"]
    if isinstance(decay, Tensor) or decay != 0:
        grad = Pure.add(grad, theta, decay)
    v = ops.addmul(state["v"], grad, grad, 1)
    rate = options["lr"] / (1 + count * options["lr_decay"])
    theta = ops.adddiv(theta, grad, root(v) + options["eps"], -rate)
    return theta, {"v": v}


RULE = Rule(init, update)
