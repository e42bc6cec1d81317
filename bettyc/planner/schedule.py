"""The schedule: a whole run as one nested-loop program.

`steps` of a level are its updates per update of the levels above, so levels that share a lower level
move together. Where the graph leaves the order free, names decide, never the order of the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bettyc.hierarchy import Hierarchy
from bettyc.plan import Instruction, Pull, Repeat, Solve, Start, Step


@dataclass(frozen=True)
class Pace:
    """How a level moves: `steps` updates per update above, or until it is solved; `start` where it begins."""

    steps: int
    solves: bool
    start: str


class ConflictError(Exception):
    """MLO0615: `lower` is updated by two levels that take different numbers of steps."""

    def __init__(self, lower: str, first: str, second: str) -> None:
        super().__init__(lower, first, second)
        self.lower, self.first, self.second = lower, first, second


def schedule(h: Hierarchy, paces: Mapping[str, Pace], sweeps: Mapping[str, tuple[Pull, ...]],
             steps: int) -> tuple[Instruction, ...]:
    """The program of a whole run. Raises ConflictError."""
    tops = _maximal(h, h.levels)
    body: list[Instruction] = []
    for cluster in _clusters(h, tops):
        body += _lower_blocks(h, cluster, paces, sweeps)
        body += [_move(p, paces[p], sweeps) for p in cluster]
    return (Repeat(steps, tuple(body)),)


def _move(level: str, pace: Pace, sweeps: Mapping[str, tuple[Pull, ...]]) -> Instruction:
    kind = Solve if pace.solves else Step
    return kind(level, sweeps[level])


def _lower_blocks(h: Hierarchy, uppers: list[str], paces: Mapping[str, Pace],
                  sweeps: Mapping[str, tuple[Pull, ...]]) -> list[Instruction]:
    """What has to happen before `uppers` move once."""
    under = sorted(set().union(*(h.below[p] for p in uppers)))
    block: list[Instruction] = []
    for cluster in _clusters(h, _maximal(h, under)):
        first = cluster[0]
        for other in cluster[1:]:
            if _rate(paces[other]) != _rate(paces[first]):
                shared = sorted((h.below[first] | {first}) & (h.below[other] | {other}))
                raise ConflictError(shared[0], first, other)
        block += [Start(c) for c in cluster if paces[c].start != "warm"]
        inner = _lower_blocks(h, cluster, paces, sweeps)
        inner += [_move(c, paces[c], sweeps) for c in cluster]
        times = 1 if paces[first].solves else paces[first].steps
        block += inner if times == 1 else [Repeat(times, tuple(inner))]
    return block


def _rate(pace: Pace) -> int:
    return 1 if pace.solves else pace.steps


def _maximal(h: Hierarchy, levels: Iterable[str]) -> list[str]:
    """Those that are below none of the others."""
    levels = set(levels)
    covered: set[str] = set().union(*(h.below[p] for p in levels)) if levels else set()
    return sorted(levels - covered)


def _clusters(h: Hierarchy, levels: list[str]) -> list[list[str]]:
    """Levels that share a lower level move together; the others apart."""
    owner: dict[str, int] = {}
    groups: dict[int, list[str]] = {}
    for k, level in enumerate(levels):
        merged = [level]
        touched = {owner[b] for b in h.below[level] if b in owner}
        for g in touched:
            merged += groups.pop(g)
        groups[k] = merged
        for member in merged:
            for b in h.below[member]:
                owner[b] = k
    return sorted((sorted(g) for g in groups.values()), key=lambda g: g[0])
