"""Which solutions move with which variables: who is inside whose reduced objective.

Level q stars r if it reads r and r is lower in the order; it reads r's value if r is higher. The
solution of r moves with level q, above it, if r reads q's value, or reads in either way a level
below q whose solution does. Then r belongs inside q's reduced objective; everything else that is
read there is an input of it. DESIGN.md section 3 has the relation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bettyc.plan import Pull


@dataclass(frozen=True)
class Nest:
    """reads: level -> levels whose variables carry gradient into its objective. order: lowest
    first.
    """

    reads: Mapping[str, tuple[str, ...]]
    order: tuple[str, ...]
    _below: dict[str, frozenset[str]] = field(default_factory=dict, repr=False, compare=False)
    _parts: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def stars(self, q: str) -> tuple[str, ...]:
        """The levels whose responses q reads."""
        rank = self.order.index(q)
        return tuple(r for r in self.order[:rank] if r in self.reads[q])

    def values(self, q: str) -> tuple[str, ...]:
        """The levels whose current values q reads."""
        rank = self.order.index(q)
        return tuple(r for r in self.order[rank + 1 :] if r in self.reads[q])

    def below(self, q: str) -> frozenset[str]:
        """Every level below q: starred by it, reading its value, and so on downwards."""
        if q not in self._below:
            found: set[str] = set()
            stack = [q]
            while stack:
                upper = stack.pop()
                under = {*self.stars(upper), *(r for r in self.order if upper in self.values(r))}
                stack.extend(under - found)
                found |= under
            self._below[q] = frozenset(found)
        return self._below[q]

    def moves_with(self, r: str, q: str) -> bool:
        """Whether the solution of r, below q, depends on q's variables."""
        lower = self.below(q)
        seen, stack = {r}, [r]
        while stack:
            name = stack.pop()
            if q in self.values(name):
                return True
            more = ({*self.values(name), *self.stars(name)} & lower) - seen
            seen |= more
            stack.extend(more)
        return False

    def inner(self, q: str) -> tuple[str, ...]:
        """The levels whose solutions are substituted in q's reduced objective, lowest first."""
        return self._split(q)[0]

    def inputs(self, q: str) -> tuple[str, ...]:
        """The levels, besides q, that q's reduced objective is a function of, lowest first."""
        return self._split(q)[1]

    def _split(self, q: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        if q in self._parts:
            return self._parts[q]
        inner: set[str] = set()
        inputs: set[str] = set()
        stack = [*self.stars(q), *self.values(q)]
        while stack:
            name = stack.pop()
            if name in inner or name in inputs or name == q:
                continue
            if name in self.below(q) and self.moves_with(name, q):
                inner.add(name)
                stack.extend(self.inputs(name))
            else:
                inputs.add(name)
        parts = (self._sorted(inner), self._sorted(inputs))
        self._parts[q] = parts
        return parts

    def arrows(self, q: str, total: bool) -> tuple[str, ...]:
        """The levels that q's solution is a function of (the relation q => r), lowest first.

        With `total`, the inputs of the reduced objective; otherwise those that q reads itself.
        """
        if total:
            return self.inputs(q)
        direct = {*self.values(q), *(r for r in self.stars(q) if not self.moves_with(r, q))}
        return self._sorted(direct)

    def sweep(
        self,
        root: str,
        total: frozenset[str] = frozenset(),
        ends: frozenset[str] = frozenset(),
    ) -> tuple[Pull, ...]:
        """The pulls of root, each level before the levels it points to; only those an adjoint
        reaches. ends: levels besides root, not below it, whose adjoints are wanted too.

        Raises ValueError where the relation has a cycle.
        """
        lower = self.below(root)
        ends = ends | {root}
        into = {
            q: tuple(r for r in self.arrows(q, q in total) if r in ends or r in lower)
            for q in lower
        }
        done: list[str] = []
        open_: list[str] = []

        def visit(q: str) -> None:
            if q in open_:
                raise ValueError(
                    f"the responses below `{root}` depend on each other: {[*open_, q]}"
                )
            if q in done or q in ends:
                return
            open_.append(q)
            for r in into[q]:
                visit(r)
            done.append(open_.pop())

        for q in self.stars(root):
            visit(q)
        return tuple(Pull(q, into[q]) for q in reversed(done))

    def _sorted(self, levels: set[str]) -> tuple[str, ...]:
        return tuple(name for name in self.order if name in levels)
