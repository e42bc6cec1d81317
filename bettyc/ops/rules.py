"""Building blocks of shape rules: kinds, axes and the narrow broadcasting of the language.

Two shapes broadcast when one is a suffix of the other (a scalar is a suffix of everything), or when
they have equally many axes and every pair of dims is equal or one of them is the literal 1 (the
axis that `[:, new]` makes). `real[n] - real[n, 1]` is neither: NumPy would give n x n, silently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bettyc.ops.row import ShapeError, ShapeRule, Types
from bettyc.types import Dim, Module, Poison, Shape, Tensor, Type, add, number

ONE = number(1)


def tensor(op: str, types: Types, position: int) -> Tensor:
    """The operand as a tensor."""
    type_ = types[position]
    if isinstance(type_, Tensor):
        return type_
    code = "MLO0408" if isinstance(type_, Module) else "MLO0404"
    raise ShapeError(code, [position], op=op, expected="real", found=type_)


def numeric(op: str, types: Types, position: int) -> Tensor:
    """A real tensor, or an unlabelled int one, which is promoted."""
    found = tensor(op, types, position)
    if found.labels is not None:
        hint = "labels are names, not numbers: write `one_hot(y)` or `real(y)`"
        raise ShapeError("MLO0404", [position], hint, op=op, expected="real", found=found)
    if found.kind == "bool":
        hint = "write `real(x)` for 0 and 1"
        raise ShapeError("MLO0404", [position], hint, op=op, expected="real", found=found)
    return found


def of_kind(op: str, types: Types, position: int, kind: str) -> Tensor:
    """A tensor of exactly this kind."""
    found = tensor(op, types, position)
    if found.kind != kind:
        raise ShapeError("MLO0404", [position], op=op, expected=kind, found=found)
    return found


def form(op: str, position: int, found: Type, expected: str) -> ShapeError:
    """The operand has another form than the operator wants."""
    return ShapeError("MLO0418", [position], op=op, expected=expected, found=found)


def poisoned(types: Types) -> Poison | None:
    """An operand that already has a diagnostic: the result is silent too."""
    return next((t for t in types if isinstance(t, Poison)), None)


def broadcast(a: Shape, b: Shape) -> Shape | None:
    """The common shape, or None."""
    if len(a) == len(b):
        merged = []
        for x, y in zip(a, b, strict=True):
            if x != y and ONE not in (x, y):
                return None
            merged.append(y if x == ONE else x)
        return tuple(merged)
    longer, shorter = (a, b) if len(a) > len(b) else (b, a)
    return longer if longer[len(longer) - len(shorter) :] == shorter else None


def joined(op: str, left: Tensor, right: Tensor, code: str = "MLO0402") -> Shape:
    """The common shape of operands 0 and 1, or the error with what NumPy would have made of it."""
    shape = broadcast(left.shape, right.shape)
    if shape is None:
        fields: dict[str, Any] = {}
        wide = _numpy(left.shape, right.shape)
        if wide is not None:
            fields["result"] = Tensor("real", wide)
        raise ShapeError(
            code, [0, 1], _axis_hint(left, right), op=op, left=left, right=right, **fields
        )
    return shape


def _numpy(a: Shape, b: Shape) -> Shape | None:
    width = max(len(a), len(b))
    padded = [(ONE,) * (width - len(s)) + s for s in (a, b)]
    return broadcast(padded[0], padded[1])


def _axis_hint(left: Tensor, right: Tensor) -> str | None:
    """The edit for the case `real[n]` against `real[n, d]` or `real[n, 1]`."""
    short, long, name = (
        (left, right, "a") if len(left.shape) < len(right.shape) else (right, left, "b")
    )
    other = "b" if name == "a" else "a"
    if len(short.shape) != 1 or len(long.shape) != 2 or long.shape[0] != short.shape[0]:
        return None
    if long.shape[1] == ONE:
        return f"write `{name}[:, new]` or `{other}[:, 0]`"
    return f"write `{name}[:, new]`"


def canonical_axis(op: str, type_: Type, axis: int | Sequence[int]) -> int | tuple[int, ...]:
    """Axes counted from the front; MLO0417 when there is no such axis."""
    if isinstance(type_, Poison) or not isinstance(type_, Tensor):
        return axis if isinstance(axis, int) else tuple(axis)
    rank = len(type_.shape)

    def one(a: int) -> int:
        if not -rank <= a < rank:
            raise ShapeError("MLO0417", [0], op=op, axis=a, found=type_)
        return a % rank

    return one(axis) if isinstance(axis, int) else tuple(sorted({one(a) for a in axis}))


def without(shape: Shape, axis: int | Sequence[int] | None) -> Shape:
    """The shape after reducing over `axis` (None: all of them)."""
    axes = axes_of(shape, axis)
    return tuple(d for i, d in enumerate(shape) if i not in axes)


def one_axis(op: str, found: Tensor, axis: Any) -> int:
    """The axis of an operator that works along exactly one."""
    if not isinstance(axis, int):
        raise ShapeError(
            "MLO0417", [0], f"`{op}` works along one axis", op=op, axis=axis, found=found
        )
    return axis


def axes_of(shape: Shape, axis: int | Sequence[int] | None) -> tuple[int, ...]:
    """The axes that an `axis` attribute means."""
    if axis is None:
        return tuple(range(len(shape)))
    return (axis,) if isinstance(axis, int) else tuple(axis)


def dims_text(shape: Shape) -> str:
    """`(n, 2*d)` as Python writes a tuple."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def bound(value: Any) -> Dim:
    """An attribute that is an integer or the terms of a symbolic dim."""
    return number(value) if isinstance(value, int) else Dim(tuple((tuple(m), c) for m, c in value))


def pointwise_unary(op: str, kind: str | None = None) -> ShapeRule:
    """A real tensor of the operand's shape (or of another `kind`)."""

    def rule(types: Types, attrs: Mapping[str, Any]) -> Type:
        bad = poisoned(types)
        return bad or Tensor(kind or "real", numeric(op, types, 0).shape)

    return rule


def sliced(size: Dim, low: Any, high: Any) -> Dim:
    """The length of `low:high`; unlike Python, bounds past the end are an error."""
    start = number(0) if low is None else from_start(size, bound(low))
    stop = size if high is None else from_start(size, bound(high))
    for edge in (start, stop):
        if exceeds(edge, size):
            raise ShapeError("MLO0406", [0], op="[]", index=edge, size=size)
    length = add(stop, start, -1)
    if length.value is not None and length.value < 0:
        raise ShapeError(
            "MLO0406", [0], "the slice ends before it starts", op="[]", index=stop, size=size
        )
    return length


def from_start(size: Dim, edge: Dim) -> Dim:
    return add(size, edge) if edge.value is not None and edge.value < 0 else edge


def exceeds(value: Dim, size: Dim) -> bool:
    """Provably larger than `size`, or negative: dims with names are at least zero."""
    gap = add(value, size, -1).value
    return (gap is not None and gap > 0) or (value.value is not None and value.value < 0)
