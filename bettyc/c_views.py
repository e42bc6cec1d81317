"""Functions in C: operators that only say where the entries of a tensor are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bettyc.c_memory import Memory
from bettyc.c_values import (
    Indices,
    Inline,
    Stored,
    Unsupported,
    Value,
    number_text,
    packed,
    taken,
    within,
)
from bettyc.expr import Node
from bettyc.types import Dim


class Views(Memory):
    """The values of views, pieces and what is made of them."""

    def _permute(self, node: Node, shape: tuple[int, ...]) -> Value:
        axes = tuple(node.attr("axes"))
        value = self._read(node.args[0])
        if isinstance(value, Stored):
            return replace(value, shape=shape, strides=tuple(value.strides[a] for a in axes))
        back = [axes.index(k) for k in range(len(axes))]
        return replace(value, shape=shape, make=lambda i: value.at([i[k] for k in back]))

    def _reshape(self, node: Node, shape: tuple[int, ...]) -> Value:
        value = self._read(node.args[0])
        if [s for s in value.shape if s > 1] == [s for s in shape if s > 1]:
            kept = [k for k, s in enumerate(value.shape) if s > 1]
            there = [k for k, s in enumerate(shape) if s > 1]
            if isinstance(value, Stored):
                strides = [0] * len(shape)
                for k, t in zip(kept, there, strict=True):
                    strides[t] = value.strides[k]
                return replace(value, shape=shape, strides=tuple(strides))
            where = dict(zip(kept, there, strict=True))
            rank = len(value.shape)
            return replace(
                value,
                shape=shape,
                make=lambda i: value.at([i[where[k]] if k in where else "0" for k in range(rank)]),
            )
        stored = self._stored(node.args[0])
        if stored.strides != packed(stored.shape):
            whole = self._fresh(stored.shape)
            self._each(whole, stored)
            stored = whole
        return replace(stored, shape=shape, strides=packed(shape))

    def _expand(self, node: Node, shape: tuple[int, ...]) -> Value:
        value = self._read(node.args[0])
        if isinstance(value, Inline) and value.heavy:
            value = self._store(node.args[0])
        if isinstance(value, Stored):
            lead = len(shape) - len(value.shape)
            strides = [0] * lead + [
                0 if size == 1 else stride
                for size, stride in zip(value.shape, value.strides, strict=True)
            ]
            return replace(value, shape=shape, strides=tuple(strides))
        return replace(value, shape=shape, make=lambda i: value.at(within(value.shape, i)))

    def _narrow(self, node: Node, shape: tuple[int, ...]) -> Value:
        return self._piece(
            node, shape, node.attr("axis") % len(shape), self._bound(node.attr("start"))
        )

    def _piece(self, node: Node, shape: tuple[int, ...], axis: int, start: int) -> Value:
        value = self._read(node.args[0])
        if isinstance(value, Stored):
            return replace(value, shape=shape, offset=value.offset + start * value.strides[axis])
        return replace(
            value,
            shape=shape,
            make=lambda i: value.at(
                [f"({x} + {start})" if k == axis and start else x for k, x in enumerate(i)]
            ),
        )

    def _index(self, node: Node, shape: tuple[int, ...]) -> Value:
        value = self._read(node.args[0])
        spec = list(node.attr("spec"))
        spec += [("all",)] * (len(value.shape) - sum(item[0] != "new" for item in spec))
        # how each axis of the source is read from the indices of the result
        reads: list[Callable[[Indices], str]] = []
        offset, strides, plain, out, axis = 0, [], True, 0, 0
        for item in spec:
            if item[0] == "new":
                strides.append(0)
                out += 1
                continue
            size = value.shape[axis]
            stride = value.strides[axis] if isinstance(value, Stored) else 0
            if item[0] == "at":
                at = item[1] % size
                offset += at * stride
                reads.append(lambda _, at=at: str(at))  # type: ignore[misc]
            elif item[0] == "take":
                plain = False
                rows = self._read(node.args[item[1]])
                reads.append(taken(rows, out, size))
                out += len(rows.shape)
            else:
                start = 0
                if item[0] == "slice" and item[1] is not None:
                    start = self._bound(item[1])
                    start = max(start + size, 0) if start < 0 else min(start, size)
                offset += start * stride
                strides.append(stride)
                reads.append(
                    lambda i, k=out, s=start: f"({i[k]} + {s})" if s else i[k]  # type: ignore[misc]
                )
                out += 1
            axis += 1
        if isinstance(value, Stored) and plain:
            return replace(value, shape=shape, strides=tuple(strides), offset=value.offset + offset)
        work = value.work if isinstance(value, Inline) else 0
        heavy = isinstance(value, Inline) and value.heavy
        return Inline(shape, lambda i: value.at([r(i) for r in reads]), work + 1, heavy)

    def _bound(self, value: object) -> int:
        if isinstance(value, int):
            return value
        found = Dim(value).bind(self.sizes).value  # type: ignore[arg-type]
        if found is None:
            raise Unsupported("a dim without a size")
        return found

    def _pad(self, node: Node, shape: tuple[int, ...]) -> Value:
        axis, start = node.attr("axis") % len(shape), self._bound(node.attr("start"))
        value = self._read(node.args[0])
        length = value.shape[axis]
        if value.shape == shape:
            return value

        def make(i: Indices) -> str:
            inside = [f"({x} - {start})" if k == axis and start else x for k, x in enumerate(i)]
            if length == 1:
                inside[axis] = "0"
            at = i[axis]
            return f"({at} >= {start} && {at} < {start + length} ? {value.at(inside)} : 0)"

        return Inline(shape, make, 2 + (value.work if isinstance(value, Inline) else 0))

    def _size(self, node: Node, shape: tuple[int, ...]) -> Value:
        text = number_text(float(self._bound(node.attr("dim"))))
        return Inline(shape, lambda _: text)

    def _eye(self, node: Node, shape: tuple[int, ...]) -> Value:
        return Inline(shape, lambda i: f"((REAL)({i[0]} == {i[1]}))", 1)

    def _one_hot(self, node: Node, shape: tuple[int, ...]) -> Value:
        value = self._read(node.args[0])
        return Inline(shape, lambda i: f"((REAL)({value.at(i[:-1])} == {i[-1]}))", 1)

    def _pick(self, node: Node, shape: tuple[int, ...]) -> Value:
        value, labels = (self._read(a) for a in node.args)
        return Inline(shape, lambda i: value.at([*i, f"((long){labels.at(i)})"]), 2)

    def _concat(self, node: Node, shape: tuple[int, ...]) -> Value:
        axis, to, start = node.attr("axis") % len(shape), self._fresh(shape), 0
        for arg in node.args:
            value = self._read(arg)
            part = replace(to, shape=value.shape, offset=to.offset + start * to.strides[axis])
            self._each(part, value)
            start += value.shape[axis]
        return to

    def _scatter(self, node: Node, shape: tuple[int, ...]) -> Value:
        axis = node.attr("axis") % len(shape)
        value, rows = (self._read(a) for a in node.args)
        if axis != 0 or len(rows.shape) != 1:
            raise Unsupported("scatter along another axis")
        to = self._fresh(shape)
        self._each(to, Inline(shape, lambda _: "0"))
        # an entry may be met twice, so that these are no loops for vectors
        axes = [k for k, size in enumerate(value.shape) if size > 1]
        indices = [f"i{k}" if k in axes else "0" for k in range(len(value.shape))]
        self.lines += [f"for (long i{k} = 0; i{k} < {value.shape[k]}; i{k}++)" for k in axes]
        there = [f"wrapped((int64_t){rows.at(indices[:1])}, {shape[0]})", *indices[1:]]
        self.lines.append(f"    {to.at(there)} += {value.at(indices)};")
        return to
