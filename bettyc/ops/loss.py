"""Losses per sample, on logits: the reduction is the user's (`mean`, or a weighted sum)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bettyc.ops.row import Op, ShapeError, Types, inputs, table
from bettyc.ops.rules import form, numeric, poisoned, tensor
from bettyc.ops.slopes import by_slopes, total
from bettyc.ops.term import Term
from bettyc.types import Tensor, Type, number

TWO = number(2)


def _bce(types: Types, attrs: Mapping[str, Any]) -> Type:
    """Logits and targets of one shape; targets are int<2>, bool or probabilities."""
    bad = poisoned(types)
    if bad:
        return bad
    logits, targets = numeric("bce", types, 0), tensor("bce", types, 1)
    if targets.labels is not None and targets.labels != TWO:
        hint = "`bce` is for two classes, `xent` for more"
        raise ShapeError("MLO0405", [1, 0], hint, op="bce", labels=targets, classes=TWO)
    if targets.shape != logits.shape:
        raise ShapeError("MLO0401", [0, 1], op="bce", left=logits, right=targets)
    return Tensor("real", logits.shape)


def _xent(types: Types, attrs: Mapping[str, Any]) -> Type:
    """Logits real[..., C] with labels int<C>[...], or with probabilities real[..., C]."""
    bad = poisoned(types)
    if bad:
        return bad
    logits, targets = numeric("xent", types, 0), tensor("xent", types, 1)
    if not logits.shape:
        raise form("xent", 0, logits, "real[..., C]")
    if targets.kind == "bool":
        raise ShapeError("MLO0404", [1], op="xent", expected="int<C>", found=targets)
    classes = logits.shape[-1]
    if targets.labels is not None and targets.labels != classes:
        raise ShapeError("MLO0405", [1, 0], op="xent", labels=targets, classes=classes)
    wanted = logits.shape if targets.kind == "real" else logits.shape[:-1]
    if targets.shape != wanted:
        raise ShapeError("MLO0401", [0, 1], op="xent", left=logits, right=targets)
    return Tensor("real", logits.shape[:-1])


def _pick(types: Types, attrs: Mapping[str, Any]) -> Type:
    """x real[..., C] with labels int<C>[...]."""
    bad = poisoned(types)
    if bad:
        return bad
    source, labels = numeric("pick", types, 0), tensor("pick", types, 1)
    if labels.kind != "int":
        raise ShapeError("MLO0404", [1], op="pick", expected="int<C>", found=labels)
    if not source.shape or labels.shape != source.shape[:-1]:
        raise ShapeError("MLO0401", [0, 1], op="pick", left=source, right=labels)
    if labels.labels is not None and labels.labels != source.shape[-1]:
        raise ShapeError("MLO0405", [1, 0], op="pick", labels=labels, classes=source.shape[-1])
    return Tensor("real", labels.shape)


_F = "torch.nn.functional."


def _bce_text(args: Sequence[str], attrs: Mapping[str, Any], types: Types, result: Type) -> str:
    return f"{_F}binary_cross_entropy_with_logits({args[0]}, {args[1]}, reduction='none')"


def _xent_text(args: Sequence[str], attrs: Mapping[str, Any], types: Types, result: Type) -> str:
    logits, targets = types
    assert isinstance(logits, Tensor)
    assert isinstance(targets, Tensor)
    if targets.kind == "real":
        return f"-({args[1]} * torch.log_softmax({args[0]}, -1)).sum(-1)"
    if len(logits.shape) <= 2:
        return f"{_F}cross_entropy({args[0]}, {args[1]}, reduction='none')"
    return f"{_F}cross_entropy({args[0]}.movedim(-1, 1), {args[1]}, reduction='none')"


def _pick_text(args: Sequence[str], attrs: Mapping[str, Any], types: Types, result: Type) -> str:
    return f"torch.gather({args[0]}, -1, {args[1]}[..., None])[..., 0]"


def _targets(node: Term) -> Term:
    """Labels as probabilities."""
    logits, y = node.operands
    return y if y.tensor.kind == "real" else y.make("one_hot", Tensor("real", logits.shape))


def _xent_slope(node: Term) -> Term:
    """softmax(z) - targets, where the targets add up to 1 (by the mass of them else)."""
    logits, y = node.operands
    mass = y.sum(-1).new_axis(-1) if y.tensor.kind == "real" else 1.0
    return logits.call("softmax") * mass - _targets(node)


def _xent_reverse(node: Term, g: Term) -> Sequence[Term | None]:
    logits, y = node.operands
    wide = g.new_axis(-1)
    soft = y.tensor.kind == "real"
    return wide * _xent_slope(node), -(wide * logits.call("log_softmax")) if soft else None


def _xent_forward(node: Term, tangents: Sequence[Term | None]) -> Term | None:
    change, targets = tangents
    parts = []
    if change is not None:
        parts.append((_xent_slope(node) * change).sum(-1))
    if targets is not None:
        parts.append(-(node.operands[0].call("log_softmax") * targets).sum(-1))
    return total(parts)


def _pick_reverse(node: Term, g: Term) -> Sequence[Term | None]:
    return g.new_axis(-1) * _targets(node), None


def _pick_forward(node: Term, tangents: Sequence[Term | None]) -> Term | None:
    return None if tangents[0] is None else tangents[0].call("pick", node.operands[1])


ROWS = table(
    Op(
        "bce",
        inputs("logits", "y"),
        "Binary cross-entropy of logits and targets (int<2>, bool or probabilities), per sample.",
        _bce,
        _bce_text,
        **by_slopes(
            lambda n: n.operands[0].call("sigmoid") - n.operands[1], lambda n: -n.operands[0]
        ),
    ),
    Op(
        "xent",
        inputs("logits", "y"),
        "Cross-entropy of logits real[..., C] and labels int<C>[...] or probabilities, per sample.",
        _xent,
        _xent_text,
        fusion="reduce",
        promotes=(0,),
        reverse=_xent_reverse,
        forward=_xent_forward,
    ),
    Op(
        "pick",
        inputs("x", "y"),
        "The entry of the last axis that the label names: `pick(q(s), action)`.",
        _pick,
        _pick_text,
        blocked=(1,),
        curvature="linear",
        fusion="gather",
        promotes=(0,),
        reverse=_pick_reverse,
        forward=_pick_forward,
    ),
)
