"""Parameter groups: variables of one level that its optimizer updates with other options.

Each group is updated by the optimizer's rule on its own part of theta, with options of its own, as
torch.optim does with `param_groups`. State is kept by group: `0/m`, `1/m`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bettyc.runtime.optimizers.arithmetic import InPlace, Pure
from bettyc.runtime.optimizers.rule import Options, Rule, State
from bettyc.runtime.optimizers.torch_optim import View


class Group(NamedTuple):
    """Ranges of the last axis of theta, in order, and the rule for what they hold together."""

    ranges: tuple[tuple[int, int], ...]
    rule: Rule

    def take(self, theta: Tensor) -> Tensor:
        """This group's part, a view where it is one range."""
        parts = [theta[..., a:b] for a, b in self.ranges]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def grouped(
    make: Callable[[Sequence[View]], Rule], views: Sequence[View], members: Sequence[Sequence[int]]
) -> Rule:
    """One rule for the whole of theta. members: of each group, places in `views`; options come as
    one mapping per group under `groups`.
    """
    # a group without variables takes part in nothing
    groups = {
        k: _group(make, [views[i] for i in places]) for k, places in enumerate(members) if places
    }

    def init(theta: Tensor, options: Options) -> State:
        state: State = {}
        for k, group in groups.items():
            own = group.rule.init(group.take(theta), options["groups"][k])
            state |= {f"{k}/{name}": value for name, value in own.items()}
        return state

    def update(
        theta: Tensor,
        grad: Tensor,
        state: State,
        count: int,
        options: Options,
        ops: type[Pure] = Pure,
    ) -> tuple[Tensor, State]:
        pieces: dict[int, Tensor] = {}
        new: State = {}
        for k, group in groups.items():
            own = {n.partition("/")[2]: v for n, v in state.items() if n.startswith(f"{k}/")}
            moved, own = group.rule.update(
                group.take(theta), group.take(grad), own, count, options["groups"][k], ops
            )
            new |= {f"{k}/{name}": value for name, value in own.items()}
            lengths = [b - a for a, b in group.ranges]
            for (start, _), piece in zip(group.ranges, moved.split(lengths, -1), strict=True):
                pieces[start] = piece
        if ops is not InPlace:
            return torch.cat([pieces[start] for start in sorted(pieces)], -1), new
        for start, piece in pieces.items():
            theta[..., start : start + piece.shape[-1]].copy_(piece)
        return theta, new

    return Rule(init, update)


def _group(make: Callable[[Sequence[View]], Rule], views: Sequence[View]) -> Group:
    ranges: list[tuple[int, int]] = []
    inside: list[View] = []
    at = 0
    for view in views:
        inside.append(View(at, at + view.stop - view.start, view.shape))
        at = inside[-1].stop
        if ranges and ranges[-1][1] == view.start:
            ranges[-1] = (ranges[-1][0], view.stop)
        else:
            ranges.append((view.start, view.stop))
    return Group(tuple(ranges), make(inside))
