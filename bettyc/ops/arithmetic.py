"""Infix operators: arithmetic, comparison, logic, and `if a then b else c`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bettyc.ops.row import Lowering, Op, ShapeError, ShapeRule, Types, inputs, table
from bettyc.ops.rules import joined, numeric, of_kind, poisoned, tensor
from bettyc.ops.slopes import by_slopes, holds
from bettyc.ops.term import Term
from bettyc.types import Tensor, Type, number

TWO = number(2)


def _arithmetic(op: str, real: bool = False) -> ShapeRule:
    """int with int stays int (unless `real`), anything with a real is real."""

    def rule(types: Types, attrs: Mapping[str, Any]) -> Type:
        bad = poisoned(types)
        if bad:
            return bad
        left, right = numeric(op, types, 0), numeric(op, types, 1)
        both_int = left.kind == right.kind == "int" and not real
        return Tensor("int" if both_int else "real", joined(op, left, right))

    return rule


def _negated(types: Types, attrs: Mapping[str, Any]) -> Type:
    bad = poisoned(types)
    if bad:
        return bad
    found = numeric("-", types, 0)
    return Tensor(found.kind, found.shape)


def _comparable(left: Tensor, right: Tensor) -> bool:
    """Labels compare with labels, integers and (two of them) with bools; bools only with those."""
    kinds = {left.kind, right.kind}
    if "bool" in kinds:
        labels = left.labels or right.labels
        return kinds == {"bool"} or (kinds == {"bool", "int"} and labels == TWO)
    return "real" not in kinds or (left.labels is None and right.labels is None)


def _comparison(op: str, ordered: bool) -> ShapeRule:
    def rule(types: Types, attrs: Mapping[str, Any]) -> Type:
        bad = poisoned(types)
        if bad:
            return bad
        left, right = tensor(op, types, 0), tensor(op, types, 1)
        if not _comparable(left, right) or (ordered and "bool" in (left.kind, right.kind)):
            raise ShapeError("MLO0404", [0, 1], op=op, expected=left, found=right)
        return Tensor("bool", joined(op, left, right))

    return rule


def _logic(op: str, count: int) -> ShapeRule:
    def rule(types: Types, attrs: Mapping[str, Any]) -> Type:
        bad = poisoned(types)
        if bad:
            return bad
        found = [of_kind(op, types, i, "bool") for i in range(count)]
        return found[0] if count == 1 else Tensor("bool", joined(op, found[0], found[1]))

    return rule


def _where(types: Types, attrs: Mapping[str, Any]) -> Type:
    bad = poisoned(types)
    if bad:
        return bad
    condition = of_kind("if", types, 0, "bool")
    left, right = tensor("if", types, 1), tensor("if", types, 2)
    mixed = {left.kind, right.kind} == {"int", "real"} and not (left.labels or right.labels)
    if (left.kind, left.labels) != (right.kind, right.labels) and not mixed:
        raise ShapeError("MLO0414", [1, 2], op="if", left=left, right=right)
    try:
        arms = joined("if", left, right)
    except ShapeError as error:
        raise ShapeError("MLO0414", [1, 2], op="if", left=left, right=right) from error
    arm = Tensor("real" if mixed else left.kind, arms, left.labels)
    return Tensor(arm.kind, joined("if", condition, arm), arm.labels)


def _infix(symbol: str) -> Lowering:
    def text(args: Sequence[str], attrs: Mapping[str, Any], types: Types, result: Type) -> str:
        return f"{args[0]} {symbol} {args[1]}"

    return text


def _prefix(symbol: str) -> Lowering:
    def text(args: Sequence[str], attrs: Mapping[str, Any], types: Types, result: Type) -> str:
        return f"{symbol}{args[0]}"

    return text


def _where_text(args: Sequence[str], attrs: Mapping[str, Any], types: Types, result: Type) -> str:
    return f"torch.where({', '.join(args)})"


def _row(name: str, symbol: str, doc: str, shape: ShapeRule, **more: Any) -> Op:
    return Op(name, inputs("x", "y"), doc, shape, _infix(symbol), **more)


def _compare(name: str, symbol: str, doc: str, ordered: bool = True) -> Op:
    return _row(name, symbol, doc, _comparison(symbol, ordered), smooth="flat")


def _add_reverse(node: Term, g: Term) -> Sequence[Term | None]:
    return g, g


def _add_forward(node: Term, tangents: Sequence[Term | None]) -> Term | None:
    left, right = tangents
    if left is None or right is None:
        return left or right
    return left + right


def _sub_reverse(node: Term, g: Term) -> Sequence[Term | None]:
    return g, -g


def _sub_forward(node: Term, tangents: Sequence[Term | None]) -> Term | None:
    left, right = tangents
    if right is None:
        return left
    return -right if left is None else left - right


def _neg_reverse(node: Term, g: Term) -> Sequence[Term | None]:
    return (-g,)


def _neg_forward(node: Term, tangents: Sequence[Term | None]) -> Term | None:
    return None if tangents[0] is None else -tangents[0]


def _div_reverse(node: Term, g: Term) -> Sequence[Term | None]:
    scaled = g / node.operands[1]
    return scaled, -(scaled * node)


def _div_forward(node: Term, tangents: Sequence[Term | None]) -> Term | None:
    left, right = tangents
    divisor = node.operands[1]
    if right is None:
        return None if left is None else left / divisor
    change = node * right
    return (-change if left is None else left - change) / divisor


def _base_slope(node: Term) -> Term:
    base, exponent = node.operands
    return exponent * base ** (exponent - 1.0)


def _exponent_slope(node: Term) -> Term:
    """The power times log(base), and 0 where the base is 0."""
    base, _ = node.operands
    return node * (base + holds(base.call("eq", 0.0))).call("log")


def _where_reverse(node: Term, g: Term) -> Sequence[Term | None]:
    condition = node.operands[0]
    return None, condition.call("where", g, 0.0), condition.call("where", 0.0, g)


def _where_forward(node: Term, tangents: Sequence[Term | None]) -> Term | None:
    _, left, right = tangents
    if left is None and right is None:
        return None
    return node.operands[0].call("where", left or 0.0, right or 0.0)


ROWS = table(
    _row(
        "add",
        "+",
        "Sum, entry by entry.",
        _arithmetic("+"),
        curvature="linear",
        reverse=_add_reverse,
        forward=_add_forward,
    ),
    _row(
        "sub",
        "-",
        "Difference, entry by entry.",
        _arithmetic("-"),
        curvature="linear",
        reverse=_sub_reverse,
        forward=_sub_forward,
    ),
    _row(
        "mul",
        "*",
        "Product, entry by entry.",
        _arithmetic("*"),
        curvature="bilinear",
        **by_slopes(lambda n: n.operands[1], lambda n: n.operands[0]),
    ),
    _row(
        "div",
        "/",
        "Quotient, entry by entry; always real.",
        _arithmetic("/", real=True),
        reverse=_div_reverse,
        forward=_div_forward,
    ),
    _row(
        "pow",
        "**",
        "Power, entry by entry; always real.",
        _arithmetic("^", real=True),
        **by_slopes(_base_slope, _exponent_slope),
    ),
    Op(
        "neg",
        inputs("x"),
        "The negative.",
        _negated,
        _prefix("-"),
        curvature="linear",
        reverse=_neg_reverse,
        forward=_neg_forward,
    ),
    _compare("eq", "==", "Whether the entries are equal.", ordered=False),
    _compare("ne", "!=", "Whether the entries differ.", ordered=False),
    _compare("lt", "<", "Whether x is less than y."),
    _compare("le", "<=", "Whether x is at most y."),
    _compare("gt", ">", "Whether x is greater than y."),
    _compare("ge", ">=", "Whether x is at least y."),
    _row("and", "&", "Whether both hold.", _logic("and", 2), smooth="flat"),
    _row("or", "|", "Whether one of them holds.", _logic("or", 2), smooth="flat"),
    Op("not", inputs("x"), "Whether it does not hold.", _logic("not", 1), _prefix("~"), "flat"),
    Op(
        "where",
        inputs("condition", "x", "y"),
        "x where the condition holds, y elsewhere: `if condition then x else y`.",
        _where,
        _where_text,
        blocked=(0,),
        promotes=(1, 2),
        smooth="piecewise",
        kinks="where the condition changes",
        reverse=_where_reverse,
        forward=_where_forward,
    ),
)
