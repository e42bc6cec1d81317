"""Functions of one real tensor, entry by entry, and the larger and smaller of two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bettyc.ops.row import Lowering, Op, Parameter, Types, constant, inputs, table
from bettyc.ops.rules import joined, numeric, pointwise_unary, poisoned
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


def _row(name: str, doc: str, function: str = "", *options: Parameter, **more: Any) -> Op:
    text = _call(function or f"torch.{name}", *(o.name for o in options))
    return Op(name, (*inputs("x"), *options), doc, pointwise_unary(name), text, **more)


_F = "torch.nn.functional."

ROWS = table(
    _row("exp", "e to the x.", curvature="convex"),
    _row("log", "Natural logarithm, for x > 0.", curvature="concave"),
    _row("log1p", "log(1 + x), accurate for small x > -1.", curvature="concave"),
    _row("expm1", "exp(x) - 1, accurate for small x.", curvature="convex"),
    _row("sqrt", "Square root, for x > 0.", curvature="concave"),
    _row("abs", "Absolute value.", smooth="piecewise", kinks="x = 0", curvature="convex"),
    _row("square", "x^2.", curvature="convex"),
    _row("sign", "-1, 0 or 1.", smooth="flat"),
    _row("floor", "The largest integer that is at most x, as a real.", smooth="flat"),
    _row("round", "The nearest integer (halves to even), as a real.", smooth="flat"),
    _row("sigmoid", "1 / (1 + exp(-x))."),
    _row("tanh", "Hyperbolic tangent."),
    _row("relu", "max(x, 0).", smooth="piecewise", kinks="x = 0", curvature="convex"),
    _row(
        "leaky_relu",
        "x where x > 0, slope * x elsewhere.",
        f"{_F}leaky_relu",
        constant("slope", 0.01),
        smooth="piecewise",
        kinks="x = 0",
    ),
    _row(
        "elu",
        "x where x > 0, alpha * (exp(x) - 1) elsewhere.",
        f"{_F}elu",
        constant("alpha", 1.0),
        smooth="piecewise",
        kinks="x = 0 (in the slope for alpha != 1, in the curvature always)",
    ),
    _row("softplus", "log(1 + exp(x)).", f"{_F}softplus", curvature="convex"),
    _row("gelu", "x times the normal distribution function of x.", f"{_F}gelu"),
    _row("silu", "x * sigmoid(x).", f"{_F}silu"),
    _row("sin", "Sine."),
    _row("cos", "Cosine."),
    _row("erf", "Error function."),
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
    ),
)
