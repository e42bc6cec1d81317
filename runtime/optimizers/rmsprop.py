r"""RMSprop, with the optional centring and momentum that torch has.

    v = a v + (1 - a) g^2,  and with centring  v - mean^2
    theta -= lr * g / (sqrt(v) + eps)   or, with momentum,  m = mu m + g / (...), theta -= lr m

Hinton, lecture 6 of "Neural Networks for Machine Learning", 2012; centring: Graves,
arXiv:1308.0850.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bettyc.runtime.optimizers.arithmetic import Pure, root
from bettyc.runtime.optimizers.rule import Options, Rule, State


def init(theta: Tensor, options: Options) -> State:
    state: State = {"v": torch.zeros_like(theta)}
    if options["momentum"] > 0:
        state["momentum"] = torch.zeros_like(theta)
    if options["centered"]:
        state["mean"] = torch.zeros_like(theta)
    return state


def update(
    theta: Tensor, grad: Tensor, state: State, count: int, options: Options, ops: type[Pure] = Pure
) -> tuple[Tensor, State]:
    alpha, decay, momentum = options["alpha"], options["weight_decay"], options["momentum"]
    if isinstance(decay, Tensor) or decay != 0:
        grad = Pure.add(grad, theta, decay)
    v = ops.addmul(ops.scale(state["v"], alpha), grad, grad, 1 - alpha)
    new: State = {"v": v}
    if options["centered"]:
        mean = new["mean"] = ops.lerp(state["mean"], grad, 1 - alpha)
        v = Pure.addmul(v, mean, mean, -1)
    spread = root(v) + options["eps"]
    if momentum > 0:
        m = new["momentum"] = ops.adddiv(ops.scale(state["momentum"], momentum), grad, spread, 1)
        return ops.add(theta, m, -options["lr"]), new
    return ops.adddiv(theta, grad, spread, -options["lr"]), new


RULE = Rule(init, update)
