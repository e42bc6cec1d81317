"""Closed-form derivatives of an objective: its gradient and its second-order products as formulas.

Where the whole objective is algebra (no network from Python, no random mask), the compiler's
calculus writes its derivatives down, and emitted torch functions compute them without autograd:

    gradients   the value and the gradient in the variables of any level that it reads
    slope       the gradient in the level's own variables, for many steps with the rest held fixed
    hvp, cross  H v and (dg/dtheta_R)^T u; what does not depend on v is computed once per solve

The functions are written at first use, or by `bettyc compile --emit python` (written.py). Variables
with a transform (`positive`, `unit`, `interval`) enter as formulas of their free coordinates, so
that the derivatives are those of theta.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from bettyc import emit
from bettyc.calculus.hoist import VIEWS_IN_C, Hoisted, cut_detached, hoist, restored
from bettyc.calculus.products import Opaque, directions, gradient, product
from bettyc.calculus.simplify import simplify
from bettyc.calculus.turn import turn
from bettyc.emit_c import Place
from bettyc.expr import Graph, Node
from bettyc.kernels.one_pass import Pass
from bettyc.model import Level
from bettyc.onepass import Region, is_large, rewrite
from bettyc.ops import OPS
from bettyc.ops.control import is_opaque
from bettyc.ops.term import Term
from bettyc.runtime import compiled, domains, passes
from bettyc.runtime.closed_products import ClosedProducts
from bettyc.runtime.closed_text import NOTHING, Function, Texts, Theta, Written
from bettyc.runtime.compiled import Native
from bettyc.runtime.layout import Slot
from bettyc.runtime.link import Linked
from bettyc.runtime.modules import Network
from bettyc.runtime.naming import plain
from bettyc.runtime.objective import Frame
from bettyc.runtime.traced import seen_through


class Closed(Texts):
    """The derivatives of one level's objective."""

    def __init__(
        self,
        linked: Linked,
        level: Level,
        root: int,
        levels: Sequence[str],
        networks: Sequence[Network] = (),
        steps: int | None = None,
    ) -> None:
        super().__init__(linked, level, root, levels, networks, steps)
        self._slope: tuple[Function, Function] | None = None
        self._nearby: dict[tuple[str, ...], tuple[Function, Function]] = {}
        self._in_c = self._steps >= compiled.REPAID and compiled.available(linked)

    def slope(self, theta: Theta, frame: Frame) -> Callable[[], Tensor]:
        """The gradient in the level's own variables, flat, as a function of theta's memory.

        Whoever steps writes into `theta[level]`; everything else is held fixed, and what depends on
        it alone is computed here.
        """
        before, function = self._slope or self.write_slope()
        own = theta[self.level]
        out = self.memory(theta, [self.level])
        fixed = before.at(theta, frame)
        if isinstance(function, Native):

            def compiled_slope() -> Tensor:
                parts = function.at(theta, frame, fixed, None, out)
                return self._collected(theta, [self.level], parts, out)[self.level]

            return compiled_slope
        inputs = function.inputs(theta, frame, fixed, None, out)
        call, slots = function.call, self.leaves[self.level]
        made = function.bound(*inputs) if function.bound and own.is_contiguous() else None
        if isinstance(made, Pass) and slots[0][0].stop - slots[0][0].start == own.numel():
            return passes.Slope(made, own)
        if out:
            flat = out[self.level]

            def written() -> Tensor:
                call(*inputs)
                return flat

            return written
        if slots and slots[0][0].stop - slots[0][0].start == own.numel():
            if slots[0][0].free == tuple(own.shape):
                return lambda: call(*inputs)  # type: ignore[no-any-return]
            return lambda: call(*inputs).reshape(-1)  # type: ignore[no-any-return]
        return lambda: self._packed(self.level, call(*inputs) if slots else None, own)

    def write_slope(self) -> tuple[Function, Function]:
        """Write what `slope` runs, once."""
        if self._slope is None:
            self._slope = self._written_slope()
        return self._slope

    def _written_slope(self) -> tuple[Function, Function]:
        own = [index for _, index in self.leaves[self.level]]
        parts = gradient(self.graph, self.root, own)
        assert not isinstance(parts, Opaque)
        regions: dict[int, Region] = {}
        hoisted = hoist(self.graph, parts, own, self._in_one_pass(own, regions))
        name, fixed = plain(self.level), hoisted.prologue
        if self._in_c and not (
            len(own) == 1 and passes.is_whole(self.graph, hoisted.roots, own[0])
        ):
            plainly = hoist(self.graph, parts, own, views=VIEWS_IN_C)
            made = self._both_in_c(f"{name}_held", f"{name}_slope", plainly, [self.level])
            if made is not None:
                return made
        before = self._before(f"{name}_held", fixed)
        titles = emit.titles(self.graph, fixed)
        return before, self._compiled(
            f"{name}_slope", hoisted.roots, titles, {}, regions, own, [self.level]
        )

    def _both_in_c(
        self, before: str, name: str, hoisted: Hoisted, wrt: Sequence[str]
    ) -> tuple[Native | Written, Native] | None:
        """The function that runs once and the one that runs often, compiled; None where one of them
        cannot be.
        """
        given = compiled.placed(self.graph, hoisted.prologue, self.linked.sizes)
        first = self._before_in_c(before, hoisted.prologue, given)
        often = first and self._compiled_in_c(name, hoisted.roots, given, {}, wrt)
        return (first, often) if first and often else None

    def _before_in_c(
        self, name: str, nodes: Sequence[int], places: Mapping[int, Place]
    ) -> Native | Written | None:
        """A function that computes nodes once, compiled. places: of what stands for them later, in
        their order.
        """
        if not nodes:
            return NOTHING
        into = [('out["fixed"]', at) for _, at in places.values()]
        return self._compiled_in_c(name, nodes, {}, {}, (), into)

    def _compiled_in_c(
        self,
        name: str,
        outputs: Sequence[int],
        given: Mapping[int, Place],
        slices: Mapping[int, Slot],
        wrt: Sequence[str],
        packed: Sequence[Place] = (),
    ) -> Native | None:
        """As `_compiled`. given: places of nodes in `fixed`. packed: places of the outputs in one
        tensor that the function makes.
        """
        name = self._unused(name)
        into: list[Place | None] = list(packed)
        if not packed:
            for level in wrt:
                for slot, _ in self.leaves[level]:
                    joined = self._joined(level)
                    into.append((f'out["{level}"]', slot.start) if joined else None)
            into = [*[None] * (len(outputs) - len(into)), *into]

        def leaf(index: int, node: Node) -> Place:
            if index in slices:
                return "v", slices[index].start
            if node.op == "var":
                slot = self.linked.layouts[node.attr("level")].slot(node.attr("name"))
                transformed = slot.domain is not None and slot.domain.name in domains.TRANSFORMED
                if slot.trainable and (node.attr("free") or not transformed):
                    return f'theta["{node.attr("level")}"]', slot.start
            return self._source(node), 0

        made = compiled.write(
            self.linked, self.graph, name, outputs, leaf, given, into, bool(packed)
        )
        if made is not None:
            self.texts[name] = made.text
        return made

    def _before(self, name: str, nodes: Sequence[int]) -> Written:
        """A function that computes nodes once."""
        if not nodes:
            return NOTHING
        found = rewrite(self.graph, nodes, (), self.linked.sizes)
        return self._compiled(name, found.roots, {}, {}, found.regions)

    def _in_one_pass(
        self, moving: Sequence[int], regions: dict[int, Region], first: int | None = None
    ) -> Callable[[list[int]], list[int]]:
        """Products with the data and its transpose as one; `regions` is filled.

        first: how many roots belong to one function; the others belong to another.
        """

        def change(roots: list[int]) -> list[int]:
            made: list[int] = []
            for part in (roots[:first], roots[len(roots) if first is None else first :]):
                found = rewrite(self.graph, part, moving, self.linked.sizes)
                regions.update(found.regions)
                made += turn(self.graph, found.roots)
            return made

        return change

    def nearby(
        self, theta: Theta, frame: Frame, wrt: Sequence[str]
    ) -> Callable[[Tensor], dict[str, Tensor]]:
        """The gradients in theta[l], l in `wrt`, as a function of the level's own variables, flat.

        What the formula detaches stays what it is at theta.
        """
        key = tuple(wrt)
        before, function = self.write_nearby(key)
        fixed = before.at(theta, frame)

        def gradients(own: Tensor) -> dict[str, Tensor]:
            out = self.memory(theta, key)
            parts = function.at({**theta, self.level: own}, frame, fixed, out=out)
            return self._collected(theta, key, parts, out)

        return gradients

    def write_nearby(self, wrt: tuple[str, ...]) -> tuple[Function, Function]:
        """Write what `nearby` runs, once."""
        if wrt not in self._nearby:
            self._nearby[wrt] = self._written_nearby(wrt)
        return self._nearby[wrt]

    def _written_nearby(self, wrt: tuple[str, ...]) -> tuple[Function, Function]:
        parts = gradient(self.graph, self.root, [i for level in wrt for _, i in self.leaves[level]])
        assert not isinstance(parts, Opaque)
        own = [index for _, index in self.leaves[self.level]]
        cut, held = cut_detached(self.graph, parts, own)
        # A held value stands for what it cuts off: it is computed beforehand, from theta.
        known = {leaf: index for index, leaf in held.items()}
        name = plain(self.level)
        if self._in_c:
            plainly = hoist(self.graph, cut, own, views=VIEWS_IN_C)
            stands = [*plainly.prologue, *known]
            given = compiled.placed(self.graph, stands, self.linked.sizes)
            ahead = restored(self.graph, stands, known)
            first = self._before_in_c(f"{name}_around", ahead, given)
            often = first and self._compiled_in_c(f"{name}_nearby", plainly.roots, given, {}, wrt)
            if first and often:
                return first, often
        regions: dict[int, Region] = {}
        hoisted = hoist(self.graph, cut, own, self._in_one_pass(own, regions))
        fixed = hoisted.prologue
        before = restored(self.graph, [*fixed, *known], known)
        titles = emit.titles(self.graph, fixed) | {n: f"held_{k}" for k, n in enumerate(known)}
        return (
            self._compiled(f"{name}_around", before) if before else NOTHING,
            self._compiled(f"{name}_nearby", hoisted.roots, titles, {}, regions, wrt=wrt),
        )

    def _written_gradients(self, wrt: tuple[str, ...]) -> Function:
        indices = [index for level in wrt for _, index in self.leaves[level]]
        parts = gradient(self.graph, self.root, indices)
        assert not isinstance(parts, Opaque)
        roots = [*simplify(self.graph, [self.root]), *parts]
        name = f"{plain(self.level)}_gradient"
        found = rewrite(self.graph, roots, (), self.linked.sizes)
        large = is_large(self.graph, found.regions, self.linked.sizes)
        if self._in_c and not large and (made := self._compiled_in_c(name, roots, {}, {}, wrt)):
            return made
        roots = turn(self.graph, found.roots)
        return self._compiled(name, roots, {}, {}, found.regions, wrt=wrt)

    def products(self, theta: Theta, frame: Frame, into: Sequence[str]) -> ClosedProducts:
        """Second-order products at `theta`."""
        key = tuple(into)
        return ClosedProducts(self, theta, frame, key, self.write_products(key))

    def _written_products(self, into: tuple[str, ...]) -> tuple[Function, ...]:
        own = [index for _, index in self.leaves[self.level]]
        along = directions(self.graph, own)
        slices = {
            d: slot for (slot, _), d in zip(self.leaves[self.level], along.values(), strict=True)
        }
        second = product(self.graph, self.root, own, along)
        others = [index for level in into for _, index in self.leaves[level]]
        cross = product(self.graph, self.root, others, along) if others else []
        assert not isinstance(second, Opaque)
        assert not isinstance(cross, Opaque)
        regions: dict[int, Region] = {}
        moving = list(along.values())
        count = len(second)
        change = self._in_one_pass(moving, regions, count)
        hoisted = hoist(self.graph, [*second, *cross], moving, change)
        roots, fixed = hoisted.roots, hoisted.prologue
        titles = emit.titles(self.graph, fixed)
        name = plain(self.level)
        whole = len(moving) == 1 and passes.is_whole(self.graph, roots[:count], moving[0])
        if self._in_c and not whole:
            made = self._products_in_c(
                hoist(self.graph, [*second, *cross], moving, views=VIEWS_IN_C), count, slices, into
            )
            if made is not None:
                return made
        return (
            self._before(f"{name}_fixed", fixed),
            self._compiled(
                f"{name}_hessian_product",
                roots[:count],
                titles,
                slices,
                regions,
                moving,
                [self.level],
            ),
            self._compiled(f"{name}_cross", roots[count:], titles, slices, regions, wrt=into)
            if others
            else NOTHING,
        )

    def _products_in_c(
        self, hoisted: Hoisted, count: int, slices: Mapping[int, Slot], into: tuple[str, ...]
    ) -> tuple[Function, ...] | None:
        """As `_written_products`. count: how many of the roots are the Hessian product."""
        name, roots, fixed = plain(self.level), hoisted.roots, hoisted.prologue
        given = compiled.placed(self.graph, fixed, self.linked.sizes)
        first = self._before_in_c(f"{name}_fixed", fixed, given)
        second = first and self._compiled_in_c(
            f"{name}_hessian_product", roots[:count], given, slices, [self.level]
        )
        cross: Function | None = NOTHING
        if second and roots[count:]:
            cross = self._compiled_in_c(f"{name}_cross", roots[count:], given, slices, into)
        return (first, second, cross) if first and second and cross else None


def signed(linked: Linked, level: Level) -> tuple[int, tuple[str, ...]]:
    """The node of a level's objective so that smaller is better, and the levels whose variables it
    reads with a gradient, its own first.
    """
    node = level.objective
    if level.sense == "maximize":
        node = linked.graph.add("neg", node)
    reads = [level.name, *(r.level for r in level.reads if not r.detached)]
    return node, tuple(dict.fromkeys(reads))


def closed(linked: Linked, level: Level) -> Closed | None:
    """The closed form of a level's objective, or None where a part of it is opaque."""
    graph = linked.graph
    root, levels = signed(linked, level)
    root, networks = seen_through(graph, root, linked.networks, linked.sizes)
    if any(has_no_text(graph, i) for i in graph.reachable([root])):
        return None
    if linked.plan.level(level.name).precision in ("bf16", "fp16"):
        return None
    free = freed(linked, graph, root)
    if free is None:
        return None
    found = Closed(linked, level, simplify(graph, [free])[0], levels, networks)
    return found if any(found.leaves.values()) else None


def has_no_text(graph: Graph, index: int) -> bool:
    """Networks and functions from Python, masks, replicas, averages: what has no text of torch."""
    node, row = graph[index], OPS.get(graph[index].op)
    if is_opaque(node, [graph[a].type for a in node.args]) or node.op == "module":
        return True
    return row is not None and row.torch is None


def freed(linked: Linked, graph: Graph, root: int) -> int | None:
    """The objective in free coordinates: transforms of domains written as operators."""
    new: dict[int, int] = {}
    for index in graph.reachable([root]):
        node = graph[index]
        if node.op != "var":
            new[index] = graph.rebuild(index, [new[a] for a in node.args])
            continue
        slot = linked.layouts[node.attr("level")].slot(node.attr("name"))
        if slot.domain is None or slot.domain.name not in domains.TRANSFORMED or not slot.trainable:
            new[index] = index
            continue
        if slot.domain.name == "simplex":
            return None
        u = Term(
            graph,
            graph.leaf(
                "var", node.type, free=True, level=node.attr("level"), name=node.attr("name")
            ),
        )
        value = u.call("exp") if slot.domain.name == "positive" else u.call("sigmoid")
        if slot.domain.name == "interval":
            low, high = domains.bounds(slot.domain)
            value = value * (high - low) + low
        new[index] = value.index
    return new[root]
