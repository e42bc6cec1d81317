"""Derivatives of matrix products and of functions of matrices."""

from __future__ import annotations

from collections.abc import Sequence

from bettyc.ops.slopes import total
from bettyc.ops.term import Term
from bettyc.types import product


def matmul_reverse(node: Term, g: Term) -> Sequence[Term | None]:
    x, y = node.operands
    if len(x.shape) == len(y.shape) == 1:
        return g * y, g * x
    if len(y.shape) == 1:
        return _outer(g, y), _rows(x).mT() @ _flat(g)
    if len(x.shape) == 1:
        return _vector_left(y, g), _vector_right(x, g)
    if len(y.shape) == 2 and len(x.shape) > 2:
        return g @ y.mT(), _rows(x).mT() @ _rows(g)
    return g @ y.mT(), x.mT() @ g


def _flat(g: Term) -> Term:
    return g.reshape_to((product(g.shape),))


def _rows(x: Term) -> Term:
    """All axes but the last as one."""
    return x.reshape_to((product(x.shape[:-1]), x.shape[-1]))


def _outer(g: Term, y: Term) -> Term:
    """g[..., n] and y[k] -> [..., n, k]."""
    row = y
    while len(row.shape) <= len(g.shape):
        row = row.new_axis(0)
    return g.new_axis(-1) * row


def _vector_left(y: Term, g: Term) -> Term:
    """Of x[k] @ y[..., k, m] in x."""
    return y @ g if len(y.shape) == 2 else (y @ g.new_axis(-1)).index_with(*_squeezed(len(y.shape)))


def _squeezed(rank: int) -> tuple[tuple[str] | tuple[str, int], ...]:
    return (*([("all",)] * (rank - 1)), ("at", 0))


def _vector_right(x: Term, g: Term) -> Term:
    """Of x[k] @ y[..., k, m] in y: x[k, 1] * g[..., 1, m]."""
    column = x.new_axis(1)
    row = g.new_axis(len(g.shape) - 1)
    while len(column.shape) < len(row.shape):
        column = column.new_axis(0)
    return column * row


def matmul_forward(node: Term, tangents: Sequence[Term | None]) -> Term | None:
    x, y = node.operands
    dx, dy = tangents
    return total([*([dx @ y] if dx else []), *([x @ dy] if dy else [])])


def solve_reverse(node: Term, g: Term) -> Sequence[Term | None]:
    a, b = node.operands
    right = a.mT().call("solve", g)
    if len(b.shape) == 1:
        return -(right.new_axis(1) * node.new_axis(0)), right
    return -(right @ node.mT()), right


def solve_forward(node: Term, tangents: Sequence[Term | None]) -> Term | None:
    da, db = tangents
    change = None if da is None else -(da @ node)
    right = total(t for t in (db, change) if t is not None)
    return None if right is None else node.operands[0].call("solve", right)


def inv_reverse(node: Term, g: Term) -> Sequence[Term | None]:
    return (-(node.mT() @ g @ node.mT()),)


def inv_forward(node: Term, tangents: Sequence[Term | None]) -> Term | None:
    return None if tangents[0] is None else -(node @ tangents[0] @ node)


def logdet_reverse(node: Term, g: Term) -> Sequence[Term | None]:
    return (g.new_axis(-1).new_axis(-1) * node.operands[0].call("inv").mT(),)


def logdet_forward(node: Term, tangents: Sequence[Term | None]) -> Term | None:
    t = tangents[0]
    if t is None:
        return None
    rank = len(t.shape)
    return (node.operands[0].call("inv").mT() * t).sum((rank - 2, rank - 1))
