"""Operators that steer gradients, and the opaque ones: networks from Python, replicas.

Opaque operators have no torch text of their own: who emits a function says how they are called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bettyc.ops import shape_rules as rules
from bettyc.ops.row import Op, ShapeError, Types, constant, inputs, table, unsized
from bettyc.ops.rules import numeric, poisoned
from bettyc.types import Tensor, Type

if TYPE_CHECKING:
    from bettyc.expr import Node

# Differentiated by autograd or not at all; never by formulas.
OPAQUE = frozenset({"apply", "params", "ema", "extern_fn", "replicas"})


def is_opaque(node: Node, operands: Types) -> bool:
    """Whether formulas cannot look into the node; `params` of variables is transparent."""
    if node.op == "params":
        return not all(isinstance(t, Tensor) for t in operands)
    return node.op in OPAQUE


def _same(types: Types, attrs: Mapping[str, Any]) -> Type:
    """Any value, networks included."""
    return types[0]


def _straight_through(types: Types, attrs: Mapping[str, Any]) -> Type:
    bad = poisoned(types)
    if bad:
        return bad
    hard = types[0]
    if isinstance(hard, Tensor) and hard.kind == "bool":
        hard = Tensor("real", hard.shape)
    left = numeric("straight_through", [hard, types[1]], 0)
    soft = numeric("straight_through", types, 1)
    if left.shape != soft.shape:
        raise ShapeError("MLO0401", [0, 1], op="straight_through", left=left, right=soft)
    return Tensor("real", soft.shape)


def _detach_text(args: Sequence[str], attrs: Mapping[str, Any], types: Types, result: Type) -> str:
    return f"{args[0]}.detach()"


def _through_text(args: Sequence[str], attrs: Mapping[str, Any], types: Types, result: Type) -> str:
    return f"{args[1]} + ({args[0]} - {args[1]}).detach()"


def _params_text(args: Sequence[str], attrs: Mapping[str, Any], types: Types, result: Type) -> str:
    """Of variables; for the parameters of a network from Python the emitter is told."""
    return f"torch.cat([{', '.join(f'{a}.reshape(-1)' for a in args)}])"


_OPAQUE: dict[str, Any] = {"fusion": "opaque", "promotes": ()}

ROWS = table(
    Op(
        "detach",
        inputs("x"),
        "x as a constant: no gradient flows through it.",
        _same,
        _detach_text,
        smooth="flat",
        blocked=(0,),
        fusion="shape",
        promotes=(),
    ),
    Op(
        "straight_through",
        inputs("hard", "soft"),
        "The value of hard with the gradient of soft.",
        _straight_through,
        _through_text,
        blocked=(0,),
        reverse=lambda node, g: (None, g),
        forward=lambda node, tangents: tangents[1],
    ),
    Op("mask", (), "0 with probability p, else 1 / (1 - p).", unsized, internal=True, **_OPAQUE),
    Op(
        "apply",
        inputs("net", "xs..."),
        "A network from Python, called with its parameters.",
        unsized,
        internal=True,
        **_OPAQUE,
    ),
    Op(
        "params",
        (*inputs("net..."), constant("except", None)),
        'All parameters of a network as one vector; `except` leaves names out: "fc.*".',
        unsized,
        curvature="linear",
        **_OPAQUE,
        torch=_params_text,
        reverse=rules.params_reverse,
        forward=rules.params_forward,
    ),
    Op(
        "ema",
        (*inputs("x"), constant("decay", None)),
        "The exponential moving average of x over the steps of its level; carries no gradient.",
        _same,
        smooth="flat",
        blocked=(0,),
        **_OPAQUE,
    ),
    Op(
        "extern_fn",
        inputs("xs..."),
        "A function from Python.",
        unsized,
        internal=True,
        **_OPAQUE,
    ),
    Op(
        "replicas",
        inputs("body"),
        "The body reduced over all replicas of a `foreach` level.",
        unsized,
        internal=True,
        **_OPAQUE,
    ),
)
