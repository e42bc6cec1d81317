"""Forward derivatives as expressions: how nodes change when leaves move along directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bettyc.calculus.reverse import carriers
from bettyc.expr import Graph
from bettyc.ops import OPS
from bettyc.ops.control import is_opaque
from bettyc.ops.slopes import fit
from bettyc.ops.term import Term


class OpaqueError(Exception):
    """A forward derivative would have to pass through an opaque node."""

    def __init__(self, index: int, op: str) -> None:
        super().__init__(f"%{index} = {op} is differentiated by autograd only")
        self.index = index


def forward(graph: Graph, roots: Sequence[int], directions: Mapping[int, int]) -> list[int | None]:
    """The tangent of every root (None: zero) for tangents `directions` of leaves.

    Raises OpaqueError when a root depends on a direction through a network or function from Python.
    """
    moving = carriers(graph, roots, directions)
    tangents = {leaf: Term(graph, t) for leaf, t in directions.items()}
    for index in sorted(moving - directions.keys()):
        node = Term(graph, index)
        operands = node.node.args
        if is_opaque(node.node, [graph[a].type for a in operands]):
            raise OpaqueError(index, node.node.op)
        row = OPS[node.node.op]
        if row.forward is None:
            raise TypeError(f"operator {node.node.op} has no forward derivative")
        known = [None if p in row.blocked else tangents.get(a) for p, a in enumerate(operands)]
        change = row.forward(node, known)
        if change is not None:
            tangents[index] = fit(change, node.shape)
    return [t.index if (t := tangents.get(r)) else None for r in roots]
