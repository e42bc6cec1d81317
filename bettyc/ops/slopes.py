"""How derivative rules are written.

A rule may return a cotangent that still has to be broadcast or summed to its operand's shape, and a
tangent that still has to be broadcast to the node's: the passes call `fit` on what they get.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from bettyc.ops.rules import ONE, axes_of, broadcast
from bettyc.ops.term import Term
from bettyc.types import Shape, Tensor

# The derivative of a pointwise node in one of its operands, from the node.
Slope: TypeAlias = Callable[[Term], Term]


def by_slopes(*slopes: Slope | None) -> dict[str, Any]:
    """Both rules of a pointwise operator; None for operands without a derivative."""

    def reverse(node: Term, g: Term) -> Sequence[Term | None]:
        return [None if s is None else g * s(node) for s in slopes]

    def forward(node: Term, tangents: Sequence[Term | None]) -> Term | None:
        return total(
            s(node) * t
            for s, t in zip(slopes, tangents, strict=True)
            if s is not None and t is not None
        )

    return {"reverse": reverse, "forward": forward}


def total(terms: Any) -> Term | None:
    """The sum of terms, None of none."""
    result: Term | None = None
    for term in terms:
        result = term if result is None else result + term
    return result


def kept(node: Term, reduced: Term) -> Term:
    """A reduction of operand 0 over the node's `axis`, ready to meet the operand again."""
    operand = node.operands[0]
    axis = node.attr("axis")
    if axis is None or len(reduced.shape) == len(operand.shape):
        return reduced
    axes = axes_of(operand.shape, axis)
    return reduced.index_with(
        *(("new",) if i in axes else ("all",) for i in range(len(operand.shape)))
    )


def fit(term: Term, shape: Shape) -> Term:
    """Broadcast to `shape`, or sum over the axes along which `shape` was broadcast."""
    if term.shape == shape:
        return term
    joint = broadcast(term.shape, shape)
    if joint is None:
        raise ValueError(f"no way from {Tensor('real', term.shape)} to {Tensor('real', shape)}")
    return _sum_to(term.expand_to(joint), shape)


def _sum_to(term: Term, shape: Shape) -> Term:
    extra = len(term.shape) - len(shape)
    ones = [extra + i for i, d in enumerate(shape) if d == ONE and term.shape[extra + i] != ONE]
    axes = (*range(extra), *ones)
    return term.sum(axes).reshape_to(shape) if axes else term


def holds(term: Term) -> Term:
    """A condition as 0 and 1."""
    return term.call("real")


def zeros_like(term: Term) -> Term:
    return term.constant(0.0).expand_to(term.shape)
