"""Whether the work at hand is to become a CUDA graph: then nothing may wait for the device.

Inside `recording` every function takes the way without looks at the device, and random numbers
under a seed are drawn from generators that whoever records has registered (`drawn`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

# (number of the evaluation, seed) -> what random numbers are drawn under
Draw = Callable[[int, int], AbstractContextManager[None]]


class _Recording:
    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.seeds: list[int] = []


_now: _Recording | None = None


def underway() -> bool:
    """Whether nothing may wait for the device."""
    if _now is not None:
        return True
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


@contextmanager
def recording(draw: Draw = lambda number, seed: nullcontext()) -> Iterator[list[int]]:
    """Inside, work is recorded, or done in the way in which it will be recorded. Gives the seeds
    under which random numbers are drawn, in the order of the evaluations.
    """
    global _now
    before, _now = _now, _Recording(draw)
    try:
        yield _now.seeds
    finally:
        _now = before


@contextmanager
def drawn(seed: int) -> Iterator[bool]:
    """Random numbers under a seed; gives whether it took care of that, which it does while work is
    recorded.
    """
    if _now is None:
        yield False
        return
    _now.seeds.append(seed)
    with _now.draw(len(_now.seeds) - 1, seed):
        yield True
