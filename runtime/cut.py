"""Where formulas end: an objective with variables in the place of what opaque networks return."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase

import torch

from bettyc.calculus.simplify import simplify
from bettyc.expr import LEAVES, Graph, Node
from bettyc.model import Level
from bettyc.plan import updates
from bettyc.runtime.around import Around
from bettyc.runtime.closed import Closed, freed, has_no_text, signed
from bettyc.runtime.formula import Formula, build
from bettyc.runtime.layout import Layout, Slot, concrete
from bettyc.runtime.link import Linked
from bettyc.runtime.naming import plain
from bettyc.runtime.traced import seen_through
from bettyc.types import Tensor as TensorType
from bettyc.types import Type, bind, number


def around(linked: Linked, level: Level, objective: Formula) -> Around | None:
    """The derivatives of an objective around the networks in it; None where something else than
    networks is opaque, nothing is, or the networks are given what depends on other variables.
    """
    precise = linked.plan.level(level.name).precision not in ("bf16", "fp16")
    if linked.plan.opt < 1 or level.task is not None or not precise:
        return None
    root, levels = signed(linked, level)
    root, networks = seen_through(linked.graph, root, linked.networks, linked.sizes)
    cut = _Cut(linked, level.name)
    root = cut.at(root)
    graph = linked.graph
    reached = graph.reachable([root])
    places = [z for z in cut.outputs if z in reached]
    if not places or any(has_no_text(graph, i) for i in reached):
        return None
    try:
        shapes = [concrete(graph[z].type.shape) for z in places]  # type: ignore[union-attr]
    except ValueError:
        return None  # a dim without a size
    calls = [cut.outputs[z] for z in places]
    through = frozenset(
        node.attr("level")
        for i in graph.reachable(calls)
        if (node := graph[i]).op in ("var", "module") and node.attr("level") in levels
    )
    slots, own, front = [], [], 0
    for slot in linked.layouts[level.name].slots:
        if slot.trainable and any(
            graph[i].op == "var"
            and (graph[i].attr("level"), graph[i].attr("name")) == (cut.name, slot.name)
            for i in reached
        ):
            moved = replace(slot, start=front, stop=front + slot.stop - slot.start)
            own.append((slot, moved))
            slots.append(moved)
            front = moved.stop
    for z, shape in zip(places, shapes, strict=True):
        size = torch.Size(shape).numel()
        slots.append(
            Slot(graph[z].attr("name"), shape, shape, None, None, True, front, front + size)
        )
        front += size
    layout = Layout(cut.name, tuple(slots), front, 0)
    inside = replace(linked, layouts={**linked.layouts, cut.name: layout})
    free = freed(inside, graph, root)
    if free is None:
        return None
    others = [cut.name, *(n for n in levels if n != level.name)]
    steps = updates(linked.plan.program, level.name) if linked.plan.opt > 1 else 0
    form = Closed(
        inside, replace(level, name=cut.name), simplify(graph, [free])[0], others, networks, steps
    )
    outputs = build(linked, f"{plain(level.name)}_outputs", level.name, calls, levels)
    still = not any(graph[i].op == "detach" for i in graph.reachable(calls))
    return Around(objective, outputs, form, levels, through, own, shapes, still)


class _Cut:
    """Writes an objective with variables in the place of what opaque networks return."""

    def __init__(self, linked: Linked, level: str) -> None:
        self.linked, self.level, self.name = linked, level, f"({level})"
        self.outputs: dict[int, int] = {}  # the calls by what stands for them
        self._sizes = {name: number(size) for name, size in linked.sizes.items()}

    def at(self, root: int) -> int:
        graph: Graph = self.linked.graph
        new: dict[int, int] = {}
        for index in graph.reachable([root]):
            node = graph[index]
            type_ = bind(node.type, self._sizes)
            if node.op == "apply" and isinstance(type_, TensorType) and type_.kind == "real":
                name = f"outputs.{len(self.outputs)}"
                new[index] = graph.leaf("var", type_, level=self.name, name=name)
                self.outputs[new[index]] = index
            elif node.op == "var":
                new[index] = self._variable(node.attr("level"), node.attr("name"), type_)
            elif node.op == "params" and (parameters := self._parameters(node)):
                new[index] = graph.make("params", parameters, type_)
            elif node.op in LEAVES:
                new[index] = graph.rebuild(index, (), type_)
            else:
                new[index] = graph.rebuild(index, [new[a] for a in node.args], type_)
        return new[root]

    def _variable(self, level: str, name: str, type_: Type) -> int:
        """One that the formula reads itself; trainable ones of the level stand beside outputs."""
        mine = level == self.level and self.linked.layouts[level].slot(name).trainable
        return self.linked.graph.leaf("var", type_, level=self.name if mine else level, name=name)

    def _parameters(self, node: Node) -> list[int]:
        """The parameters of a network that `params` joins; none where they are averages."""
        graph = self.linked.graph
        leaf, detached = node.args[0], False
        while graph[leaf].op == "detach":
            leaf, detached = graph[leaf].args[0], True
        level, name = graph[leaf].attr("level"), graph[leaf].attr("name")
        network = self.linked.networks.get(f"{level}.{name}")
        if graph[leaf].op != "module" or network is None:
            return []
        found = []
        for part, shape in zip(network.names, network.shapes, strict=True):
            if node.attr("except") is None or not fnmatchcase(part, node.attr("except")):
                type_ = TensorType("real", tuple(map(number, shape)))
                at = self._variable(level, f"{name}.{part}", type_)
                found.append(graph.make("detach", (at,), type_) if detached else at)
        return found
