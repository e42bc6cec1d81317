"""Steps of the gradient's sign: theta -= lr * sign(g). With a ball or a box as domain this is
projected gradient descent in the maximum norm, the usual attack (Madry et al., ICLR 2018,
arXiv:1706.06083).
"""

from __future__ import annotations

import torch
from torch import Tensor

from bettyc.runtime.optimizers.arithmetic import Pure
from bettyc.runtime.optimizers.rule import Options, Rule, State


def init(theta: Tensor, options: Options) -> State:
    return {}


def update(
    theta: Tensor, grad: Tensor, state: State, count: int, options: Options, ops: type[Pure] = Pure
) -> tuple[Tensor, State]:
    return ops.add(theta, torch.sign(grad), -options["lr"]), state


RULE = Rule(init, update)
