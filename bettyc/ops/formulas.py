"""Functions that are formulas over other operators; none of them ever is a node."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bettyc.ops.row import Op, Parameter, ShapeError, constant, inputs, table, unsized
from bettyc.ops.rules import bound, form, numeric, of_kind, tensor
from bettyc.ops.term import Term
from bettyc.types import REAL, Dim, Tensor, number, product

if TYPE_CHECKING:
    from bettyc.expr import Graph

Axis = int | tuple[int, ...] | None


def _formula(
    name: str,
    parameters: tuple[Parameter, ...],
    doc: str,
    body: Callable[..., Term],
    **more: Any,
) -> Op:
    """`body` takes terms where the parameters are operands and returns a term."""

    def expand(graph: Graph, *operands: int, **attrs: Any) -> int:
        for parameter in parameters:
            if not parameter.operand and not parameter.required:
                attrs.setdefault(parameter.name, parameter.default)
        return body(*(Term(graph, i) for i in operands), **attrs).index

    return Op(name, parameters, doc, unsized, fusion="formula", expand=expand, **more)


def _kept(x: Term, reduced: Term, axis: Axis) -> Term:
    """A reduction over `axis`, ready to meet x again."""
    if axis is None:
        return reduced
    rank = len(x.shape)
    axes = {axis % rank} if isinstance(axis, int) else {a % rank for a in axis}
    return reduced.index_with(*(("new",) if i in axes else ("all",) for i in range(rank)))


def _var(x: Term, axis: Axis = None) -> Term:
    mean = x.call("mean", axis=axis)
    return (x - _kept(x, mean, axis)).call("square").call("mean", axis=axis)


def _std(x: Term, axis: Axis = None) -> Term:
    return _var(x, axis).call("sqrt")


def _extreme(two: str, one: str) -> Callable[..., Term]:
    def body(x: Term, y: Term | None = None, axis: Axis = None) -> Term:
        return x.call(one, axis=axis) if y is None else x.call(two, y)

    return body


def _clip(x: Term, lo: Term, hi: Term) -> Term:
    return x.call("maximum", lo).call("minimum", hi)


def _real(x: Term) -> Term:
    return x if x.tensor.kind == "real" else x.call("real")


def _dot(x: Term, y: Term) -> Term:
    for position, operand in enumerate((x, y)):
        if len(operand.shape) != 1:
            raise form("dot", position, operand.tensor, "a vector")
    return x @ y


def _outer(x: Term, y: Term) -> Term:
    for position, operand in enumerate((x, y)):
        if len(operand.shape) != 1:
            raise form("outer", position, operand.tensor, "a vector")
    return x.new_axis(1) * y.new_axis(0)


def _transpose(x: Term) -> Term:
    found = tensor("transpose", [x.node.type], 0)
    if len(found.shape) < 2:
        raise form("transpose", 0, found, "at least two axes")
    return x.mT()


def _trace(x: Term) -> Term:
    found = numeric("trace", [x.node.type], 0)
    if len(found.shape) != 2:
        raise form("trace", 0, found, "a square matrix")
    return x.call("diag").sum()


def _flatten(x: Term) -> Term:
    """All axes after the first become one: what a network's head wants."""
    shape = tensor("flatten", [x.node.type], 0).shape
    if len(shape) <= 1:
        return x if shape else x.reshape_to((number(1),))
    return x.reshape_to((shape[0], product(shape[1:])))


def _reshape(x: Term, shape: tuple[Any, ...] = ()) -> Term:
    target = _dims(shape)
    found = tensor("reshape", [x.node.type], 0)
    if product(target) != product(found.shape):
        wanted = Tensor(found.kind, target)
        raise ShapeError("MLO0401", [0], op="reshape", left=found, right=wanted)
    return x.reshape_to(target)


def _dims(shape: tuple[Any, ...]) -> tuple[Dim, ...]:
    return tuple(d if isinstance(d, Dim) else bound(d) for d in shape)


def _fill(value: Term, shape: tuple[Any, ...] = ()) -> Term:
    found = numeric("fill", [value.node.type], 0)
    if found.shape:
        raise form("fill", 0, found, "a scalar")
    return _real(value).expand_to(_dims(shape))


def _constant_fill(value: float) -> Callable[..., int]:
    def expand(graph: Graph, shape: tuple[Any, ...] = ()) -> int:
        scalar = Term(graph, graph.leaf("const", REAL, value=value))
        return scalar.expand_to(_dims(shape)).index

    return expand


def _eye(graph: Graph, size: Any) -> int:
    return graph.make("eye", (), Tensor("real", _dims((size, size))))


def _mae(x: Term, y: Term) -> Term:
    return (x - y).call("abs").call("mean")


def _huber(x: Term, y: Term, delta: float = 1.0) -> Term:
    gap = (x - y).call("abs")
    inside = gap.call("minimum", delta)  # one branch, so that no `where` hides its convexity
    return inside.call("square") * 0.5 + delta * (gap - inside)


def _hinge(score: Term, y: Term) -> Term:
    """Targets are int<2> or bool, or reals that are -1 and 1."""
    sign = y if y.tensor.kind == "real" else _real(y) * 2.0 - 1.0
    return (1.0 - sign * score).call("relu")


def _kl(p: Term, q: Term) -> Term:
    return (p * (p.call("log") - q.call("log"))).sum(-1)


def _entropy(p: Term) -> Term:
    return -(p * p.call("log")).sum(-1)


def _accuracy(logits: Term, y: Term) -> Term:
    scores = logits.tensor
    of_kind("accuracy", [scores, y.node.type], 1, "bool" if y.tensor.kind == "bool" else "int")
    if scores.kind == "real" and scores.shape == y.shape:
        answers = logits.call("gt", 0.0)
    elif scores.kind == "real":
        if not scores.shape or scores.shape[:-1] != y.shape:
            raise ShapeError("MLO0401", [0, 1], op="accuracy", left=scores, right=y.tensor)
        if y.tensor.labels is not None and y.tensor.labels != scores.shape[-1]:
            fields: dict[str, Any] = {"labels": y.tensor, "classes": scores.shape[-1]}
            raise ShapeError("MLO0405", [1, 0], op="accuracy", **fields)
        answers = logits.call("argmax", axis=-1)
    else:
        answers = logits
    return answers.call("eq", y).call("mean")


def _normal_log_prob(x: Term, mean: Term, std: Term) -> Term:
    z = (x - mean) / std
    return z.call("square") * -0.5 - std.call("log") - 0.5 * math.log(2 * math.pi)


def _categorical_log_prob(logits: Term, y: Term) -> Term:
    return -logits.call("xent", y)


def _sqdist(x: Term, y: Term) -> Term:
    for position, operand in enumerate((x, y)):
        if len(operand.shape) != 2:
            raise form("sqdist", position, operand.tensor, "a matrix with a point in each row")
    if x.shape[1] != y.shape[1]:
        dims: dict[str, Any] = {"dim_left": x.shape[1], "dim_right": y.shape[1]}
        raise ShapeError("MLO0401", [0, 1], op="sqdist", left=x.tensor, right=y.tensor, **dims)
    return (x.new_axis(1) - y.new_axis(0)).call("sumsq", axis=2)


def _cosine(x: Term, y: Term) -> Term:
    return (x * y).sum(-1) / (x.call("norm", axis=-1) * y.call("norm", axis=-1))


def _dropout(x: Term, p: float = 0.5, site: int | None = None) -> Term:
    mask = x.graph.make("mask", (), Tensor("real", x.shape), p=p, site=site)
    return x * Term(x.graph, mask)


_AXIS = constant("axis", None)
_SHAPE = Parameter("shape", operand=False, variadic=True)
_XY = (Parameter("x"), Parameter("y", required=False), _AXIS)

ROWS = table(
    _formula(
        "var", (*inputs("x"), _AXIS), "Mean squared distance from the mean (divides by n).", _var
    ),
    _formula(
        "std", (*inputs("x"), _AXIS), "Square root of `var`.", _std, kinks="all entries are equal"
    ),
    _formula(
        "max",
        _XY,
        "The larger of two tensors, or the largest entry of one.",
        _extreme("maximum", "amax"),
        smooth="piecewise",
    ),
    _formula(
        "min",
        _XY,
        "The smaller of two tensors, or the smallest entry of one.",
        _extreme("minimum", "amin"),
        smooth="piecewise",
    ),
    _formula(
        "clip",
        inputs("x", "lo", "hi"),
        "x, but at least lo and at most hi.",
        _clip,
        smooth="piecewise",
    ),
    _formula("real", inputs("x"), "Integers, labels and bools as reals.", _real, smooth="flat"),
    _formula("dot", inputs("x", "y"), "Inner product of two vectors.", _dot),
    _formula("outer", inputs("x", "y"), "All products of an entry of x and one of y.", _outer),
    _formula("transpose", inputs("x"), "The last two axes swapped.", _transpose),
    _formula("trace", inputs("x"), "Sum of the diagonal.", _trace),
    _formula("flatten", inputs("x"), "All axes after the first as one.", _flatten),
    _formula(
        "reshape",
        (*inputs("x"), _SHAPE),
        "The same entries in another shape: `reshape(x, n, 28, 28)`.",
        _reshape,
    ),
    _formula(
        "fill",
        (*inputs("value"), _SHAPE),
        "A tensor with one value everywhere: `fill(0.1, n, d)`.",
        _fill,
    ),
    Op(
        "zeros", (_SHAPE,), "A tensor of zeros: `zeros(n, d)`.", unsized, expand=_constant_fill(0.0)
    ),
    Op("ones", (_SHAPE,), "A tensor of ones: `ones(n, d)`.", unsized, expand=_constant_fill(1.0)),
    Op(
        "eye",
        (Parameter("size", operand=False),),
        "The identity matrix: `eye(d)`.",
        unsized,
        expand=_eye,
    ),
    _formula("mae", inputs("x", "y"), "Mean absolute error, one number.", _mae, smooth="piecewise"),
    _formula(
        "huber",
        (*inputs("x", "y"), constant("delta", 1.0)),
        "Half the squared error up to delta, linear beyond, per sample.",
        _huber,
        smooth="piecewise",
    ),
    _formula(
        "hinge",
        inputs("score", "y"),
        "max(0, 1 - y * score) per sample; y is int<2>, bool, or -1 and 1.",
        _hinge,
        smooth="piecewise",
    ),
    _formula(
        "kl",
        inputs("p", "q"),
        "Kullback-Leibler divergence of probabilities along the last axis.",
        _kl,
    ),
    _formula("entropy", inputs("p"), "Entropy of probabilities along the last axis.", _entropy),
    _formula(
        "accuracy",
        inputs("logits", "y"),
        "Fraction of samples whose largest logit (or sign, for int<2>) is the label.",
        _accuracy,
        smooth="flat",
    ),
    _formula(
        "normal_log_prob",
        inputs("x", "mean", "std"),
        "Logarithm of the normal density, entry by entry.",
        _normal_log_prob,
    ),
    _formula(
        "categorical_log_prob",
        inputs("logits", "y"),
        "Logarithm of the probability that softmax(logits) gives the label.",
        _categorical_log_prob,
    ),
    _formula(
        "sqdist",
        inputs("x", "y"),
        "Squared distances between the rows of x and the rows of y.",
        _sqdist,
    ),
    _formula(
        "cosine",
        inputs("x", "y"),
        "Cosine of the angle between x and y along the last axis.",
        _cosine,
    ),
    _formula(
        "dropout",
        (*inputs("x"), constant("p", 0.5)),
        "Entries set to zero with probability p, the others scaled by 1 / (1 - p); off in metrics.",
        _dropout,
    ),
)
