"""Detached values of a formula, kept while its variables are moved.

What is detached is no function of the variables. A derivative by autograd knows that; a finite
difference only does if the value stays the same at both points.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor


class Held:
    """What the text of a formula passes its detached values through, by the number of the node."""

    def __init__(self) -> None:
        self._values: dict[int, list[Tensor]] = {}
        self._recording = False
        self._next: dict[int, int] | None = None

    def __call__(self, node: int, value: Tensor) -> Tensor:
        """The value, detached; the recorded one while replaying."""
        if self._next is not None:
            k = self._next.get(node, 0)
            self._next[node] = k + 1
            return self._values[node][k]
        value = value.detach()
        if self._recording:
            self._values.setdefault(node, []).append(value)
        return value

    @contextmanager
    def recording(self) -> Iterator[None]:
        """One evaluation inside is remembered."""
        self._values, self._recording = {}, True
        try:
            yield
        finally:
            self._recording = False

    @contextmanager
    def replaying(self) -> Iterator[None]:
        """One evaluation inside sees the values of the recorded one."""
        self._next = {}
        try:
            yield
        finally:
            self._next = None
