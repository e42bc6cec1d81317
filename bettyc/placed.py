"""Results written where the caller wants them: gradients of layers into slices of one flat buffer.

A matrix product, a sum of two and a sum over rows have variants that write into given memory and
scale on the way; anything else is copied there. Only for text that runs without autograd.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from bettyc.expr import Graph
from bettyc.fuse import Fusions, is_number
from bettyc.types import Tensor


class Scaled(NamedTuple):
    """`sign * scale * core`; scale as in `bettyc.fuse.Added`."""

    core: int
    sign: float
    scale: tuple[tuple[int, bool], ...]


def placed(
    graph: Graph,
    outputs: Collection[int],
    uses: Mapping[int, int],
    fusions: Fusions,
    apart: Collection[int],
) -> dict[int, Scaled]:
    """The outputs whose core is written in place; what they consist of joins what is absorbed.

    apart: products to be left alone.
    """
    found: dict[int, Scaled] = {}
    for output in outputs:
        if uses.get(output) != 1:
            continue
        chain, scaled = _scaled(graph, output, uses)
        core = scaled.core
        if uses.get(core) != 1 or core in fusions.absorbed or core in apart:
            continue
        if _writes(graph, core, fusions):
            found[output] = scaled
            fusions.absorbed.update(chain)
            added = fusions.added.get(core)
            if added is not None and is_product(graph, added.base) and uses[added.base] == 1:
                fusions.absorbed.add(added.base)
    return found


def _scaled(graph: Graph, index: int, uses: Mapping[int, int]) -> tuple[list[int], Scaled]:
    """A node behind number factors, divisions by numbers and signs, all used once."""
    chain, scale, sign = [index], [], 1.0
    while uses.get(index) == 1:
        node = graph[index]
        if node.op == "neg":
            sign, index = -sign, node.args[0]
        elif node.op == "mul" and is_number(graph, node.args[0]):
            scale.append((node.args[0], True))
            index = node.args[1]
        elif node.op == "div" and is_number(graph, node.args[1]):
            scale.append((node.args[1], False))
            index = node.args[0]
        else:
            break
        chain.append(index)
    return chain, Scaled(index, sign, tuple(scale))


def _writes(graph: Graph, core: int, fusions: Fusions) -> bool:
    """Has the core a variant that writes into given memory?"""
    added = fusions.added.get(core)
    if added is not None:
        return _matrices(graph, (added.left, added.right))
    if graph[core].op == "sum":
        return _real(graph, graph[core].args[0]) and graph[core].attr("axis") is not None
    return is_product(graph, core)


def is_product(graph: Graph, index: int) -> bool:
    """A product of two matrices."""
    return graph[index].op == "matmul" and _matrices(graph, graph[index].args)


def _matrices(graph: Graph, nodes: Iterable[int]) -> bool:
    types = [graph[n].type for n in nodes]
    return all(isinstance(t, Tensor) and len(t.shape) == 2 for t in types)


def _real(graph: Graph, index: int) -> bool:
    type_ = graph[index].type
    return isinstance(type_, Tensor) and type_.kind == "real"
