"""What an optimizer is to the runtime: how its state begins, and one update.

    update(theta, grad, state, options, ops) -> (theta, state)

theta and grad have the same shape; with `ops = Pure` nothing is overwritten and the result is
differentiable in theta, grad, state and every option that is a tensor; with `ops = InPlace` theta and
the tensors of state are overwritten. The bits are those of torch.optim's single-tensor code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from bettyc.runtime.optimizers.arithmetic import Pure

# Tensors of the shape of theta, and the number of updates so far under "step".
State: TypeAlias = "dict[str, Tensor | int]"
Options: TypeAlias = Mapping[str, Any]
Update: TypeAlias = "Callable[[Tensor, Tensor, State, Options, type[Pure]], tuple[Tensor, State]]"


class Rule(NamedTuple):
    """init(theta, options) gives the state before the first update."""

    init: Callable[[Tensor, Options], State]
    update: Update
