"""Indexing, joining and reshaping, and casts between kinds.

The `spec` of an `index` node is a tuple of items, one per written index; axes that are left out
are taken whole:

    ("all",)            `:`
    ("new",)            `new`: an axis of size 1
    ("at", i)           an integer; negative counts from the end; the axis goes away
    ("slice", lo, hi)   `lo:hi`; None is the end of the axis; an int, or the terms of a symbolic dim
    ("take", k)         operand k, an int tensor, whose axes replace the axis; at most one
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bettyc.ops import shape_rules as rules
from bettyc.ops.row import (
    Lowering,
    Op,
    ShapeError,
    ShapeRule,
    Types,
    constant,
    inputs,
    table,
    unsized,
)
from bettyc.ops.rules import ONE, bound, dims_text, exceeds, form, of_kind, poisoned, sliced, tensor
from bettyc.types import Dim, Shape, Tensor, Type, add, number


def _index(types: Types, attrs: Mapping[str, Any]) -> Type:
    bad = poisoned(types)
    if bad:
        return bad
    source = tensor("[]", types, 0)
    spec = attrs["spec"]
    used = sum(item[0] != "new" for item in spec)
    if used > len(source.shape):
        raise ShapeError("MLO0407", [0], op="[]", found=source, indices=used)
    shape: list[Dim] = []
    axis = 0
    for item in spec:
        if item[0] == "new":
            shape.append(ONE)
            continue
        shape.extend(_indexed(source.shape[axis], item, types))
        axis += 1
    return Tensor(source.kind, (*shape, *source.shape[axis:]), source.labels)


def _indexed(size: Dim, item: tuple[Any, ...], types: Types) -> Shape:
    """The axes that take the place of one axis."""
    if item[0] == "all":
        return (size,)
    if item[0] == "at":
        if size.value is not None and not -size.value <= item[1] < size.value:
            raise ShapeError("MLO0406", [0], op="[]", index=item[1], size=size)
        return ()
    if item[0] == "slice":
        return (sliced(size, item[1], item[2]),)
    indices = of_kind("[]", types, item[1], "int")
    if indices.labels is not None and exceeds(indices.labels, size):
        raise ShapeError("MLO0406", [0, item[1]], op="[]", index=indices.labels, size=size)
    return indices.shape


def _concat(types: Types, attrs: Mapping[str, Any]) -> Type:
    bad = poisoned(types)
    if bad:
        return bad
    axis = attrs["axis"]
    first = _joinable("concat", types, axis)
    total = number(0)
    for type_ in types:
        assert isinstance(type_, Tensor)
        total = add(total, type_.shape[axis])
    return Tensor(first.kind, (*first.shape[:axis], total, *first.shape[axis + 1 :]), first.labels)


def _stack(types: Types, attrs: Mapping[str, Any]) -> Type:
    bad = poisoned(types)
    if bad:
        return bad
    first = _joinable("stack", types, None)
    axis = attrs["axis"]
    rank = len(first.shape) + 1
    if not -rank <= axis < rank:
        raise ShapeError("MLO0417", [0], op="stack", axis=axis, found=first)
    shape = list(first.shape)
    shape.insert(axis % rank, number(len(types)))
    return Tensor(first.kind, tuple(shape), first.labels)


def _joinable(op: str, types: Types, axis: int | None) -> Tensor:
    """Operands of one kind that agree in every axis but `axis`."""
    first = tensor(op, types, 0)
    if axis is not None and not first.shape:
        raise form(op, 0, first, "at least one axis")
    for position in range(1, len(types)):
        other = tensor(op, types, position)
        if (other.kind, other.labels) != (first.kind, first.labels):
            raise ShapeError("MLO0404", [0, position], op=op, expected=first, found=other)
        pairs = list(zip(first.shape, other.shape, strict=False))
        differ = [i for i, (a, b) in enumerate(pairs) if a != b and i != axis]
        if differ or len(other.shape) != len(first.shape):
            dims: dict[str, Any] = {}
            if differ:
                dims["dim_left"], dims["dim_right"] = pairs[differ[0]]
            raise ShapeError("MLO0401", [0, position], op=op, left=first, right=other, **dims)
    return first


def _permute(types: Types, attrs: Mapping[str, Any]) -> Type:
    bad = poisoned(types)
    if bad:
        return bad
    found, axes = tensor("permute", types, 0), attrs["axes"]
    if sorted(axes) != list(range(len(found.shape))):
        raise form("permute", 0, found, f"{len(axes)} axes, each named once")
    return Tensor(found.kind, tuple(found.shape[a] for a in axes), found.labels)


def _one_hot(types: Types, attrs: Mapping[str, Any]) -> Type:
    bad = poisoned(types)
    if bad:
        return bad
    found = of_kind("one_hot", types, 0, "int")
    classes = found.labels if attrs.get("classes") is None else bound(attrs["classes"])
    if classes is None:
        hint = "say how many classes there are: `one_hot(y, classes = C)`, or declare `int<C>`"
        raise ShapeError("MLO0404", [0], hint, op="one_hot", expected="int<C>", found=found)
    if found.labels is not None and found.labels != classes:
        raise ShapeError("MLO0405", [0], op="one_hot", labels=found, classes=classes)
    return Tensor("real", (*found.shape, classes))


def _cast(op: str, kind: str) -> ShapeRule:
    def rule(types: Types, attrs: Mapping[str, Any]) -> Type:
        bad = poisoned(types)
        return bad or Tensor(kind, tensor(op, types, 0).shape)

    return rule


def index_text(spec: Sequence[tuple[Any, ...]], args: Sequence[str]) -> str:
    """`:, None, 2:n, indices` as torch writes it."""
    parts = []
    for item in spec:
        if item[0] == "slice":
            low, high = ("" if b is None else str(bound(b)) for b in item[1:])
            parts.append(f"{low}:{high}")
        else:
            words = {"all": ":", "new": "None"}
            parts.append(words.get(item[0]) or (str(item[1]) if item[0] == "at" else args[item[1]]))
    return ", ".join(parts)


def _index_text(args: Sequence[str], attrs: Mapping[str, Any], types: Types, result: Type) -> str:
    return f"{args[0]}[{index_text(attrs['spec'], args)}]"


def _shape_of(type_: Type) -> Shape:
    return type_.shape if isinstance(type_, Tensor) else ()


def _joined_text(function: str) -> Lowering:
    def text(args: Sequence[str], attrs: Mapping[str, Any], types: Types, result: Type) -> str:
        return f"{function}([{', '.join(args)}], {attrs['axis']})"

    return text


def _expand_text(args: Sequence[str], attrs: Mapping[str, Any], types: Types, result: Type) -> str:
    return f"torch.broadcast_to({args[0]}, {dims_text(_shape_of(result))})"


def _reshape_text(args: Sequence[str], attrs: Mapping[str, Any], types: Types, result: Type) -> str:
    return f"{args[0]}.reshape({dims_text(_shape_of(result))})"


def _permute_text(args: Sequence[str], attrs: Mapping[str, Any], types: Types, result: Type) -> str:
    axes = attrs["axes"]
    rank = len(axes)
    if tuple(axes) == (*range(rank - 2), rank - 1, rank - 2):
        return f"{args[0]}.mT"
    return f"{args[0]}.permute({tuple(axes)})"


def _one_hot_text(args: Sequence[str], attrs: Mapping[str, Any], types: Types, result: Type) -> str:
    return f"torch.nn.functional.one_hot({args[0]}, {_shape_of(result)[-1]}).to(dtype)"


def _real_text(args: Sequence[str], attrs: Mapping[str, Any], types: Types, result: Type) -> str:
    return f"{args[0]}.to(dtype)"


def _int_text(args: Sequence[str], attrs: Mapping[str, Any], types: Types, result: Type) -> str:
    return f"{args[0]}.to(torch.int64)"


def _eye_text(args: Sequence[str], attrs: Mapping[str, Any], types: Types, result: Type) -> str:
    return f"torch.eye({_shape_of(result)[0]}, dtype=dtype, device=device)"


def _size_text(args: Sequence[str], attrs: Mapping[str, Any], types: Types, result: Type) -> str:
    text = str(bound(attrs["dim"]))
    return text if text.isalnum() or text.isidentifier() else f"({text})"


def _scatter_text(args: Sequence[str], attrs: Mapping[str, Any], types: Types, result: Type) -> str:
    zeros = f"{args[0]}.new_zeros({dims_text(_shape_of(result))})"
    return f"{zeros}.index_add({attrs['axis']}, {args[1]}, {args[0]})"


def _narrow_text(args: Sequence[str], attrs: Mapping[str, Any], types: Types, result: Type) -> str:
    axis = attrs["axis"]
    length = _shape_of(result)[axis]
    return f"torch.narrow({args[0]}, {axis}, {bound(attrs['start'])}, {length})"


def _pad_text(args: Sequence[str], attrs: Mapping[str, Any], types: Types, result: Type) -> str:
    axis, start = attrs["axis"], bound(attrs["start"])
    size, length = _shape_of(result)[axis], _shape_of(types[0])[axis]
    after = add(add(size, length, -1), start, -1)
    zeros = "0, 0, " * (len(_shape_of(result)) - 1 - axis)
    return f"torch.nn.functional.pad({args[0]}, ({zeros}{start}, {after}))"


_SHAPED: dict[str, Any] = {"curvature": "linear", "fusion": "shape"}

ROWS = table(
    Op(
        "index",
        inputs("x", "indices..."),
        "Entries, slices, rows by number, or a new axis: `x[i, 2:5, rows, new]`.",
        _index,
        _index_text,
        blocked=(1, 2, 3, 4, 5, 6, 7, 8),
        curvature="linear",
        fusion="gather",
        promotes=(),
        internal=True,
        reverse=rules.index_reverse,
        forward=rules.index_forward,
    ),
    Op(
        "concat",
        (*inputs("xs..."), constant("axis", 0)),
        "Tensors one after the other along an axis, the first one by default.",
        _concat,
        _joined_text("torch.cat"),
        **_SHAPED,
        reverse=rules.concat_reverse,
        forward=rules.joined_forward,
    ),
    Op(
        "stack",
        (*inputs("xs..."), constant("axis", 0)),
        "Tensors of one shape along a new axis, by default the first.",
        _stack,
        _joined_text("torch.stack"),
        **_SHAPED,
        reverse=rules.stack_reverse,
        forward=rules.joined_forward,
    ),
    Op(
        "permute",
        (*inputs("x"), constant("axes", None)),
        "The axes in another order: `permute(x, axes = [0, 2, 1])`.",
        _permute,
        _permute_text,
        **_SHAPED,
        reverse=rules.permute_reverse,
        forward=lambda node, tangents: (
            tangents[0] and tangents[0].call("permute", axes=node.attr("axes"))
        ),
    ),
    Op(
        "reshape",
        inputs("x"),
        "The same entries in another shape.",
        unsized,
        _reshape_text,
        internal=True,
        **_SHAPED,
        reverse=rules.reshape_reverse,
        forward=rules.typed_forward,
    ),
    Op(
        "expand",
        inputs("x"),
        "Broadcast to a shape.",
        unsized,
        _expand_text,
        internal=True,
        **_SHAPED,
        reverse=rules.expand_reverse,
        forward=rules.typed_forward,
    ),
    Op("eye", (), "The identity matrix.", unsized, _eye_text, fusion="shape", internal=True),
    Op("size", (), "A dim as a real scalar.", unsized, _size_text, fusion="shape", internal=True),
    Op(
        "one_hot",
        (*inputs("y"), constant("classes", None)),
        "1 at the label and 0 elsewhere, along a new last axis.",
        _one_hot,
        _one_hot_text,
        smooth="flat",
        blocked=(0,),
        promotes=(),
    ),
    Op(
        "real",
        inputs("x"),
        "Integers, labels and bools as reals.",
        _cast("real", "real"),
        _real_text,
        curvature="linear",
        promotes=(),
        reverse=lambda node, g: (g,),  # of a real; nothing flows into integers
        forward=lambda node, tangents: tangents[0],
    ),
    Op(
        "int",
        inputs("x"),
        "The integer part; of bools 0 and 1; of labels their number.",
        _cast("int", "int"),
        _int_text,
        smooth="flat",
        blocked=(0,),
    ),
    Op(
        "scatter",
        (*inputs("x", "rows"), constant("axis", 0)),
        "The transpose of taking rows by number: x added to zeros at those rows.",
        unsized,
        _scatter_text,
        blocked=(1,),
        fusion="gather",
        curvature="linear",
        promotes=(),
        internal=True,
        reverse=rules.scatter_reverse,
        forward=rules.scatter_forward,
    ),
    Op(
        "narrow",
        (*inputs("x"), constant("axis", 0), constant("start", None)),
        "A piece along an axis; its length is the result's.",
        unsized,
        _narrow_text,
        internal=True,
        reverse=rules.narrow_reverse,
        forward=rules.typed_forward,
        **_SHAPED,
    ),
    Op(
        "pad",
        (*inputs("x"), constant("axis", 0), constant("start", None)),
        "The transpose of `narrow`: x between zeros.",
        unsized,
        _pad_text,
        internal=True,
        reverse=rules.pad_reverse,
        forward=rules.typed_forward,
        **_SHAPED,
    ),
)
