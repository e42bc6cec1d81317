"""Derivatives of indexing, joining and reshaping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bettyc.ops.rules import bound, from_start, sliced
from bettyc.ops.slopes import fit, zeros_like
from bettyc.ops.term import Term
from bettyc.types import Dim, Tensor, add, number, product


def index_reverse(node: Term, g: Term) -> Sequence[Term | None]:
    """One axis at a time: back to as many axes as the operand has, then pad and scatter."""
    source, *indices = node.operands
    items = [item for item in node.attr("spec") if item[0] != "new"]
    items += [("all",)] * (len(source.shape) - len(items))
    sizes = [_taken(source, axis, item, node) for axis, item in enumerate(items)]
    spread = g.reshape_to(tuple(sizes))
    for axis, (size, item) in enumerate(zip(source.shape, items, strict=True)):
        if item[0] == "all":
            continue
        shape = (*spread.shape[:axis], size, *spread.shape[axis + 1 :])
        if item[0] == "take":
            rows = node.operands[item[1]]
            flat = rows.reshape_to((product(rows.shape),))
            spread = spread.make("scatter", Tensor("real", shape), flat, axis=axis)
        else:
            start = from_start(size, bound(item[1] or 0))
            spread = spread.make("pad", Tensor("real", shape), axis=axis, start=start.terms)
    return (spread, *([None] * len(indices)))


def _taken(source: Term, axis: int, item: tuple[Any, ...], node: Term) -> Dim:
    """How many entries an item takes from an axis."""
    size = source.shape[axis]
    if item[0] == "take":
        return product(node.operands[item[1]].shape)
    if item[0] == "slice":
        return sliced(size, item[1], item[2])
    return number(1) if item[0] == "at" else size


def index_forward(node: Term, tangents: Sequence[Term | None]) -> Term | None:
    t = tangents[0]
    return None if t is None else t.call("index", *node.operands[1:], spec=node.attr("spec"))


def scatter_reverse(node: Term, g: Term) -> Sequence[Term | None]:
    rows = node.operands[1]
    return g.call("index", rows, spec=(*([("all",)] * node.attr("axis")), ("take", 1))), None


def scatter_forward(node: Term, tangents: Sequence[Term | None]) -> Term | None:
    t = tangents[0]
    return t and t.make("scatter", node.tensor, node.operands[1], axis=node.attr("axis"))


def concat_reverse(node: Term, g: Term) -> Sequence[Term | None]:
    axis, start = node.attr("axis") % len(node.shape), number(0)
    pieces = []
    for operand in node.operands:
        type_ = Tensor("real", operand.shape)
        pieces.append(g.make("narrow", type_, axis=axis, start=start.terms))
        start = add(start, operand.shape[axis])
    return pieces


def joined_forward(node: Term, tangents: Sequence[Term | None]) -> Term | None:
    if all(t is None for t in tangents):
        return None
    filled = [t or zeros_like(o) for t, o in zip(tangents, node.operands, strict=True)]
    return filled[0].call(node.node.op, *filled[1:], axis=node.attr("axis"))


def stack_reverse(node: Term, g: Term) -> Sequence[Term | None]:
    axis = node.attr("axis") % len(node.shape)
    before = [("all",)] * axis
    return [g.index_with(*before, ("at", i)) for i in range(len(node.operands))]


def narrow_reverse(node: Term, g: Term) -> Sequence[Term | None]:
    return (g.make("pad", node.operands[0].tensor, **dict(node.node.attrs)),)


def pad_reverse(node: Term, g: Term) -> Sequence[Term | None]:
    return (g.make("narrow", node.operands[0].tensor, **dict(node.node.attrs)),)


def typed_forward(node: Term, tangents: Sequence[Term | None]) -> Term | None:
    """The same linear operator, with its stated type, on the tangent."""
    t = tangents[0]
    return None if t is None else t.make(node.node.op, node.tensor, **dict(node.node.attrs))


def permute_reverse(node: Term, g: Term) -> Sequence[Term | None]:
    axes = node.attr("axes")
    back = tuple(axes.index(i) for i in range(len(axes)))
    return (g.call("permute", axes=back),)


def reshape_reverse(node: Term, g: Term) -> Sequence[Term | None]:
    return (g.reshape_to(node.operands[0].shape),)


def expand_reverse(node: Term, g: Term) -> Sequence[Term | None]:
    return (fit(g, node.operands[0].shape),)


def params_reverse(node: Term, g: Term) -> Sequence[Term | None]:
    """Of variables; the parameters of a network from Python are opaque."""
    start = number(0)
    pieces = []
    for operand in node.operands:
        size = product(operand.shape)
        piece = g.make("narrow", Tensor("real", (size,)), axis=0, start=start.terms)
        pieces.append(piece.reshape_to(operand.shape))
        start = add(start, size)
    return pieces


def params_forward(node: Term, tangents: Sequence[Term | None]) -> Term | None:
    if all(t is None for t in tangents):
        return None
    filled = [t or zeros_like(o) for t, o in zip(tangents, node.operands, strict=True)]
    return filled[0].make("params", node.tensor, *filled[1:], **dict(node.node.attrs))
