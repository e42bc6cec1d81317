"""The inner updates since a level's last start, kept for strategies that differentiate through
them.

Recorded only for levels whose strategy asks for it; see
`bettyc.runtime.strategies.system.Trajectory` for the contract. With `accumulate`, a step here is
one gradient; the update happens at the last of a group.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from bettyc.runtime.objective import Frame
from bettyc.runtime.products import Products

Tensors = dict[str, Tensor]
# (theta_l, grad, state, count, theta of all levels) -> (theta_l, state): what one gradient does
# (theta of all levels, the level's own before it starts) -> its own at the start
Origin = Callable[[Mapping[str, Tensor], Tensor], Tensor]
Advance = Callable[[Tensor, Tensor, Tensors, int, Mapping[str, Tensor]], tuple[Tensor, Tensors]]


class Record(NamedTuple):
    """One gradient: where it was taken (None but for records that may come first), what it saw,
    and how many gradients the optimizer's state had seen before. slope: the graph of the gradient,
    gradient: it alone; where they were kept.
    """

    theta: Tensor | None
    state: Tensors | None
    frame: Frame
    below: Mapping[str, Tensor]
    count: int
    slope: Products | None = None
    gradient: Tensor | None = None


@dataclass
class Trajectory:
    """The updates of one level since its last start, since its warm-up, or since the level above
    last moved.

    advance: one step of the optimizer. origin: theta at the start as a function of the other
    levels (`start = copy(...)`) and of itself before it; None where it does not depend on them.
    keep: forget all but the last so many gradients, 0 for none. group: gradients to one update.
    """

    apply: Advance
    origin: Origin | None = None
    keep: int = 0
    group: int = 1
    records: deque[Record] = field(default_factory=deque)
    dropped: int = 0
    copied: bool = False

    def clear(self, copied: bool = False) -> None:
        """Begin anew; `copied`: from a copy of another level."""
        self.records.clear()
        self.dropped = 0
        self.copied = copied

    def add(
        self,
        theta: Tensor,
        state: Tensors,
        frame: Frame,
        below: Mapping[str, Tensor],
        count: int,
        slope: Products | None = None,
        gradient: Tensor | None = None,
    ) -> None:
        """Note a gradient. Tensors are kept, not copied: a recorded level is updated out of
        place.
        """
        whole = bool(self.keep) or not self.records or slope is not None
        at = (theta, state) if whole else (None, None)
        self.records.append(Record(*at, frame, below, count, slope, gradient))
        if self.keep and len(self.records) > self.keep:
            self.records.popleft()
            self.dropped += 1

    @property
    def length(self) -> int:
        return len(self.records)

    def begin(self, others: Mapping[str, Tensor]) -> tuple[Tensor, Tensors]:
        """theta and the optimizer's state before the first step that is kept."""
        first = self.records[0]
        assert first.theta is not None
        assert first.state is not None
        if self.origin is not None and self.copied and not self.dropped:
            return self.origin(others, first.theta), dict(first.state)
        return first.theta, dict(first.state)

    @property
    def sloped(self) -> bool:
        """Whether the graphs of all gradients were kept."""
        return all(record.slope is not None for record in self.records)

    def gradient(self, k: int) -> Tensor | None:
        return self.records[k].gradient

    def frame(self, k: int) -> Frame:
        return self.records[k].frame

    def below(self, k: int) -> Mapping[str, Tensor]:
        return self.records[k].below

    def advance(
        self, k: int, theta: Tensor, grad: Tensor, state: Tensors, others: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensors]:
        return self.apply(theta, grad, state, self.records[k].count, others)
