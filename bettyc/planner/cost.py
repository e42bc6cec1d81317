"""Rough cost of a formula: floating-point operations and bytes, from shapes alone."""

from __future__ import annotations

from collections.abc import Sequence

from bettyc.expr import LEAVES, Graph
from bettyc.types import Tensor, product

BYTES = {"fp64": 8, "fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2}


def entries(graph: Graph, index: int) -> int | None:
    """Number of entries of a node's value, None while its shape has names."""
    type_ = graph[index].type
    if not isinstance(type_, Tensor):
        return None
    return product(type_.shape).value


def flops(graph: Graph, roots: Sequence[int]) -> int | None:
    """Operations of one evaluation of `roots`; None when something is opaque or a shape has
    names.
    """
    total = 0
    for index in graph.reachable(roots):
        node = graph[index]
        if node.op in LEAVES:
            continue
        if node.op in ("apply", "extern_fn", "module"):
            return None
        size = entries(graph, index)
        if size is None:
            return None
        if node.op == "matmul":
            left = graph[node.args[0]].type
            inner = left.shape[-1].value if isinstance(left, Tensor) and left.shape else 1
            if inner is None:
                return None
            total += 2 * size * inner
        elif node.op in ("sum", "mean", "sumsq", "logsumexp", "amax", "amin"):
            operand = entries(graph, node.args[0])
            if operand is None:
                return None
            total += operand
        else:
            total += size
    return total


def memory(graph: Graph, roots: Sequence[int], precision: str) -> int | None:
    """Bytes of all intermediate values of one evaluation, which is what autograd keeps."""
    total = 0
    for index in graph.reachable(roots):
        if graph[index].op in LEAVES or graph[index].op == "apply":
            continue
        size = entries(graph, index)
        if size is None:
            return None
        total += size * BYTES[precision]
    return total
