r"""Stochastic gradient descent with momentum.

    d = g + wd * theta
    m = d at the first update, then  mu m + (1 - dampening) d
    theta -= lr * (d + mu m  if nesterov, else m)

State: one tensor with momentum, none without. Sutskever et al., ICML 2013; the form torch uses.
"""

from __future__ import annotations

from torch import Tensor

from bettyc.runtime.optimizers.arithmetic import Pure
from bettyc.runtime.optimizers.rule import Options, Rule, State


def init(theta: Tensor, options: Options) -> State:
    return {}


def update(
    theta: Tensor, grad: Tensor, state: State, count: int, options: Options, ops: type[Pure] = Pure
) -> tuple[Tensor, State]:
    decay, momentum = options["weight_decay"], options["momentum"]
    if isinstance(decay, Tensor) or decay != 0:
        grad = Pure.add(grad, theta, decay)
    if isinstance(momentum, Tensor) or momentum != 0:
        m = state.get("momentum")
        m = (
            grad.clone()
            if m is None
            else ops.add(ops.scale(m, momentum), grad, 1 - options["dampening"])
        )
        state = {"momentum": m}
        grad = Pure.add(grad, m, momentum) if options["nesterov"] else m
    return ops.add(theta, grad, -options["lr"]), state


RULE = Rule(init, update)
