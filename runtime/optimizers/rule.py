"""What an optimizer is to the runtime: how its state begins, and one update.

    update(theta, grad, state, count, options, ops) -> (theta, state)

theta and grad have the same shape, count is the number of updates before this one (a scalar tensor
where updates are recorded, to be launched again), state holds tensors of the shape of theta. With
`ops = Pure` nothing is overwritten and the result is differentiable in theta, grad, state and every
option that is a tensor; with `ops = InPlace` theta and the tensors of state are overwritten. The
bits are those of torch.optim's single-tensor code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from bettyc.runtime.optimizers.arithmetic import Pure

State: TypeAlias = dict[str, Tensor]
Options: TypeAlias = Mapping[str, Any]
Update: TypeAlias = Callable[
    [Tensor, Tensor, State, Any, Options, type[Pure]], tuple[Tensor, State]
]


class Rule(NamedTuple):
    """init(theta, options) gives the state before the first update."""

    init: Callable[[Tensor, Options], State]
    update: Update
