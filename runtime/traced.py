"""Networks from Python that are formulas: the compiler sees through them as through `mlp`.

torch.fx follows a network's `forward` once (follow.py). Where every step is an operator of the
language (network_steps.py), the network's place in an objective is taken by those operators over
its parameters. It stays one opaque call otherwise, and where the operators do not reproduce what
the module returns on random inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx

from bettyc import emit
from bettyc.expr import Graph, Node
from bettyc.ops import ShapeError
from bettyc.runtime.follow import follow, unchanged
from bettyc.runtime.layout import concrete
from bettyc.runtime.modules import Network
from bettyc.runtime.network_steps import Reader, Untraceable
from bettyc.types import Dim, bind, number
from bettyc.types import Tensor as TensorType

ROWS = 3  # of the random inputs that a network is compared on
CLOSE = {torch.float32: 1e-4, torch.float64: 1e-10}  # of the largest entry

_followed: WeakKeyDictionary[Network, fx.Graph | None] = WeakKeyDictionary()


def steps(network: Network, sizes: Mapping[str, Dim]) -> fx.Graph | None:
    """The network's steps, None where it stays opaque; followed and compared once."""
    if network not in _followed:
        try:
            _followed[network] = _compared(network, follow(network), sizes)
        except (Untraceable, ShapeError):
            _followed[network] = None
    return _followed[network]


def _compared(network: Network, found: fx.Graph, sizes: Mapping[str, Dim]) -> fx.Graph:
    """The steps, after the operators gave what the module gives. Raises Untraceable."""
    graph, values = Graph(), {}
    types = [bind(t, sizes) for t in network.inputs]
    generator = torch.Generator().manual_seed(0)
    parameters, inputs = {}, []
    for name, p in zip(network.names, network.module.parameters(), strict=True):
        type_ = TensorType("real", tuple(map(number, p.shape)))
        parameters[name] = graph.leaf("var", type_, level="", name=f"p{len(parameters)}")
        values[f"p{len(values)}"] = p.detach()
    example = next(network.module.parameters(), torch.zeros(0))
    for k, type_ in enumerate(types):
        if not isinstance(type_, TensorType) or type_.kind != "real":
            raise Untraceable("its inputs are not all real tensors")
        bound = bind(type_, {n: number(ROWS) for d in type_.shape for n in d.names})
        shape = concrete(bound.shape)  # type: ignore[union-attr]
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        values[f"x{k}"] = x.to(example.device, example.dtype)
        inputs.append(graph.leaf("var", bound, level="", name=f"x{k}"))
    output = Reader(graph, network, parameters).write(found, inputs)
    text = emit.function(graph, [output], name="f", leaf=lambda _, n: n.attr("name"), sizes={})
    namespace: dict[str, Any] = {"torch": torch}
    exec(compile(text, f"<bettyc {network.key}>", "exec"), namespace)  # our own text
    names = [a.strip() for a in text.partition("(")[2].partition(")")[0].split(",") if a.strip()]
    with torch.no_grad(), unchanged(network.module):
        ours = namespace["f"](*(values[a] for a in names))
        try:
            theirs = network.module(*(values[f"x{k}"] for k in range(len(types))))
        except Exception as error:
            raise Untraceable(f"{type(error).__name__}: {error}") from error
    if not isinstance(theirs, Tensor) or ours.shape != theirs.shape or not len(names):
        raise Untraceable("its output has another shape")
    difference = float((ours - theirs).abs().max()) if ours.numel() else 0.0
    if not difference <= CLOSE[ours.dtype] * (1 + float(theirs.abs().max())):
        raise Untraceable("its operators give something else than it returns")
    return found


def seen_through(
    graph: Graph, root: int, networks: Mapping[str, Network], sizes: Mapping[str, int]
) -> tuple[int, list[Network]]:
    """The root with operators in the place of every network that has them, in sizes that are
    numbers, and those networks.
    """
    known = {name: number(size) for name, size in sizes.items()}
    found: dict[str, Network] = {}
    for index in graph.reachable([root]):
        node = graph[index]
        if node.op == "module":
            network = networks.get(_key(node))
            if network is not None and steps(network, known) is not None:
                found[network.key] = network
    if not found:
        return root, []
    rewriting = _Rewriting(graph, found, known)
    try:
        return rewriting.at(root), list(found.values())
    except (ShapeError, Untraceable):
        return root, []


def _key(node: Node) -> str:
    return f"{node.attr('level')}.{node.attr('name')}"


class _Rewriting:
    def __init__(
        self, graph: Graph, networks: Mapping[str, Network], sizes: Mapping[str, Dim]
    ) -> None:
        self.graph, self.networks, self.sizes = graph, networks, sizes

    def at(self, root: int) -> int:
        graph, new = self.graph, {}
        for index in graph.reachable([root]):
            node = graph[index]
            args = [new[a] for a in node.args]
            parameters = self._parameters(node.args[0]) if node.op in ("apply", "params") else None
            type_ = bind(node.type, self.sizes)
            if parameters is None:
                new[index] = graph.rebuild(index, args, type_)
            elif node.op == "apply":
                network = self.networks[_key(graph[self._leaf(node.args[0])])]
                found = steps(network, self.sizes)
                assert found is not None
                new[index] = Reader(graph, network, parameters).write(found, args[1:])
                if graph[new[index]].type != type_:
                    raise Untraceable(f"it returns {graph[new[index]].type}, not {type_}")
            else:
                pattern = node.attr("except")
                kept = [
                    p for n, p in parameters.items() if not (pattern and fnmatchcase(n, pattern))
                ]
                new[index] = graph.make("params", kept, type_)
        return new[root]

    def _leaf(self, index: int) -> int:
        while self.graph[index].op == "detach":
            index = self.graph[index].args[0]
        return index

    def _parameters(self, index: int) -> dict[str, int] | None:
        """A variable for every parameter; None where they are not those of a network seen
        through, or averages of them.
        """
        leaf = self.graph[self._leaf(index)]
        network = self.networks.get(_key(leaf)) if leaf.op == "module" else None
        if network is None:
            return None
        found = {}
        for name, shape in zip(network.names, network.shapes, strict=True):
            type_ = TensorType("real", tuple(map(number, shape)))
            level = leaf.attr("level")
            at = self.graph.leaf("var", type_, level=level, name=f"{leaf.attr('name')}.{name}")
            if index != self._leaf(index):
                at = self.graph.make("detach", (at,), type_)
            found[name] = at
        return found
