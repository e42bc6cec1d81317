"""Second-order products as expressions: Hessian times a direction, and the cross terms.

Both are forward derivatives of gradients. The cross term of an objective C between the variables R
and Q, applied to u, is the derivative of the gradient in R along u in Q: (d g_Q / d R)^T u, the
transpose being free because second derivatives commute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bettyc.calculus.forward import forward
from bettyc.calculus.reverse import Gradient, reverse
from bettyc.calculus.simplify import simplify
from bettyc.expr import Graph
from bettyc.ops.slopes import zeros_like
from bettyc.ops.term import Term


class Opaque(NamedTuple):
    """The leaves for which there is no formula, because networks from Python stand before them."""

    leaves: frozenset[int]


def gradient(graph: Graph, objective: int, wrt: Sequence[int]) -> list[int] | Opaque:
    """The gradient in each of `wrt`, simplified."""
    found: Gradient = reverse(graph, objective, wrt)
    if found.opaque:
        return Opaque(found.opaque)
    return simplify(graph, [found.parts[leaf] for leaf in wrt])


def directions(graph: Graph, wrt: Sequence[int], name: str = "v") -> dict[int, int]:
    """A fresh direction for every leaf: `v`, or `v.w` and `v.b` for several."""
    found = {}
    for leaf in wrt:
        node = graph[leaf]
        title = name if len(wrt) == 1 else f"{name}.{node.attr('name') or leaf}"
        found[leaf] = graph.leaf("direction", node.type, name=title)
    return found


def product(
    graph: Graph, objective: int, wrt: Sequence[int], along: Mapping[int, int]
) -> list[int] | Opaque:
    """The second derivative of the objective in `wrt` and the keys of `along`, times `along`.

    With the same leaves on both sides this is the Hessian-vector product; with those of another
    level, the cross term.
    """
    found = reverse(graph, objective, [*wrt, *along])
    if found.opaque:
        return Opaque(found.opaque)
    first = simplify(graph, [found.parts[leaf] for leaf in wrt])
    second = forward(graph, first, along)
    terms = [
        zeros_like(Term(graph, leaf)).index if change is None else change
        for leaf, change in zip(wrt, second, strict=True)
    ]
    return simplify(graph, terms)
