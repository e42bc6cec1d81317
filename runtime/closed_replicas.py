"""Closed-form derivatives of a `foreach` level at all of its replicas.

The objective is the sum over replicas. Derivatives are taken of one replica's formula and written
for all of them (`bettyc.calculus.replicate`): theta of the level has shape (replicas, size), the
columns of tasks have a first axis, and what flows into other levels is added up. No autograd and
no vmap are left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from bettyc import emit
from bettyc.calculus.hoist import hoist
from bettyc.calculus.products import Opaque, directions, gradient, product
from bettyc.calculus.replicate import Alone, Replicated, every, replicate, summed
from bettyc.calculus.simplify import simplify
from bettyc.calculus.turn import turn
from bettyc.expr import Node
from bettyc.model import Level
from bettyc.runtime.closed_products import ClosedProducts
from bettyc.runtime.closed_text import NOTHING, Function, Texts, Theta
from bettyc.runtime.layout import Slot
from bettyc.runtime.link import Linked
from bettyc.runtime.objective import Frame
from bettyc.types import symbol


class ClosedReplicas(Texts):
    """As `bettyc.runtime.closed.Closed`, for theta[level] of shape (replicas, size)."""

    def __init__(self, linked: Linked, level: Level, root: int, levels: Sequence[str]) -> None:
        """Raises `bettyc.calculus.replicate.Alone` where a formula has no form for all."""
        super().__init__(linked, level, root, levels)
        self._count = symbol(f"{level.name}.count")
        # now, so that whoever has this object has all of it
        self.write_gradients((level.name,))
        self.write_products(tuple(n for n in levels if n != level.name))

    def gradients(
        self, theta: Theta, frame: Frame, wrt: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return super().gradients(theta, self._stacked(frame), wrt)

    def nearby(
        self, theta: Theta, frame: Frame, wrt: Sequence[str]
    ) -> Callable[[Tensor], dict[str, Tensor]]:
        return lambda own: self.gradients({**theta, self.level: own}, frame, wrt)[1]

    def products(self, theta: Theta, frame: Frame, into: Sequence[str]) -> ReplicaProducts:
        key = tuple(into)
        return ReplicaProducts(self, theta, self._stacked(frame), key, self.write_products(key))

    def _stacked(self, frame: Frame) -> Frame:
        return self.linked.replicas[self.level].stacked(frame)

    def _written_gradients(self, wrt: tuple[str, ...]) -> Function:
        parts = gradient(self.graph, self.root, [i for n in wrt for _, i in self.leaves[n]])
        assert not isinstance(parts, Opaque)
        roots = turn(self.graph, [*simplify(self.graph, [self.root]), *parts])
        found = self._replicated(roots)
        outputs = self._outputs(found, roots[1:], wrt)
        value = summed(self.graph, found, roots[0], self._count)
        return self._compiled(f"{self._name}_gradient", [value, *outputs], wrt=wrt)

    def _written_products(self, into: tuple[str, ...]) -> tuple[Function, ...]:
        leaves = self.leaves[self.level]
        own = [index for _, index in leaves]
        others = [index for level in into for _, index in self.leaves[level]]
        along = directions(self.graph, own)
        first = gradient(self.graph, self.root, own)
        second = product(self.graph, self.root, own, along)
        cross = product(self.graph, self.root, others, along) if others else []
        assert not isinstance(first, Opaque)
        assert not isinstance(second, Opaque)
        assert not isinstance(cross, Opaque)
        hoisted = hoist(
            self.graph, [*second, *cross], list(along.values()), lambda r: turn(self.graph, r)
        )
        first = turn(self.graph, [*simplify(self.graph, [self.root]), *first])
        found = self._replicated([*hoisted.prologue, *hoisted.roots, *first])
        fixed = [found.nodes[n] for n in hoisted.prologue]
        titles = emit.titles(self.graph, fixed)
        slices = {
            found.nodes[d]: slot
            for (slot, _), d in zip(leaves, along.values(), strict=True)
            if d in found.nodes
        }
        roots, name = hoisted.roots, self._name
        value = summed(self.graph, found, first[0], self._count)

        def written(title: str, outputs: list[int], wrt: Sequence[str]) -> Function:
            return self._compiled(f"{name}_{title}", outputs, titles, slices, wrt=wrt)

        own_level = [self.level]
        return (
            self._compiled(f"{name}_fixed", fixed) if fixed else NOTHING,
            written(
                "hessian_product", self._outputs(found, roots[: len(own)], own_level), own_level
            ),
            written("cross", self._outputs(found, roots[len(own) :], into), into)
            if others
            else NOTHING,
            # what is fixed has most of the gradient's work in it
            written("slope", [value, *self._outputs(found, first[1:], own_level)], own_level),
        )

    @property
    def _name(self) -> str:
        return f"{self.level.replace('.', '_')}_each"

    def _replicated(self, roots: Sequence[int]) -> Replicated:
        reached = self.graph.reachable(roots)
        return replicate(
            self.graph, roots, [i for i in reached if self._moves(self.graph[i])], self._count
        )

    def _moves(self, node: Node) -> bool:
        """Whether each replica has a value of its own."""
        if node.op == "direction":
            return True
        if node.op not in ("var", "task") or node.attr("level") != self.level:
            return False
        return node.op == "task" or self._slot(node).trainable

    def _slot(self, node: Node) -> Slot:
        return self.linked.layouts[self.level].slot(node.attr("name"))

    def _outputs(self, found: Replicated, roots: Sequence[int], wrt: Sequence[str]) -> list[int]:
        """Derivatives in this level for each replica, in others added up."""
        names = [level for level in wrt for _ in self.leaves[level]]
        return [
            (every if name == self.level else summed)(self.graph, found, root, self._count)
            for name, root in zip(names, roots, strict=True)
        ]

    def _source(self, node: Node) -> str:
        if node.op == "var" and self._moves(node):
            return self._part(self._slot(node), f'theta["{self.level}"]', self.level)
        return super()._source(node)

    def _part(self, slot: Slot, flat: str = "v", level: str = "") -> str:
        if level not in ("", self.level):
            return super()._part(slot, flat, level)
        if not slot.free:
            return f"{flat}[:, {slot.start}]"
        text = f"{flat}[:, {slot.start}:{slot.stop}]"
        return text if len(slot.free) == 1 else f"{text}.view(-1, {', '.join(map(str, slot.free))})"


def of_all(form: Texts) -> ClosedReplicas | None:
    """The form for all replicas, or None where an operator has none."""
    linked = form.linked
    try:
        return ClosedReplicas(linked, linked.level(form.level), form.root, form.levels)
    except Alone:
        return None


class ReplicaProducts(ClosedProducts):
    """As `ClosedProducts`; v and u have shape (replicas * size,) or (replicas, size)."""

    def __init__(
        self,
        closed: ClosedReplicas,
        theta: Theta,
        frame: Frame,
        into: tuple[str, ...],
        functions: tuple[Function, ...],
    ) -> None:
        super().__init__(closed, theta, frame, into, functions[:3])
        self._slope = functions[3]

    def hvp(self, v: Tensor) -> Tensor:
        return super().hvp(v.reshape(self._own.shape))

    def cross(self, u: Tensor) -> dict[str, Tensor]:
        return super().cross(u.reshape(self._own.shape))

    def for_solver(self) -> None:
        return None

    def _evaluated(self) -> tuple[Tensor, Tensor]:
        if self._first is None:
            closed, theta = self._closed, self._theta
            out = closed.memory(theta, [closed.level])
            value, *parts = self._slope.at(theta, self._frame, self._fixed, out=out)
            self._first = value, closed._collected(theta, [closed.level], parts, out)[closed.level]
        return self._first
