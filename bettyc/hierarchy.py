"""The order of the levels and what follows from it: who depends on whom, and the sweep of adjoints.

`bettyc.inference` finds it. NetworkX holds the graph that users see (`bettyc.graph`); this is on
sets because importing NetworkX takes 0.17 s, most of what `bettyc check` may take.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import TopologicalSorter

from bettyc.diagnostics.span import Span
from bettyc.model import Read


@dataclass(frozen=True)
class Mentions:
    """What one level's objective mentions of the others, in the order of the text.

    lets: name and span of the level's `let`s, for MLO0307. feels: its own variables are in its
    objective. inner: how much else speaks for a level that others are above (it says how to
    differentiate through it, how it starts, how many steps it takes); only for wording.
    """

    level: str
    reads: tuple[Read, ...]
    lets: tuple[tuple[str, Span], ...] = ()
    feels: bool = True
    inner: int = 0


@dataclass
class Hierarchy:
    """The order of the levels. `below[p]` are all levels under p; `order` is from lowest to
    highest.

    starred[p][q] and value[p][q]: the first mention that makes q's response / value part of p's
    objective; frozen[p][q]: starred inside `detach`; implied[p][r]: the read of r by the starred
    level.
    """

    levels: tuple[str, ...]
    starred: dict[str, dict[str, Read]] = field(default_factory=dict)
    frozen: dict[str, dict[str, Read]] = field(default_factory=dict)
    value: dict[str, dict[str, Read]] = field(default_factory=dict)
    implied: dict[str, dict[str, Read]] = field(default_factory=dict)
    below: dict[str, frozenset[str]] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    _moves: dict[tuple[str, str], bool] = field(default_factory=dict, repr=False, compare=False)
    _inputs: dict[str, frozenset[str]] = field(default_factory=dict, repr=False, compare=False)

    def direct(self, level: str) -> set[str]:
        """The levels right below one: those it stars, frozen or not, and those implied."""
        return {*self.starred[level], *self.frozen[level], *self.implied[level]}

    def depends(self, level: str, on: str) -> bool:
        """Does the level's solution move with the variables of `on`, levels between them
        included?
        """
        key = (level, on)
        if key not in self._moves:
            self._moves[key] = self._depends(level, on)
        return self._moves[key]

    def readers(self, level: str) -> tuple[str, ...]:
        """The levels that star one, outside `detach`."""
        return self._starring.get(level, ())

    @cached_property
    def _starring(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for p in self.levels:
            for q in self.starred[p]:
                found[q] = (*found.get(q, ()), p)
        return found

    @cached_property
    def lower(self) -> frozenset[str]:
        """The levels that are below another."""
        return frozenset(q for p in self.levels for q in self.direct(p))

    @cached_property
    def constant(self) -> frozenset[str]:
        """The levels whose response some level takes as a constant."""
        return frozenset(q for p in self.levels for q in self.frozen[p])

    @cached_property
    def _read(self) -> frozenset[str]:
        """The levels whose value is read anywhere."""
        return frozenset(r for reads in self.value.values() for r in reads)

    def _depends(self, level: str, on: str) -> bool:
        """Follow what enters the level's solution: values that it and its starred levels read."""
        if on not in self._read:
            return False
        below = self.below[on]
        seen = {level}
        stack = [level]
        while stack:
            current = stack.pop()
            if on in self.value[current]:
                return True
            # a value above `on` is held fixed while `on` moves
            entering = [r for r in self.value[current] if r in below]
            for other in (*self.starred[current], *entering):
                if other not in seen:
                    seen.add(other)
                    stack.append(other)
        return False

    def arrow(self, root: str, level: str) -> tuple[str, ...]:
        """Where the adjoint of a level below `root` flows: level => R (DESIGN 3), R inside.

        The level reads R's value, or stars R and R's solution does not move with the level's
        variables.
        """
        below = self.below[root]
        reads = {r for r in self.value[level] if r == root or r in below}
        reads |= {r for r in self.starred[level] if r in below and not self.depends(r, level)}
        return tuple(sorted(reads))

    def walk(self, root: str, level: str) -> tuple[str, ...]:
        """Where an adjoint flows in Betty, which follows stars whatever moves with what, and values
        of the root alone.
        """
        reads = set(self.starred[level])
        return tuple(sorted(reads | ({root} & set(self.value[level]))))

    def arrows(self, root: str) -> dict[str, tuple[str, ...]]:
        """The relation of `arrow` on all levels below `root`."""
        return {level: self.arrow(root, level) for level in sorted(self.below[root])}

    def inputs(self, level: str) -> frozenset[str]:
        """The levels that the reduced objective of `level` is a function of, besides itself: its
        own reads, and those of the levels whose solutions move with it.
        """
        waiting = [level]  # no recursion: a chain may have thousands of levels
        while waiting:
            before = self._note_inputs(waiting[-1])
            if before is None:
                waiting.pop()
            else:
                waiting.append(before)
        return self._inputs[level]

    def _note_inputs(self, level: str) -> str | None:
        """Find the inputs of a level; gives a level below it that has to come first, if any."""
        if level in self._inputs:
            return None
        inner: set[str] = set()
        found: set[str] = set()
        stack = [*self.starred[level], *self.value[level]]
        while stack:
            q = stack.pop()
            if q == level or q in inner or q in found:
                continue
            if q in self.below[level] and self.depends(q, level):
                if q not in self._inputs:
                    return q
                inner.add(q)
                stack.extend(self._inputs[q])
            else:
                found.add(q)
        self._inputs[level] = frozenset(found)
        return None

    def sweep(
        self, root: str, total: frozenset[str] = frozenset(), walk: bool = False
    ) -> list[tuple[str, tuple[str, ...]]]:
        """Levels in the order of the adjoint sweep, each with where its adjoint flows; from those
        in `total` to everything their reduced objective is a function of; with `walk` as in Betty.

        Only levels that the root's starred reads reach and from which the root can be reached.
        Raises CycleError when the relation is cyclic.
        """
        arrows: dict[str, tuple[str, ...]] = {}
        into: dict[str, list[str]] = {root: []}
        stack = list(self.starred[root])
        while stack:
            level = stack.pop()
            if level in arrows:
                continue
            arrows[level] = self.walk(root, level) if walk else self.arrow(root, level)
            if level in total:
                inside = self.inputs(level) & (self.below[root] | {root})
                arrows[level] = tuple(sorted(inside))
            for r in arrows[level]:
                into.setdefault(r, []).append(level)
                if r != root:
                    stack.append(r)
        useful = {root}
        stack = [root]
        while stack:
            for level in into.get(stack.pop(), ()):
                if level not in useful:
                    useful.add(level)
                    stack.append(level)
        useful.discard(root)
        graph = {q: {r for r in arrows[q] if r in useful} for q in sorted(useful)}
        # static_order gives what others depend on first: R before Q, so the sweep is its reverse
        order = stable_order(graph)[::-1]
        return [(q, tuple(r for r in arrows[q] if r in useful or r == root)) for q in order]


def stable_order(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """A topological order (predecessors first) that depends on names alone, not on the order of
    the text.
    """
    sorter: TopologicalSorter[str] = TopologicalSorter(graph)
    sorter.prepare()
    order: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        order.extend(ready)
        sorter.done(*ready)
    return order
