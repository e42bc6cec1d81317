"""Tensors of functions in C: in memory, as expressions of their indices, as sums of products."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from bettyc.expr import Graph, Node
from bettyc.types import Dim, Tensor, bind, number

Place: TypeAlias = tuple[
    str, int
]  # a tensor, as an expression of Python, and an offset in elements
Leaf: TypeAlias = Callable[[int, Node], Place]
Indices: TypeAlias = Sequence[str]


class Unsupported(ValueError):
    """An operator or a shape that has no text in C."""


@dataclass(frozen=True)
class Stored:
    """A tensor in memory."""

    pointer: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def at(self, indices: Indices) -> str:
        terms = [str(self.offset)] if self.offset else []
        for index, stride in zip(indices, self.strides, strict=True):
            if index != "0" and stride:
                terms.append(index if stride == 1 else f"{index} * {stride}")
        return f"{self.pointer}[{' + '.join(terms) or '0'}]"


@dataclass(frozen=True)
class Inline:
    """A tensor as an expression of its indices. work: operators in it. heavy: one of them costs
    more than reading its result back.
    """

    shape: tuple[int, ...]
    make: Callable[[Indices], str]
    work: int = 0
    heavy: bool = False

    def at(self, indices: Indices) -> str:
        return self.make(indices)


@dataclass(frozen=True)
class Products:
    """A sum of scaled matrix products and of something else, not computed yet."""

    shape: tuple[int, ...]
    products: tuple[tuple[float, Stored, Stored], ...]
    rest: Inline | None = None


Value: TypeAlias = Stored | Inline | Products


def elements(graph: Graph, index: int, sizes: Mapping[str, int]) -> int:
    """How many entries a node has. Raises Unsupported while a dim has no size."""
    return math.prod(shape_of(graph, index, {k: number(v) for k, v in sizes.items()}))


def shape_of(graph: Graph, index: int, sizes: Mapping[str, Dim]) -> tuple[int, ...]:
    """The shape of a node as numbers. Raises Unsupported while a dim has no size."""
    type_ = bind(graph[index].type, sizes)
    if not isinstance(type_, Tensor):
        raise Unsupported(f"{graph[index].op} is no tensor")
    shape = [d.value for d in type_.shape]
    if None in shape:
        raise Unsupported("a dim without a size")
    return tuple(s for s in shape if s is not None)


def packed(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a tensor whose rows lie one after the other."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.insert(0, step)
        step *= size
    return tuple(strides)


def within(shape: Sequence[int], indices: Indices) -> list[str]:
    """The indices of an operand that is broadcast."""
    own = list(indices)[len(indices) - len(shape) :]
    return ["0" if size == 1 else index for size, index in zip(shape, own, strict=True)]


def taken(rows: Stored | Inline, first: int, size: int) -> Callable[[Indices], str]:
    """Entries by number: the axes of `rows` begin at `first`."""
    last = first + len(rows.shape)
    return lambda i: f"wrapped((int64_t){rows.at(i[first:last])}, {size})"


def turned(matrix: Stored) -> Stored:
    return replace(matrix, shape=matrix.shape[::-1], strides=matrix.strides[::-1])


def as_matrix(vector: Stored, row: bool) -> Stored:
    (size,), (step,) = vector.shape, vector.strides
    if row:
        return replace(vector, shape=(1, size), strides=(size * step, step))
    return replace(vector, shape=(size, 1), strides=(step, 1))


def ordered(matrix: Stored) -> tuple[str, int] | None:
    """How BLAS is told of a row-major matrix: N or T, and the leading dimension."""
    (rows, columns), (down, across) = matrix.shape, matrix.strides
    if across == 1 or columns == 1:
        lead = max(down, columns) if rows == 1 else down
        if lead >= columns and lead > 0:
            return "N", lead
    if down == 1 or rows == 1:
        lead = max(across, rows) if columns == 1 else across
        if lead >= rows and lead > 0:
            return "T", lead
    return None


def scaled(value: Products, factor: float) -> Products:
    rest = value.rest
    if rest is not None and factor != 1:
        made = rest.make
        text = real_text(factor)
        rest = replace(rest, make=lambda i: f"({text} * {made(i)})", work=rest.work + 1)
    return Products(value.shape, tuple((factor * c, a, b) for c, a, b in value.products), rest)


def is_const(node: Node) -> bool:
    return node.op == "const"


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def number_text(value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, int):
        return f"({value}L)" if value < 0 else f"{value}L"
    assert isinstance(value, float)
    return real_text(value)


def real_text(value: float) -> str:
    if math.isinf(value):
        return "INFINITY" if value > 0 else "(-INFINITY)"
    if math.isnan(value):
        return "NAN"
    return f"((REAL){float(value)!r})"
