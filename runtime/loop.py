"""Many updates of one level in a row, where nothing asks or changes anything in between.

They are the gradient by formula and the optimizer's rule, in place on a copy that nobody else
holds. The last one leaves the loss: as an ordinary update, or, where all of them are one call of C,
as the point that it is taken at, and it is computed if somebody reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from bettyc.runtime.optimizers.arithmetic import InPlace
from bettyc.runtime.passes import Slope
from bettyc.runtime.stage import LARGE, Stage

# Updates between two looks at whether the run is to stop; also where losses are looked at.
CHUNK = 100
# In the place of losses that were not computed, so that those that were keep their numbers.
UNSEEN = torch.zeros(())


def straight(stage: Stage) -> bool:
    """Whether updates of the level can run in a row."""
    return (
        stage.objective.closed is not None
        and stage.gradient == stage.own_gradient
        and stage.rule is not None
        and stage.replicas is None
        and stage.trajectory is None
        and stage.hooks is None
        and stage.plan.stop is None
        and stage.simple
        and stage.feed.fixed
        and not stage.options.formulas
    )


class Later:
    """A loss that is computed when it is read."""

    def __init__(self, compute: Callable[[], Tensor]) -> None:
        self._compute = compute

    @cached_property
    def _value(self) -> Tensor:
        with torch.no_grad():
            return self._compute()

    def detach(self) -> Tensor:
        """The loss, as of a tensor."""
        return self._value


def advance(stage: Stage, count: int) -> None:
    """`count` updates of a level that is `straight`."""
    name, state = stage.name, stage.state
    first, plain = state.gradients[name], _plain_rate(stage)
    own = stage.theta[name] = stage.theta[name].clone()
    closed = stage.objective.closed
    assert closed is not None
    frame = stage.feed.next()
    before: Tensor | None = None
    if plain is not None:
        # Nothing that is made here outlives it, so autograd need not know of it.
        with torch.inference_mode():
            slope = closed.slope(stage.theta, frame)
            if isinstance(slope, Slope) and _small(stage):
                before = torch.empty_like(own)
                slope.descend(plain, count, before)
            else:
                _descend(own, slope, plain, count - 1)
    else:
        memory = {key: value.clone() for key, value in state.optimizer[name].items()}
        with torch.no_grad():
            slope = closed.slope(stage.theta, frame)
            state.optimizer[name] = _follow(stage, own, slope, memory, first, count - 1)
    done = count - (before is None)
    state.gradients[name] = first + done
    state.updates[name] += done
    stage.losses += [UNSEEN] * (count - 1)
    if before is None:
        stage.step()
        return
    stage.stale = False
    point = {**stage.theta, name: before}
    stage.losses.append(Later(lambda: stage.objective(point, frame)))


def _small(stage: Stage) -> bool:
    """Whether no variable that the objective reads is overwritten: a point stays what it was."""
    return all(stage.theta[n].numel() < LARGE for n in stage.objective.reads)


def _plain_rate(stage: Stage) -> float | None:
    """The learning rate where an update is nothing but a step along the gradient."""
    fixed = stage.options.fixed
    if stage.plan.optimizer.name != "sgd" or stage.options.rates is not None:
        return None
    if stage.options.groups:
        return None
    if fixed["momentum"] or fixed["weight_decay"]:
        return None
    return float(fixed["lr"])


def _descend(own: Tensor, slope: Callable[[], Tensor], lr: float, count: int) -> None:
    if isinstance(slope, Slope):
        slope.descend(lr, count)
        return
    add, rate = own.add_, -lr
    for _ in range(count):
        add(slope(), alpha=rate)


def _follow(
    stage: Stage,
    own: Tensor,
    slope: Callable[[], Tensor],
    memory: dict[str, Tensor],
    first: int,
    count: int,
) -> dict[str, Tensor]:
    """The rule of any optimizer."""
    assert stage.rule is not None
    update, at, others = stage.rule.update, stage.options.at, stage.theta
    for k in range(first, first + count):
        grad = slope()
        if grad.data_ptr() == own.data_ptr():
            # The gradient of half a square is the variable, and rules may overwrite that first.
            grad = own.clone()
        found, memory = update(own, grad, memory, k, at(k, others), InPlace)
        if found is not own:
            own.copy_(found)
    return memory


__all__ = ["CHUNK", "Later", "advance", "straight"]
