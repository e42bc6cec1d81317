"""Reverse derivatives as expressions: the gradient of a scalar node, in the same graph.

A sweep from the root to the leaves accumulates cotangents with the registry's rules, so the result
is the formula a person would write (the rule of `bce` is g * (sigmoid(z) - y)).

Networks from Python, functions from Python and replicas are opaque. The sweep stops there and
reports the cotangent that arrived: `grad(outputs=node, grad_outputs=cotangent)` of autograd carries
on, and everything around the opaque node stays symbolic.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bettyc.expr import Graph
from bettyc.ops import OPS
from bettyc.ops.control import is_opaque
from bettyc.ops.slopes import fit, zeros_like
from bettyc.ops.term import Term
from bettyc.types import Tensor


class Gradient(NamedTuple):
    """What `reverse` found.

    parts: leaf -> gradient node; complete for leaves that are not in `opaque`.
    cuts: opaque node -> its cotangent.
    opaque: leaves that also, or only, act through an opaque node.
    """

    parts: dict[int, int]
    cuts: dict[int, int]
    opaque: frozenset[int]


def reverse(graph: Graph, root: int, wrt: Sequence[int], seed: int | None = None) -> Gradient:
    """The derivative of `root` (scalar, unless a cotangent `seed` is given) in the nodes `wrt`."""
    moving = carriers(graph, [root], wrt)
    start = Term(graph, root)
    if seed is None and start.shape:
        raise ValueError(f"%{root} is a {start.tensor}, not a scalar: state its cotangent")
    cotangents = {root: start.constant(1.0) if seed is None else Term(graph, seed)}
    cuts: dict[int, int] = {}
    for index in sorted(moving, reverse=True):
        g = cotangents.get(index)
        if g is None or index in wrt:
            continue
        if is_opaque(graph[index], [graph[a].type for a in graph[index].args]):
            cuts[index] = fit(g, Term(graph, index).shape).index
            continue
        _accumulate(cotangents, Term(graph, index), g, moving)
    parts = {}
    for leaf in wrt:
        term = Term(graph, leaf)
        if isinstance(term.node.type, Tensor):
            parts[leaf] = (cotangents.get(leaf) or zeros_like(term)).index
    behind = set(graph.reachable(cuts))
    return Gradient(parts, cuts, frozenset(leaf for leaf in wrt if leaf in behind))


def _accumulate(
    cotangents: dict[int, Term], node: Term, g: Term, moving: frozenset[int] | set[int]
) -> None:
    """Hand the cotangent of a node on to its operands."""
    rule = OPS[node.node.op].reverse
    if rule is None:
        raise TypeError(f"operator {node.node.op} has no reverse derivative")
    for operand, part in zip(node.operands, rule(node, g), strict=True):
        if part is None or operand.index not in moving:
            continue
        fitted = fit(part, operand.shape)
        known = cotangents.get(operand.index)
        cotangents[operand.index] = fitted if known is None else known + fitted


def carriers(graph: Graph, roots: Iterable[int], wrt: Iterable[int]) -> set[int]:
    """The nodes below the roots through which a derivative in `wrt` can flow."""
    moving = set(wrt)
    order = graph.reachable(roots)
    for index in order:
        node = graph[index]
        row = OPS.get(node.op)
        if row is None or row.smooth == "flat":
            continue
        if any(a in moving and p not in row.blocked for p, a in enumerate(node.args)):
            moving.add(index)
    return moving & set(order)
