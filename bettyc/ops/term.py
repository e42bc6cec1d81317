"""Formulas written as formulas: a node with Python's operators.

Derivative rules and functions that are formulas are written over terms, as in
`g * (z.call("sigmoid") - y)`. Numbers become constants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bettyc.types import REAL, Dim, Shape, Tensor

if TYPE_CHECKING:
    from bettyc.expr import Attr, Graph, Node


class Term:
    """A node of a graph."""

    __slots__ = ("graph", "index")

    def __init__(self, graph: Graph, index: int) -> None:
        self.graph = graph
        self.index = index

    @property
    def node(self) -> Node:
        return self.graph[self.index]

    @property
    def tensor(self) -> Tensor:
        """The node's type; only tensors are calculated with."""
        type_ = self.node.type
        if not isinstance(type_, Tensor):
            raise TypeError(f"%{self.index} is a {type_}")
        return type_

    @property
    def shape(self) -> Shape:
        return self.tensor.shape

    @property
    def operands(self) -> tuple[Term, ...]:
        return tuple(Term(self.graph, a) for a in self.node.args)

    def attr(self, name: str) -> Attr:
        return self.node.attr(name)

    def constant(self, value: float) -> Term:
        """A real constant of the same graph."""
        return Term(self.graph, self.graph.leaf("const", REAL, value=float(value)))

    def call(self, op: str, *others: Term | float, **attrs: Attr) -> Term:
        """The operator applied to this term and others."""
        args = [self.index]
        for other in others:
            args.append(other.index if isinstance(other, Term) else self.constant(other).index)
        return Term(self.graph, self.graph.add(op, *args, **attrs))

    def make(self, op: str, type_: Tensor, *others: Term, **attrs: Attr) -> Term:
        """An operator whose type is stated, applied to this term and others."""
        args = (self.index, *(o.index for o in others))
        return Term(self.graph, self.graph.make(op, args, type_, **attrs))

    def __add__(self, other: Term | float) -> Term:
        return self.call("add", other)

    def __radd__(self, other: float) -> Term:
        return self.constant(other) + self

    def __sub__(self, other: Term | float) -> Term:
        return self.call("sub", other)

    def __rsub__(self, other: float) -> Term:
        return self.constant(other) - self

    def __mul__(self, other: Term | float) -> Term:
        return self.call("mul", other)

    def __rmul__(self, other: float) -> Term:
        return self.constant(other) * self

    def __truediv__(self, other: Term | float) -> Term:
        return self.call("div", other)

    def __rtruediv__(self, other: float) -> Term:
        return self.constant(other) / self

    def __pow__(self, other: Term | float) -> Term:
        return self.call("pow", other)

    def __matmul__(self, other: Term) -> Term:
        return self.call("matmul", other)

    def __neg__(self) -> Term:
        return self.call("neg")

    def sum(self, axis: int | tuple[int, ...] | None = None) -> Term:
        return self.call("sum", axis=axis)

    def expand_to(self, shape: Shape) -> Term:
        """Broadcast to a shape."""
        return self if self.shape == shape else self.make("expand", Tensor(self.tensor.kind, shape))

    def reshape_to(self, shape: Shape) -> Term:
        """The same entries in another shape."""
        if self.shape == shape:
            return self
        return self.make("reshape", Tensor(self.tensor.kind, shape, self.tensor.labels))

    def new_axis(self, axis: int) -> Term:
        """`x[..., new, ...]` with the new axis at `axis` of the result."""
        rank = len(self.shape) + 1
        return self.index_with(*(("new",) if i == axis % rank else ("all",) for i in range(rank)))

    def index_with(self, *spec: tuple[Any, ...]) -> Term:
        """`x[...]` with the items of `bettyc.ops.shape`."""
        return self.call("index", spec=spec)

    def mT(self) -> Term:
        """The last two axes swapped."""
        rank = len(self.shape)
        return self.call("permute", axes=(*range(rank - 2), rank - 1, rank - 2))

    def size(self, *axes: int) -> Term:
        """The number of entries along `axes` (of the whole tensor without), as a real scalar."""
        from bettyc.types import product

        dims = tuple(self.shape[a] for a in axes) if axes else self.shape
        return size(self.graph, product(dims))


def size(graph: Graph, dim: Dim) -> Term:
    """A dim as a real scalar: a constant when it is known."""
    if dim.value is not None:
        return Term(graph, graph.leaf("const", REAL, value=float(dim.value)))
    return Term(graph, graph.make("size", (), REAL, dim=dim.terms))
