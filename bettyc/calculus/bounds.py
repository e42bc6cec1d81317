"""Bounds of the entries of every node, by interval arithmetic.

What is known: constants, the ranges of functions (sigmoid lies in (0, 1)), and the domains of
variables that the caller states. `strict` says that the entries are greater than 0 even where the
lower bound is 0, as those of exp are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from bettyc.expr import Graph, Node
from bettyc.types import Tensor

INF = math.inf


class Bounds(NamedTuple):
    """low <= entry <= high; `strict`: 0 < entry."""

    low: float = -INF
    high: float = INF
    strict: bool = False

    @property
    def positive(self) -> bool:
        return self.strict or self.low > 0

    @property
    def nonnegative(self) -> bool:
        return self.low >= 0

    @property
    def nonpositive(self) -> bool:
        return self.high <= 0


ANY = Bounds()
UNIT = Bounds(0.0, 1.0, strict=True)
# Ranges of functions whatever their operands are.
RANGES: dict[str, Bounds] = {
    "exp": Bounds(0.0, INF, True),
    "sigmoid": UNIT,
    "softmax": UNIT,
    "softplus": Bounds(0.0, INF, True),
    "log_softmax": Bounds(-INF, 0.0),
    "tanh": Bounds(-1.0, 1.0),
    "erf": Bounds(-1.0, 1.0),
    "sin": Bounds(-1.0, 1.0),
    "cos": Bounds(-1.0, 1.0),
    "sign": Bounds(-1.0, 1.0),
    "sqrt": Bounds(0.0, INF),
    "abs": Bounds(0.0, INF),
    "square": Bounds(0.0, INF),
    "sumsq": Bounds(0.0, INF),
    "norm": Bounds(0.0, INF),
    "one_hot": Bounds(0.0, 1.0),
    "eye": Bounds(0.0, 1.0),
    "mask": Bounds(0.0, INF),
    "size": Bounds(1.0, INF),
    "expm1": Bounds(-1.0, INF),
}
# Entries of the result are entries of the operands (or zeros that are put between them).
SAME = frozenset(
    {"index", "reshape", "permute", "expand", "concat", "stack", "narrow", "flip", "detach", "mean"}
    | {"amax", "amin", "pick", "ema"}
)


def bounds(
    graph: Graph, order: Sequence[int], domains: Mapping[int, Bounds] | None = None
) -> dict[int, Bounds]:
    """The bounds of the nodes in `order`, which is topological."""
    found: dict[int, Bounds] = {}
    for index in order:
        node = graph[index]
        known = domains.get(index) if domains else None
        found[index] = known or _of(graph, node, [found.get(a, ANY) for a in node.args])
    return found


def _of(graph: Graph, node: Node, operands: Sequence[Bounds]) -> Bounds:
    if node.op == "const":
        return _number(node.attr("value"))
    if isinstance(node.type, Tensor) and node.type.kind == "bool":
        return Bounds(0.0, 1.0)
    if isinstance(node.type, Tensor) and node.type.labels is not None:
        return Bounds(0.0, (node.type.labels.value or INF) - 1)
    if node.op == "mul":
        return _square(operands[0]) if node.args[0] == node.args[1] else _mul(*operands)
    rule = RULES.get(node.op)
    if rule is not None:
        return rule(*operands[:2])
    if node.op in SAME:
        return _union(operands)
    if node.op in ("pad", "scatter"):
        return _union([operands[0]._replace(strict=False), Bounds(0.0, 0.0)])
    if node.op == "bce":
        targets = operands[1]
        return Bounds(0.0, INF) if targets.low >= 0 and targets.high <= 1 else ANY
    if node.op == "xent":
        return Bounds(0.0, INF) if operands[1].nonnegative else ANY
    if node.op == "pow":
        return _power(graph, node, operands[0])
    if node.op == "where":
        return _union(operands[1:])
    return RANGES.get(node.op, ANY)


def _number(value: object) -> Bounds:
    if isinstance(value, bool):
        return Bounds(float(value), float(value), value)
    if isinstance(value, (int, float)):
        return Bounds(float(value), float(value), value > 0)
    return ANY


def _union(operands: Sequence[Bounds]) -> Bounds:
    if not operands:
        return ANY
    return Bounds(
        min(b.low for b in operands),
        max(b.high for b in operands),
        all(b.strict or b.low > 0 for b in operands),
    )


def _product(a: float, b: float) -> float:
    """Of two ends; zero times infinity is zero, because the factor is exactly zero there."""
    return 0.0 if a == 0 or b == 0 else a * b


def _add(x: Bounds, y: Bounds) -> Bounds:
    strict = (x.positive and y.low >= 0) or (y.positive and x.low >= 0)
    return Bounds(x.low + y.low, x.high + y.high, strict)


def _neg(x: Bounds) -> Bounds:
    return Bounds(-x.high, -x.low, x.high < 0)


def _mul(x: Bounds, y: Bounds) -> Bounds:
    ends = [_product(a, b) for a in (x.low, x.high) for b in (y.low, y.high)]
    return Bounds(min(ends), max(ends), x.positive and y.positive)


def _div(x: Bounds, y: Bounds) -> Bounds:
    if not y.nonnegative and not y.nonpositive:
        return ANY
    if not y.positive and not y.high < 0:
        return ANY
    ends = [_quotient(1.0, y.low, y.positive), _quotient(1.0, y.high, y.positive)]
    return _mul(x, Bounds(min(ends), max(ends), y.positive))


def _quotient(a: float, b: float, positive: bool) -> float:
    if b == 0:
        return INF if positive else -INF
    return a / b


def _monotone(function: Callable[[float], float], strict: bool = False) -> Callable[..., Bounds]:
    """An increasing function of one operand."""

    def rule(x: Bounds, *_: Bounds) -> Bounds:
        low, high = _at(function, x.low), _at(function, x.high)
        return Bounds(low, high, strict or (x.positive and low >= 0))

    return rule


def _at(function: Callable[[float], float], x: float) -> float:
    try:
        return function(x)
    except (OverflowError, ValueError):
        return INF if x > 0 else -INF


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -INF


def _square(x: Bounds, *_: Bounds) -> Bounds:
    ends = [_product(x.low, x.low), _product(x.high, x.high)]
    touches = x.low <= 0 <= x.high and not x.positive
    return Bounds(0.0 if touches else min(ends), max(ends), x.positive or x.high < 0)


def _abs(x: Bounds, *_: Bounds) -> Bounds:
    if x.low >= 0:
        return x
    if x.high <= 0:
        return _neg(x)
    return Bounds(0.0, max(-x.low, x.high))


def _sum(x: Bounds, *_: Bounds) -> Bounds:
    return Bounds(0.0 if x.low >= 0 else -INF, 0.0 if x.high <= 0 else INF, x.positive)


def _maximum(x: Bounds, y: Bounds) -> Bounds:
    return Bounds(max(x.low, y.low), max(x.high, y.high), x.positive or y.positive)


def _minimum(x: Bounds, y: Bounds) -> Bounds:
    return Bounds(min(x.low, y.low), min(x.high, y.high), x.positive and y.positive)


def _matmul(x: Bounds, y: Bounds) -> Bounds:
    return _sum(_mul(x, y))


def _power(graph: Graph, node: Node, base: Bounds) -> Bounds:
    exponent = graph[node.args[1]].attr("value")
    if isinstance(exponent, (int, float)) and exponent > 0 and float(exponent) % 2 == 0:
        return Bounds(0.0, INF, base.positive)
    return Bounds(0.0, INF, True) if base.positive else Bounds(0.0 if base.low >= 0 else -INF)


RULES: dict[str, Callable[..., Bounds]] = {
    "add": _add,
    "sub": lambda x, y: _add(x, _neg(y)),
    "neg": _neg,
    "div": _div,
    "square": _square,
    "abs": _abs,
    "sum": _sum,
    "cumsum": _sum,
    "prod": lambda x: Bounds(0.0, INF, x.positive) if x.low >= 0 else ANY,
    "maximum": _maximum,
    "minimum": _minimum,
    "matmul": _matmul,
    "relu": lambda x: Bounds(max(x.low, 0.0), max(x.high, 0.0), x.positive),
    "real": lambda x: x,
    "exp": _monotone(math.exp, strict=True),
    "log": _monotone(_log),
    "log1p": _monotone(lambda x: _log(1 + x)),
    "sqrt": _monotone(lambda x: math.sqrt(max(x, 0.0))),
}
