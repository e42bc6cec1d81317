"""Derivatives of reductions, scans and the softmax family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bettyc.ops.slopes import holds, kept
from bettyc.ops.term import Term
from bettyc.types import Tensor


def weighted(weights: Callable[[Term], Term]) -> dict[str, Any]:
    """Rules of a reduction whose derivative is a tensor of weights: dy = sum(weights * dx)."""

    def reverse(node: Term, g: Term) -> Sequence[Term | None]:
        return (kept(node, g) * weights(node),)

    def forward(node: Term, tangents: Sequence[Term | None]) -> Term | None:
        if tangents[0] is None:
            return None
        return (weights(node) * tangents[0]).sum(node.attr("axis"))

    return {"reverse": reverse, "forward": forward}


def linear(reverse: Callable[[Term, Term], Term]) -> dict[str, Any]:
    """Rules of an operator that is linear in its only operand."""

    def forward(node: Term, tangents: Sequence[Term | None]) -> Term | None:
        return (
            None if tangents[0] is None else tangents[0].call(node.node.op, **dict(node.node.attrs))
        )

    return {"reverse": lambda node, g: (reverse(node, g),), "forward": forward}


def spread(node: Term, g: Term) -> Term:
    """The cotangent of a sum."""
    return kept(node, g)


def averaged(node: Term, g: Term) -> Term:
    """The cotangent of a mean."""
    operand, axis = node.operands[0], node.attr("axis")
    count = (
        operand.size()
        if axis is None
        else operand.size(*([axis] if isinstance(axis, int) else axis))
    )
    return kept(node, g / count)


def double(node: Term) -> Term:
    """sumsq."""
    return 2.0 * node.operands[0]


def direction(node: Term) -> Term:
    """norm: x / |x|, and 0 at 0 as torch has it."""
    return node.operands[0] / kept(node, node + holds(node.call("eq", 0.0)))


def share(node: Term) -> Term:
    """logsumexp: the softmax."""
    operand, axis = node.operands[0], node.attr("axis")
    if axis is None and len(operand.shape) == 1:
        axis = 0
    if isinstance(axis, int):
        return operand.call("softmax", axis=axis)
    return (operand - kept(node, node)).call("exp")


def winners(node: Term) -> Term:
    """amax, amin: 1 at the extreme entry; entries that tie share it, as torch has it."""
    hits = holds(node.operands[0].call("eq", kept(node, node)))
    return hits / kept(node, hits.sum(node.attr("axis")))


def others(node: Term) -> Term:
    """prod: the product of the other entries, also where one of them is zero."""
    operand, axis = node.operands[0], node.attr("axis")
    flat = operand.reshape_to((node_size(operand),)) if axis is None else _last(operand, axis)
    count = flat.shape[-1]
    eye = Term(node.graph, node.graph.make("eye", (), Tensor("real", (count, count))))
    rank = len(flat.shape)
    rows = flat.new_axis(rank - 1).expand_to((*flat.shape[:-1], count, count))
    rest = eye.call("gt", 0.0).call("where", 1.0, rows).call("prod", axis=rank)
    return rest.reshape_to(operand.shape) if axis is None else _back(rest, axis)


def node_size(operand: Term) -> Any:
    from bettyc.types import product

    return product(operand.shape)


def _last(x: Term, axis: int) -> Term:
    """The axis moved to the end."""
    axes = [a for a in range(len(x.shape)) if a != axis]
    return x.call("permute", axes=(*axes, axis))


def _back(x: Term, axis: int) -> Term:
    """The last axis moved to where it was."""
    axes = list(range(len(x.shape) - 1))
    axes.insert(axis, len(x.shape) - 1)
    return x.call("permute", axes=tuple(axes))


def running(node: Term, g: Term) -> Term:
    """cumsum: running sums from the other end."""
    axis = node.attr("axis")
    return g.call("flip", axis=axis).call("cumsum", axis=axis).call("flip", axis=axis)


def _softmax(node: Term, t: Term) -> Term:
    return node * (t - kept(node, (node * t).sum(node.attr("axis"))))


def softmax_reverse(node: Term, g: Term) -> Sequence[Term | None]:
    return (_softmax(node, g),)


def softmax_forward(node: Term, tangents: Sequence[Term | None]) -> Term | None:
    return None if tangents[0] is None else _softmax(node, tangents[0])


def log_softmax_reverse(node: Term, g: Term) -> Sequence[Term | None]:
    axis = node.attr("axis")
    return (g - node.operands[0].call("softmax", axis=axis) * kept(node, g.sum(axis)),)


def log_softmax_forward(node: Term, tangents: Sequence[Term | None]) -> Term | None:
    t = tangents[0]
    if t is None:
        return None
    axis = node.attr("axis")
    return t - kept(node, (node.operands[0].call("softmax", axis=axis) * t).sum(axis))
