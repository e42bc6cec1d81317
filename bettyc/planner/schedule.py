"""The schedule: a whole run as one nested-loop program.

`steps` of a level are its updates per update of the levels above, or per round of the run where
there is none above. Levels that share a lower level move together. Where the graph leaves the
order free, names decide, never the order of the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from bettyc.hierarchy import Hierarchy
from bettyc.plan import Instruction, Pull, Repeat, Solve, Start, Step


@dataclass(frozen=True)
class Pace:
    """How a level moves: `steps` updates per update above, or until it is solved; `start` where
    it begins.
    """

    steps: int
    solves: bool
    start: str
    warmup: int = 0


class ConflictError(Exception):
    """MLO0615: `lower` is updated by two levels that take different numbers of steps."""

    def __init__(self, lower: str, first: str, second: str) -> None:
        super().__init__(lower, first, second)
        self.lower, self.first, self.second = lower, first, second


def schedule(
    h: Hierarchy,
    paces: Mapping[str, Pace],
    sweeps: Mapping[str, tuple[Pull, ...]],
    steps: int,
) -> tuple[Instruction, ...]:
    """The program of a whole run. Raises ConflictError."""
    tops = sorted(set(h.levels).difference(*(h.direct(p) for p in h.levels)))
    body = _blocks(h, _clusters(h, tops), paces, sweeps)
    return (*_warmups(h, paces, sweeps), Repeat(steps, tuple(body)))


def _warmups(
    h: Hierarchy, paces: Mapping[str, Pace], sweeps: Mapping[str, tuple[Pull, ...]]
) -> Iterator[Instruction]:
    """Each level's warm-up in turn, from the lowest, with what is below it moving as always."""
    for level in h.order:
        if paces[level].warmup:
            inner = _blocks(h, under(h, [level]), paces, sweeps)
            yield Repeat(paces[level].warmup, (*inner, _move(level, paces[level], sweeps)))


def _move(level: str, pace: Pace, sweeps: Mapping[str, tuple[Pull, ...]]) -> Instruction:
    kind = Solve if pace.solves else Step
    return kind(level, sweeps[level])


@dataclass
class _Frame:
    """A block being made: what has to happen before `cluster` moves once."""

    cluster: list[str]
    under: Iterator[list[str]]
    block: list[Instruction] = field(default_factory=list)


def _blocks(
    h: Hierarchy,
    clusters: list[list[str]],
    paces: Mapping[str, Pace],
    sweeps: Mapping[str, tuple[Pull, ...]],
) -> list[Instruction]:
    """The updates of `clusters` and all below them in one round. Not recursive: chains may be
    long.
    """
    frames = [_Frame([], iter(clusters))]
    while True:
        frame = frames[-1]
        cluster = next(frame.under, None)
        if cluster is not None:
            _same_rate(h, cluster, paces)
            frames.append(_Frame(cluster, iter(under(h, cluster))))
            continue
        frames.pop()
        if not frames:
            return frame.block
        outer = frames[-1].block
        outer += [Start(c) for c in frame.cluster if paces[c].start != "warm"]
        inner = frame.block + [_move(c, paces[c], sweeps) for c in frame.cluster]
        times = _rate(paces[frame.cluster[0]])
        outer += inner if times == 1 else [Repeat(times, tuple(inner))]


def _same_rate(h: Hierarchy, cluster: list[str], paces: Mapping[str, Pace]) -> None:
    first = cluster[0]
    for other in cluster[1:]:
        if _rate(paces[other]) != _rate(paces[first]):
            shared = sorted((h.below[first] | {first}) & (h.below[other] | {other}))
            raise ConflictError(shared[0], first, other)


def _rate(pace: Pace) -> int:
    return 1 if pace.solves else pace.steps


def under(h: Hierarchy, uppers: list[str]) -> list[list[str]]:
    """The levels right under `uppers`, below none of the others there, in clusters."""
    direct: set[str] = set().union(*(h.direct(p) for p in uppers))
    return _clusters(h, sorted(direct.difference(*(h.below[q] for q in direct))))


def _clusters(h: Hierarchy, levels: list[str]) -> list[list[str]]:
    """Levels that share a lower level move together; the others apart."""
    if len(levels) < 2:
        return [levels] if levels else []
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
