"""Numbers that are not finite: found once per update of the top level, named by level, update and
cause.

Losses are kept as tensors while a period runs and looked at together at its end, so that no inner
step waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite

import torch

from bettyc.failures import DivergedError
from bettyc.runtime.stage import Stage


def watch(stages: Sequence[Stage], losses: Iterable[float], step: int) -> None:
    """Raise DivergedError for the lowest level that has left the finite numbers. losses: the last
    one of every level, as far as it has been computed.
    """
    # A sum is finite only where every entry is; one that overflows is looked at again below.
    sums = [s.theta[s.name].sum() for s in stages]
    if sums and sums[0].device.type != "cpu":
        sums = [torch.stack(sums).sum()]  # to wait for the device once
    if all(map(isfinite, losses)) and all(isfinite(float(x)) for x in sums):
        return
    for stage in stages:
        first = next(
            (k for k, x in enumerate(stage.losses) if not bool(torch.isfinite(x.detach()).all())),
            None,
        )
        if first is not None:
            value = stage.losses[first].detach().sum().item()
            raise DivergedError(
                stage.name, step, first, f"its objective is {value}", _advice(stage, first)
            )
        if not bool(torch.isfinite(stage.theta[stage.name]).all()):
            place = _place(stage)
            cause = f"the gradient of its last update was not finite, at {place}"
            raise DivergedError(stage.name, step, len(stage.losses) - 1, cause, _advice(stage, 1))


def _advice(stage: Stage, first: int) -> str:
    if first == 0 and stage.state.updates[stage.name] <= 1:
        return "it was not finite at the initial values"
    rate = stage.options.fixed.get("lr")
    return (
        f"lower `{stage.name}.optimizer.lr`, now {rate:g}, or set `clip`"
        if isinstance(rate, float)
        else ""
    )


def _place(stage: Stage) -> str:
    """The first variable with an entry that is not finite."""
    frozen = stage.state.buffers[stage.name]["frozen"]
    for name, value in stage.layout.values(stage.theta[stage.name], frozen):
        if not bool(torch.isfinite(value).all()):
            return f"`{stage.name}.{name}`"
    return f"`{stage.name}`"
