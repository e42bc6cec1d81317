"""Many updates of one level in a row, where nothing asks or changes anything in between.

The last of them is an ordinary update, which leaves the loss. Those before are the gradient by
formula and the optimizer's rule, in place on a copy that nobody else holds.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bettyc.runtime.optimizers.arithmetic import InPlace
from bettyc.runtime.stage import Stage

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


def advance(stage: Stage, count: int) -> None:
    """`count` updates of a level that is `straight`."""
    if count > 1:
        _inner(stage, count - 1)
        stage.losses += [UNSEEN] * (count - 1)
    stage.step()


def _inner(stage: Stage, count: int) -> None:
    name, state = stage.name, stage.state
    own = stage.theta[name] = stage.theta[name].clone()
    memory = {key: value.clone() for key, value in state.optimizer[name].items()}
    closed = stage.objective.closed
    assert closed is not None
    first = state.gradients[name]
    frame, plain = stage.feed.next(), _plain_rate(stage)
    if plain is not None:
        # Nothing that is made here outlives it, so autograd need not know of it.
        with torch.inference_mode():
            _descend(own, closed.slope(stage.theta, frame), plain, count)
    else:
        with torch.no_grad():
            slope = closed.slope(stage.theta, frame)
            memory = _follow(stage, own, slope, memory, first, count)
    state.optimizer[name] = memory
    state.gradients[name] = first + count
    state.updates[name] += count


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
    descend = getattr(slope, "descend", None)
    if descend is not None:
        descend(lr, count)
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


__all__ = ["CHUNK", "advance", "straight"]
