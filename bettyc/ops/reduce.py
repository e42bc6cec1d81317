"""Reductions, scans and the softmax family. `axis` omitted reduces over all axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bettyc.ops import reduce_rules as rules
from bettyc.ops.row import Lowering, Op, ShapeRule, Types, constant, inputs, table
from bettyc.ops.rules import form, numeric, one_axis, poisoned, tensor, without
from bettyc.types import Tensor, Type

AXIS = constant("axis", None)
LAST = constant("axis", -1)


def _counts(op: str, types: Types) -> Tensor:
    """A real or int tensor, or the zeros and ones of a bool."""
    found = tensor(op, types, 0)
    return found if found.kind == "bool" else numeric(op, types, 0)


def _first(op: str, types: Types) -> Tensor:
    return numeric(op, types, 0)


def _reduction(
    op: str, operand: Callable[[str, Types], Tensor], kind: str | None = None
) -> ShapeRule:
    def rule(types: Types, attrs: Mapping[str, Any]) -> Type:
        bad = poisoned(types)
        if bad:
            return bad
        shape = operand(op, types).shape
        return Tensor(kind or "real", without(shape, attrs.get("axis")))

    return rule


def _product(types: Types, attrs: Mapping[str, Any]) -> Type:
    if attrs.get("axis") is not None and not poisoned(types):
        one_axis("prod", _first("prod", types), attrs["axis"])
    return _reduction("prod", _first)(types, attrs)


def _argument(op: str) -> ShapeRule:
    """Positions along the axis, labelled with its size; without an axis, of the flat tensor."""

    def rule(types: Types, attrs: Mapping[str, Any]) -> Type:
        bad = poisoned(types)
        if bad:
            return bad
        found, axis = _first(op, types), attrs.get("axis")
        if axis is None:
            return Tensor("int")
        axis = one_axis(op, found, axis)
        return Tensor("int", without(found.shape, axis), found.shape[axis])

    return rule


def _along(op: str) -> ShapeRule:
    """Same shape; works along one axis."""

    def rule(types: Types, attrs: Mapping[str, Any]) -> Type:
        bad = poisoned(types)
        if bad:
            return bad
        found = numeric(op, types, 0)
        if not found.shape:
            raise form(op, 0, found, "at least one axis")
        one_axis(op, found, attrs["axis"])
        return Tensor("real", found.shape)

    return rule


def _over(function: str, always: bool = False) -> Lowering:
    """`torch.f(x, dim=axis)`; `always` for functions of torch that want their axes named."""

    def text(args: Sequence[str], attrs: Mapping[str, Any], types: Types, result: Type) -> str:
        axis = attrs.get("axis")
        if axis is None and not always:
            return f"{function}({args[0]})"
        source = types[0]
        rank = len(source.shape) if isinstance(source, Tensor) else 0
        return f"{function}({args[0]}, dim={tuple(range(rank)) if axis is None else axis})"

    return text


def _flat_first(function: str) -> Lowering:
    """For torch functions that want an axis: without one, of the flattened tensor."""

    def text(args: Sequence[str], attrs: Mapping[str, Any], types: Types, result: Type) -> str:
        if attrs.get("axis") is None:
            return f"{function}({args[0]}.reshape(-1), 0)"
        return f"{function}({args[0]}, {attrs['axis']})"

    return text


def _row(name: str, doc: str, text: Lowering, **more: Any) -> Op:
    return Op(name, (*inputs("x"), AXIS), doc, more.pop("shape"), text, fusion="reduce", **more)


ROWS = table(
    _row(
        "sum",
        "Sum over all entries, or along an axis; of bools, how many hold.",
        _over("torch.sum"),
        shape=_reduction("sum", _counts),
        curvature="linear",
        **rules.linear(rules.spread),
    ),
    _row(
        "mean",
        "Mean over all entries, or along an axis; of bools, the fraction that holds.",
        _over("torch.mean"),
        shape=_reduction("mean", _counts),
        curvature="linear",
        **rules.linear(rules.averaged),
    ),
    _row(
        "amax",
        "The largest entry.",
        _over("torch.amax"),
        shape=_reduction("max", _first),
        smooth="piecewise",
        kinks="two entries share the maximum",
        curvature="convex",
        internal=True,
        **rules.weighted(rules.winners),
    ),
    _row(
        "amin",
        "The smallest entry.",
        _over("torch.amin"),
        shape=_reduction("min", _first),
        smooth="piecewise",
        kinks="two entries share the minimum",
        curvature="concave",
        internal=True,
        **rules.weighted(rules.winners),
    ),
    Op(
        "prod",
        (*inputs("x"), AXIS),
        "Product of all entries, or along one axis.",
        _product,
        _flat_first("torch.prod"),
        fusion="reduce",
        **rules.weighted(rules.others),
    ),
    _row(
        "sumsq",
        "Sum of squares: the squared Euclidean norm.",
        lambda args, attrs, types, result: _over("torch.sum")(
            [f"torch.square({args[0]})"], attrs, types, result
        ),
        shape=_reduction("sumsq", _first),
        curvature="convex",
        **rules.weighted(rules.double),
    ),
    _row(
        "norm",
        "Euclidean norm; its gradient at zero is zero.",
        _over("torch.linalg.vector_norm"),
        shape=_reduction("norm", _first),
        smooth="piecewise",
        kinks="x = 0",
        curvature="convex",
        **rules.weighted(rules.direction),
    ),
    _row(
        "logsumexp",
        "log(sum(exp(x))), without overflow.",
        _over("torch.logsumexp", always=True),
        shape=_reduction("logsumexp", _first),
        curvature="convex",
        **rules.weighted(rules.share),
    ),
    _row(
        "argmax",
        "The position of the largest entry; a label along an axis.",
        _flat_first("torch.argmax"),
        shape=_argument("argmax"),
        smooth="flat",
    ),
    _row(
        "argmin",
        "The position of the smallest entry; a label along an axis.",
        _flat_first("torch.argmin"),
        shape=_argument("argmin"),
        smooth="flat",
    ),
    Op(
        "cumsum",
        (*inputs("x"), LAST),
        "Running sums along an axis, the last one by default.",
        _along("cumsum"),
        _over("torch.cumsum"),
        fusion="reduce",
        curvature="linear",
        **rules.linear(rules.running),
    ),
    Op(
        "softmax",
        (*inputs("x"), LAST),
        "exp(x) divided by its sum along an axis, the last one by default.",
        _along("softmax"),
        _over("torch.softmax"),
        fusion="reduce",
        reverse=rules.softmax_reverse,
        forward=rules.softmax_forward,
    ),
    Op(
        "log_softmax",
        (*inputs("x"), LAST),
        "x - logsumexp(x) along an axis, the last one by default.",
        _along("log_softmax"),
        _over("torch.log_softmax"),
        fusion="reduce",
        reverse=rules.log_softmax_reverse,
        forward=rules.log_softmax_forward,
    ),
    Op(
        "flip",
        (*inputs("x"), LAST),
        "The entries along an axis in the opposite order.",
        _along("flip"),
        lambda args, attrs, types, result: f"torch.flip({args[0]}, ({attrs['axis']},))",
        fusion="shape",
        curvature="linear",
        internal=True,
        **rules.linear(lambda node, g: g.call("flip", axis=node.attr("axis"))),
    ),
)
