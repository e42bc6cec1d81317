"""Fewer calls to torch in emitted text: products that are added on, and results written in place.

On small problems a step costs what its calls cost (about a microsecond each), so `x + a @ b / n` is
one `addmv` and `sigmoid(z) - y` writes into z when nothing else reads z. Only for text that runs
without autograd.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from bettyc.expr import Graph
from bettyc.ops import OPS
from bettyc.types import Tensor

# Methods of torch that write into their first operand.
IN_PLACE = frozenset(
    {"add", "sub", "mul", "div", "neg", "exp", "log", "log1p", "expm1", "sqrt", "abs", "square"}
    | {"sigmoid", "tanh", "relu", "sin", "cos", "erf", "floor", "round", "sign"}
)
# Pointwise by their fusion class, but what they give may be their operand itself.
ALIASES = frozenset({"real", "int", "detach", "straight_through"})


class Added(NamedTuple):
    """`beta * base + alpha * (left @ right)`, one call.

    scale: nodes that multiply (True) or divide (False) the product, scalars that are numbers.
    """

    base: int
    beta: float
    left: int
    right: int
    sign: float
    scale: tuple[tuple[int, bool], ...]


class Fusions(NamedTuple):
    """Fused nodes, and the nodes that are part of them and of nothing else.

    masks: `x > 0` as a real tensor, by x. masked: products `x * (y > 0)`, by x and y.
    """

    added: dict[int, Added]
    absorbed: set[int]
    masks: dict[int, int]
    masked: dict[int, tuple[int, int]]


def fusions(
    graph: Graph, order: Sequence[int], uses: Mapping[int, int], apart: Collection[int] = ()
) -> Fusions:
    """The sums below that are one `addmv` or `addmm` each, and the products with a mask. apart:
    products to be left alone.
    """
    found = Fusions({}, set(), {}, {})
    for index in order:
        op = graph[index].op
        if op in ("add", "sub") and index not in found.absorbed:
            _fuse(graph, index, uses, found, apart)
        elif op == "real" and (positive := _positive(graph, index, uses)) is not None:
            found.masks[index] = positive
            found.absorbed.add(graph[index].args[0])
        elif op == "mul":
            _mask(graph, index, uses, found)
    return found


def _positive(graph: Graph, index: int, uses: Mapping[int, int]) -> int | None:
    """x, where the node is 1.0 where x > 0 and 0.0 elsewhere; by way of bool it is slow."""
    condition = graph[index].args[0]
    if graph[condition].op != "gt" or uses.get(condition) != 1:
        return None
    x, bound = graph[condition].args
    zero = graph[bound].op == "const" and graph[bound].attr("value") == 0.0
    type_ = graph[x].type
    real = isinstance(type_, Tensor) and type_.kind == "real" and bool(type_.shape)
    return x if zero and real else None


def _mask(graph: Graph, index: int, uses: Mapping[int, int], found: Fusions) -> None:
    node = graph[index]
    for mask, other in (node.args, node.args[::-1]):
        x = found.masks.get(mask)
        if x is None or uses.get(mask) != 1 or other == mask:
            continue
        if graph[other].type == node.type == graph[x].type:
            found.masked[index] = other, x
            found.absorbed.add(mask)
            return


def _fuse(
    graph: Graph, index: int, uses: Mapping[int, int], found: Fusions, apart: Collection[int]
) -> None:
    node = graph[index]
    minus = -1.0 if node.op == "sub" else 1.0
    for base, term, beta, sign in (
        (node.args[0], node.args[1], 1.0, minus),
        (node.args[1], node.args[0], minus, 1.0),
    ):
        chain = _scaled_product(graph, term, uses)
        if chain is None or base == term or chain[0] in apart:
            continue
        product, scale, inside, negated = chain
        left, right = graph[product].args
        if graph[product].type == node.type and _addable(graph, base, left, right):
            sign = -sign if negated else sign
            found.added[index] = Added(base, beta, left, right, sign, scale)
            found.absorbed.update(inside)
            return


def _scaled_product(
    graph: Graph, index: int, uses: Mapping[int, int]
) -> tuple[int, tuple[tuple[int, bool], ...], list[int], bool] | None:
    """A matrix product behind number factors, divisions by numbers and signs, all used once."""
    scale: list[tuple[int, bool]] = []
    inside: list[int] = []
    negated = False
    while uses.get(index) == 1:
        node = graph[index]
        inside.append(index)
        if node.op == "matmul":
            return index, tuple(scale), inside, negated
        if node.op == "neg":
            negated, index = not negated, node.args[0]
        elif node.op == "mul" and is_number(graph, node.args[0]):
            scale.append((node.args[0], True))
            index = node.args[1]
        elif node.op == "div" and is_number(graph, node.args[1]):
            scale.append((node.args[1], False))
            index = node.args[0]
        else:
            return None
    return None


def is_number(graph: Graph, index: int) -> bool:
    """Written as a Python number."""
    return graph[index].op in ("const", "size")


def _addable(graph: Graph, base: int, left: int, right: int) -> bool:
    """addmv wants a matrix, a vector and a vector; addmm two matrices and what broadcasts."""
    shapes = [
        t.shape for t in (graph[i].type for i in (base, left, right)) if isinstance(t, Tensor)
    ]
    ranks = [len(s) for s in shapes]
    if ranks in ([1, 2, 1], [2, 2, 2]):
        return True
    return ranks == [1, 2, 2] or ranks == [1, 1, 2]


def fresh(graph: Graph, index: int) -> bool:
    """Does the node's value lie in memory that nobody else sees?"""
    op = graph[index].op
    row = OPS.get(op)
    if row is None or op in ALIASES or not graph[index].args:
        return False
    return row.fusion in ("pointwise", "matmul", "reduce")


def overwritten(graph: Graph, index: int, uses: Mapping[int, int]) -> int | None:
    """The position of the operand that the node may write its result into."""
    node = graph[index]
    if node.op not in IN_PLACE:
        return None
    for position in (0, 1) if node.op in ("add", "mul") else (0,):
        operand = node.args[position]
        once = uses.get(operand) == 1 and fresh(graph, operand)
        if once and graph[operand].type == node.type and node.args.count(operand) == 1:
            return position
    return None
