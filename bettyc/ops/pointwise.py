"""Functions of one real tensor, entry by entry, and the larger and smaller of two."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bettyc.ops.row import Lowering, Op, Parameter, Types, constant, inputs, table
from bettyc.ops.rules import joined, numeric, pointwise_unary, poisoned
from bettyc.ops.slopes import by_slopes, holds
from bettyc.ops.term import Term
from bettyc.types import Tensor, Type


def _call(function: str, *options: str) -> Lowering:
    """`torch.f(x)`, with constants of the node passed on by position."""

    def text(args: Sequence[str], attrs: Mapping[str, Any], types: Types, result: Type) -> str:
        return f"{function}({', '.join([*args, *(repr(attrs[o]) for o in options)])})"

    return text


def _larger(op: str) -> Any:
    def rule(types: Types, attrs: Mapping[str, Any]) -> Type:
        bad = poisoned(types)
        if bad:
            return bad
        left, right = numeric(op, types, 0), numeric(op, types, 1)
        both_int = left.kind == right.kind == "int"
        return Tensor("int" if both_int else "real", joined(op, left, right))

    return rule


def _softplus_text(
    args: Sequence[str], attrs: Mapping[str, Any], types: Types, result: Type
) -> str:
    """From 40 on x itself, which is exact; torch's own 20 is off by 2e-9 there."""
    return f"torch.nn.functional.softplus({args[0]}, 1, 40)"


def _step(x: Term) -> Term:
    return holds(x.call("gt", 0.0))


def _elu_slope(node: Term) -> Term:
    alpha = node.attr("alpha")
    return node.operands[0].call("gt", 0.0).call("where", 1.0, node + alpha)


def _leaky_slope(node: Term) -> Term:
    slope: float = node.attr("slope")
    return _step(node.operands[0]) * (1.0 - slope) + slope


def _gelu_slope(node: Term) -> Term:
    x = node.operands[0]
    below = (x * math.sqrt(0.5)).call("erf") * 0.5 + 0.5
    density = (x.call("square") * -0.5).call("exp") * (1 / math.sqrt(2 * math.pi))
    return below + x * density


def _silu_slope(node: Term) -> Term:
    x = node.operands[0]
    s = x.call("sigmoid")
    return s * (1.0 + x * (1.0 - s))


def _greater(node: Term, first: int) -> Term:
    """1 where this operand is the greater one, 1/2 where both are equal, as torch has it."""
    x, y = node.operands[first], node.operands[1 - first]
    return (holds(x.call("gt", y)) + holds(x.call("ge", y))) * 0.5


def _row(
    name: str, doc: str, function: str | Lowering = "", *options: Parameter, **more: Any
) -> Op:
    names = [o.name for o in options]
    text = function if callable(function) else _call(function or f"torch.{name}", *names)
    return Op(name, (*inputs("x"), *options), doc, pointwise_unary(name), text, **more)


_F = "torch.nn.functional."

ROWS = table(
    _row("exp", "e to the x.", curvature="convex", **by_slopes(lambda n: n)),
    _row(
        "log",
        "Natural logarithm, for x > 0.",
        curvature="concave",
        **by_slopes(lambda n: 1.0 / n.operands[0]),
    ),
    _row(
        "log1p",
        "log(1 + x), accurate for small x > -1.",
        curvature="concave",
        **by_slopes(lambda n: 1.0 / (1.0 + n.operands[0])),
    ),
    _row(
        "expm1",
        "exp(x) - 1, accurate for small x.",
        curvature="convex",
        **by_slopes(lambda n: n + 1.0),
    ),
    _row("sqrt", "Square root, for x > 0.", curvature="concave", **by_slopes(lambda n: 0.5 / n)),
    _row(
        "abs",
        "Absolute value.",
        smooth="piecewise",
        kinks="x = 0",
        curvature="convex",
        **by_slopes(lambda n: n.operands[0].call("sign")),
    ),
    _row("square", "x^2.", curvature="convex", **by_slopes(lambda n: 2.0 * n.operands[0])),
    _row("sign", "-1, 0 or 1.", smooth="flat"),
    _row("floor", "The largest integer that is at most x, as a real.", smooth="flat"),
    _row("round", "The nearest integer (halves to even), as a real.", smooth="flat"),
    _row("sigmoid", "1 / (1 + exp(-x)).", **by_slopes(lambda n: n * (1.0 - n))),
    _row("tanh", "Hyperbolic tangent.", **by_slopes(lambda n: 1.0 - n.call("square"))),
    _row(
        "relu",
        "max(x, 0).",
        smooth="piecewise",
        kinks="x = 0",
        curvature="convex",
        # of its result, so that nothing else needs x and it may be overwritten
        **by_slopes(_step),
    ),
    _row(
        "leaky_relu",
        "x where x > 0, slope * x elsewhere.",
        f"{_F}leaky_relu",
        constant("slope", 0.01),
        smooth="piecewise",
        kinks="x = 0",
        **by_slopes(_leaky_slope),
    ),
    _row(
        "elu",
        "x where x > 0, alpha * (exp(x) - 1) elsewhere.",
        f"{_F}elu",
        constant("alpha", 1.0),
        smooth="piecewise",
        kinks="x = 0 (in the slope for alpha != 1, in the curvature always)",
        **by_slopes(_elu_slope),
    ),
    _row(
        "softplus",
        "log(1 + exp(x)).",
        _softplus_text,
        curvature="convex",
        **by_slopes(lambda n: n.operands[0].call("sigmoid")),
    ),
    _row(
        "gelu",
        "x times the normal distribution function of x.",
        f"{_F}gelu",
        **by_slopes(_gelu_slope),
    ),
    _row("silu", "x * sigmoid(x).", f"{_F}silu", **by_slopes(_silu_slope)),
    _row("sin", "Sine.", **by_slopes(lambda n: n.operands[0].call("cos"))),
    _row("cos", "Cosine.", **by_slopes(lambda n: -n.operands[0].call("sin"))),
    _row(
        "erf",
        "Error function.",
        **by_slopes(
            lambda n: (-n.operands[0].call("square")).call("exp") * (2 / math.sqrt(math.pi))
        ),
    ),
    Op(
        "maximum",
        inputs("x", "y"),
        "The larger of two, entry by entry.",
        _larger("max"),
        _call("torch.maximum"),
        smooth="piecewise",
        kinks="x = y",
        curvature="convex",
        internal=True,
        **by_slopes(lambda n: _greater(n, 0), lambda n: _greater(n, 1)),
    ),
    Op(
        "minimum",
        inputs("x", "y"),
        "The smaller of two, entry by entry.",
        _larger("min"),
        _call("torch.minimum"),
        smooth="piecewise",
        kinks="x = y",
        curvature="concave",
        internal=True,
        **by_slopes(lambda n: _greater(n, 1), lambda n: _greater(n, 0)),
    ),
)
