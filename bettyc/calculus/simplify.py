"""Algebraic simplification: the graph a person would have written.

Zeros vanish, constants are folded, scalar factors move outwards (so that a scale is applied to the
small side of a reduction or product), broadcasts are dropped where the operator broadcasts anyway,
and operands of commuting operators have one order, so that equal formulas are one node.

A rule looks at one node whose operands are simple already and returns something equal and simpler,
or None. Types never change. Zero times anything is zero here, also where IEEE would give NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

from bettyc.expr import Graph
from bettyc.ops import OPS
from bettyc.ops.rules import axes_of, broadcast
from bettyc.ops.term import Term, size
from bettyc.types import Tensor, product

Rule: TypeAlias = Callable[[Term], Term | None]

# Linear in operand 0, which may be scaled, negated or zero.
LINEAR = frozenset(
    {"sum", "mean", "index", "permute", "reshape", "narrow", "pad", "scatter", "cumsum", "flip"}
    | {"diag", "pick"}
)
POINTWISE = frozenset(
    name for name, row in OPS.items() if row.fusion == "pointwise" and row.promotes is None
)


def simplify(graph: Graph, roots: Sequence[int]) -> list[int]:
    """Equal nodes, simpler, of the same types."""
    simple: dict[int, int] = {}
    for index in graph.reachable(roots):
        _visit(graph, index, simple)
    return [simple[r] for r in roots]


def without_zeros(graph: Graph, root: int) -> int:
    """The simple form of a formula in which something is multiplied by zero, as a term that a param
    switches off; any other as it is.
    """
    known: dict[int, float | None] = {}
    for index in graph.reachable([root]):
        operands = [known[a] for a in graph[index].args]
        if graph[index].op == "mul" and 0.0 in operands:
            return simplify(graph, [root])[0]
        constant = all(x is not None for x in operands)
        node = Term(graph, index)
        known[index] = value(_folded(node) or node) if constant else None
    return root


def _visit(graph: Graph, index: int, simple: dict[int, int]) -> int:
    """The simple form of a node; recursion is only as deep as what a rule builds."""
    found = simple.get(index)
    if found is not None:
        return found
    args = [_visit(graph, a, simple) for a in graph[index].args]
    node = Term(graph, graph.rebuild(index, args))
    known = simple.get(node.index)
    if known is None:
        better = _better(node)
        known = node.index if better is None else _visit(graph, better.index, simple)
        simple[node.index] = known
    simple[index] = simple[known] = known
    return known


def _better(node: Term) -> Term | None:
    op = node.node.op
    if not node.node.args or not isinstance(node.node.type, Tensor):
        return None
    for rule in _rules(op):
        found = rule(node)
        if found is not None and found.index != node.index:
            return found.expand_to(node.shape)
    return None


def _rules(op: str) -> Sequence[Rule]:
    rules = list(BY_OP.get(op, ()))
    if op in LINEAR:
        rules.append(_linear)
    if op in POINTWISE:
        rules += [_folded, _unbroadcast]
    return rules


def value(term: Term) -> float | None:
    """The number that a constant, or a tensor filled with one, is."""
    node = term.node
    if node.op == "expand":
        return value(term.operands[0])
    if node.op == "const" and not isinstance(node.attr("value"), (bool, str)):
        return float(node.attr("value"))
    return None


def _scalar(term: Term) -> bool:
    return isinstance(term.node.type, Tensor) and not term.shape


def _split(term: Term) -> tuple[float, Term]:
    """`c * x` as c and x; anything else is 1 times itself."""
    op = term.node.op
    if op == "neg":
        factor, rest = _split(term.operands[0])
        return -factor, rest
    if op == "mul":
        number = value(term.operands[0])
        if number is not None and term.operands[1].shape == term.shape:
            return number, term.operands[1]
    return 1.0, term


def _times(factor: float, term: Term) -> Term:
    if factor == 1.0:
        return term
    if factor == -1.0:
        return -term
    return term.constant(factor) * term


def _add(node: Term) -> Term | None:
    x, y = node.operands
    if value(x) == 0.0:
        return y
    if value(y) == 0.0:
        return x
    if x.node.op == "neg":
        return y - x.operands[0]
    if y.node.op == "neg":
        return x - y.operands[0]
    if x.index == y.index:
        return _times(2.0, x)
    (a, left), (b, right) = _split(x), _split(y)
    if left.index == right.index:
        return _times(a + b, left)
    return y + x if x.index > y.index else None


def _sub(node: Term) -> Term | None:
    x, y = node.operands
    if value(y) == 0.0:
        return x
    if value(x) == 0.0:
        return -y
    if y.node.op == "neg":
        return x + y.operands[0]
    (a, left), (b, right) = _split(x), _split(y)
    if left.index == right.index:
        return node.constant(0.0) if a == b else _times(a - b, left)
    return None


def _mul(node: Term) -> Term | None:
    x, y = node.operands
    a, b = value(x), value(y)
    if a == 0.0 or b == 0.0:
        return node.constant(0.0)
    if a == 1.0:
        return y
    if b == 1.0:
        return x
    if b is not None and a is None:
        return y * x
    if a == -1.0:
        return -y
    return _scaled(node, a, y) if a is not None else _factors(node) or _quotients(x, y)


def _scaled(node: Term, factor: float, y: Term) -> Term | None:
    """A constant times something: constants meet, and are scalars."""
    inner, rest = _split(y)
    if inner != 1.0:
        return _times(factor * inner, rest)
    full = node.operands[0].node.op == "expand" and y.shape == node.shape
    return node.constant(factor) * y if full else None


def _factors(node: Term) -> Term | None:
    """Constants to the front, signs out, squares seen, one order."""
    x, y = node.operands
    (c, left), (d, right) = _split(x), _split(y)
    if c * d != 1.0 or left.index != x.index:
        return _times(c * d, left * right)
    if x.index == y.index:
        return x.call("square")
    # A scalar goes before a tensor; otherwise the older node goes first.
    swapped = _scalar(y) if _scalar(x) != _scalar(y) else x.index > y.index
    return y * x if swapped else None


def _quotients(x: Term, y: Term) -> Term | None:
    """x * (1 / y) is x / y."""
    for one, other in ((x, y), (y, x)):
        if one.node.op == "div":
            numerator, divisor = one.operands
            if value(numerator) is not None or _scalar(divisor):
                return (numerator * other) / divisor
    return None


def _div(node: Term) -> Term | None:
    x, y = node.operands
    b = value(y)
    if value(x) == 0.0:
        return node.constant(0.0)
    if b is not None and b != 0.0:
        return _times(1.0 / b, x)
    if x.node.op == "div" and _scalar(x.operands[1]) and _scalar(y):
        return x.operands[0] / (x.operands[1] * y)
    (c, top), (d, bottom) = _split(x), _split(y)
    if c != 1.0 and value(top) is None:
        return _times(c, top / y)
    if d != 1.0:
        return _times(1.0 / d, x / bottom)
    return None


def _neg(node: Term) -> Term | None:
    x = node.operands[0]
    if x.node.op == "sub":
        return x.operands[1] - x.operands[0]
    factor, rest = _split(x)
    return _times(-factor, rest) if rest.index != x.index else None


def _pow(node: Term) -> Term | None:
    x, y = node.operands
    exponent = value(y)
    if exponent == 0.0:
        return node.constant(1.0)
    if exponent == 1.0:
        return x
    if exponent == 2.0:
        return x.call("square")
    if exponent == 0.5:
        return x.call("sqrt")
    return 1.0 / x if exponent == -1.0 else None


def _square(node: Term) -> Term | None:
    factor, rest = _split(node.operands[0])
    return _times(factor * factor, rest.call("square")) if factor != 1.0 else None


def _log(node: Term) -> Term | None:
    x = node.operands[0]
    return x.operands[0] if x.node.op == "exp" else None


def _where(node: Term) -> Term | None:
    _, x, y = node.operands
    if x.index == y.index or (value(x) is not None and value(x) == value(y)):
        return x
    return None


def _linear(node: Term) -> Term | None:
    """L(c x) = c L(x) for scalars c, constant or not."""
    x = node.operands[0]
    if value(x) == 0.0:
        return node.constant(0.0)
    factor, rest = _split(x)
    if factor != 1.0:
        return _times(factor, _again(node, rest))
    if x.node.op in ("mul", "div") and x.shape:
        a, b = x.operands
        if x.node.op == "mul" and _scalar(a) and b.shape == x.shape:
            return a * _again(node, b)
        if _scalar(b) and a.shape == x.shape:
            return _again(node, a) / b
    return None


def _again(node: Term, operand: Term) -> Term:
    """The node's operator on another first operand of the same type."""
    graph = node.graph
    return Term(graph, graph.rebuild(node.index, [operand.index, *node.node.args[1:]]))


def _matmul(node: Term) -> Term | None:
    """Scalar factors of either operand go outside."""
    operands = list(node.operands)
    for position, x in enumerate(operands):
        if value(x) == 0.0:
            return node.constant(0.0)
        factor, rest = _split(x)
        scalar: Term | None = None
        if factor == 1.0 and x.node.op in ("mul", "div"):
            a, b = x.operands
            if x.node.op == "mul" and _scalar(a) and b.shape == x.shape:
                scalar, rest = a, b
            elif x.node.op == "div" and _scalar(b) and a.shape == x.shape:
                operands[position] = a
                return (operands[0] @ operands[1]) / b
        if factor != 1.0 or scalar is not None:
            operands[position] = rest
            inner = operands[0] @ operands[1]
            return _times(factor, inner) if scalar is None else scalar * inner
    return None


def _sum(node: Term) -> Term | None:
    x, axis = node.operands[0], node.attr("axis")
    axes = axes_of(x.shape, axis)
    if not axes:
        return x
    if x.node.op == "square":
        return x.operands[0].call("sumsq", axis=axis)
    if x.node.op == "expand":
        inner = x.operands[0]
        leading = range(len(x.shape) - len(inner.shape))
        if all(a in leading for a in axes):
            count = size(node.graph, product(tuple(x.shape[a] for a in axes)))
            return (count * inner).expand_to(node.shape)
    return None


def _sumsq(node: Term) -> Term | None:
    """Over all parameters of a network: the sum over each, so that none is copied."""
    x = node.operands[0]
    if x.node.op != "params" or node.attr("axis") not in (None, 0):
        return None
    parts = x.operands
    if not parts or not all(isinstance(p.node.type, Tensor) for p in parts):
        return None
    found = parts[0].call("sumsq")
    for part in parts[1:]:
        found = found + part.call("sumsq")
    return found


def _mean(node: Term) -> Term | None:
    x = node.operands[0]
    return x.operands[0] if x.node.op == "expand" and _scalar(x.operands[0]) else None


def _reshape(node: Term) -> Term | None:
    x = node.operands[0]
    if x.shape == node.shape:
        return x
    if x.node.op == "reshape":
        return x.operands[0].reshape_to(node.shape)
    return _moved_scalar(node)


def _permute(node: Term) -> Term | None:
    axes = node.attr("axes")
    x = node.operands[0]
    if tuple(axes) == tuple(range(len(axes))):
        return x
    if x.node.op == "permute":
        inner = x.attr("axes")
        return x.operands[0].call("permute", axes=tuple(inner[a] for a in axes))
    return _moved_scalar(node)


def _index(node: Term) -> Term | None:
    if all(item[0] == "all" for item in node.attr("spec")):
        return node.operands[0]
    return _moved_scalar(node)


def _moved_scalar(node: Term) -> Term | None:
    """Moving the entries of a tensor that has one value everywhere."""
    x = node.operands[0]
    if x.node.op == "expand" and _scalar(x.operands[0]):
        return x.operands[0].expand_to(node.shape)
    return None


def _expand(node: Term) -> Term | None:
    x = node.operands[0]
    if x.shape == node.shape:
        return x
    if x.node.op == "expand" and broadcast(x.operands[0].shape, node.shape) == node.shape:
        return x.operands[0].expand_to(node.shape)
    return None


def _joined(node: Term) -> Term | None:
    """Zeros beside zeros are zeros."""
    return node.constant(0.0) if all(value(x) == 0.0 for x in node.operands) else None


def _real(node: Term) -> Term | None:
    x = node.operands[0]
    return x if x.tensor.kind == "real" else None


def _detach(node: Term) -> Term | None:
    x = node.operands[0]
    return x if x.node.op in ("const", "detach", "data", "batch") else None


FOLD: dict[str, Callable[..., float]] = {
    "add": lambda x, y: x + y, "sub": lambda x, y: x - y, "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y, "pow": math.pow, "neg": lambda x: -x, "exp": math.exp,
    "log": math.log, "log1p": math.log1p, "expm1": math.expm1, "sqrt": math.sqrt, "abs": abs,
    "square": lambda x: x * x, "tanh": math.tanh, "sin": math.sin, "cos": math.cos,
    "erf": math.erf, "relu": lambda x: max(x, 0.0), "maximum": max, "minimum": min,
    "floor": math.floor, "round": round, "sign": lambda x: (x > 0) - (x < 0),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x)),
}  # fmt: skip


def _folded(node: Term) -> Term | None:
    """An operator on numbers is a number; where it has none (1 / 0) it stays."""
    fold = FOLD.get(node.node.op)
    numbers = [value(x) for x in node.operands]
    if fold is None or None in numbers or node.tensor.kind != "real":
        return None
    try:
        result = float(fold(*numbers))
    except (ArithmeticError, ValueError):
        return None
    return node.constant(result) if math.isfinite(result) else None


def _unbroadcast(node: Term) -> Term | None:
    """f(expand(x)) = expand(f(x)); beside a full operand the broadcast is the operator's own."""
    operands = node.operands
    inner = [x.operands[0] if x.node.op == "expand" else x for x in operands]
    if all(a.index == b.index for a, b in zip(inner, operands, strict=True)):
        return None
    if len(inner) == 2 and broadcast(inner[0].shape, inner[1].shape) is None:
        return None
    return inner[0].call(node.node.op, *inner[1:], **dict(node.node.attrs))


BY_OP: dict[str, tuple[Rule, ...]] = {
    "add": (_add,),
    "sub": (_sub,),
    "mul": (_mul,),
    "div": (_div,),
    "neg": (_neg,),
    "pow": (_pow,),
    "square": (_square,),
    "log": (_log,),
    "where": (_where,),
    "matmul": (_matmul,),
    "sum": (_sum,),
    "sumsq": (_sumsq,),
    "mean": (_mean,),
    "reshape": (_reshape,),
    "permute": (_permute,),
    "index": (_index,),
    "expand": (_expand,),
    "concat": (_joined,),
    "stack": (_joined,),
    "detach": (_detach,),
    "real": (_real,),
}
