"""Transposes of products moved into them: (A^T B)^T is B^T A, and so for sums of such products.

The gradient of a layer's weight, stored (out, in) as torch does, is such a transpose. Moved inside
it costs nothing: a matrix product reads its operands in either order, but a transposed result has
to be copied where it is wanted in rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from bettyc.expr import Graph
from bettyc.ops.term import Term

WHOLE = frozenset({"one_pass", "kept"})  # known by their nodes elsewhere


def turn(graph: Graph, roots: Sequence[int]) -> list[int]:
    """Equal roots."""
    new: dict[int, int] = {}
    for index in graph.reachable(roots):
        node = graph[index]
        if node.op in WHOLE:
            new[index] = index
            continue
        rebuilt = Term(graph, graph.rebuild(index, [new[a] for a in node.args]))
        if swaps_last(rebuilt) and _gains(rebuilt.operands[0]):
            rebuilt = _inside(rebuilt.operands[0])
        new[index] = rebuilt.index
    return [new[r] for r in roots]


def swaps_last(node: Term) -> bool:
    """A transpose of the last two axes."""
    if node.node.op != "permute" or len(node.shape) < 2:
        return False
    rank = len(node.shape)
    return tuple(node.attr("axes")) == (*range(rank - 2), rank - 1, rank - 2)


def _gains(term: Term) -> bool:
    """Whether every product has an operand whose transpose is already there."""
    if term.node.op in ("add", "sub"):
        return all(x.shape == term.shape and _gains(x) for x in term.operands)
    if term.node.op != "matmul":
        return False
    same = all(len(x.shape) == len(term.shape) for x in term.operands)
    return same and any(swaps_last(x) for x in term.operands)


def _inside(term: Term) -> Term:
    """The transpose of a sum of products."""
    left, right = term.operands
    if term.node.op == "matmul":
        return _transposed(right) @ _transposed(left)
    return _inside(left).call(term.node.op, _inside(right))


def _transposed(term: Term) -> Term:
    return term.operands[0] if swaps_last(term) else term.mT()
