"""Functions in C: operators that fold axes of a tensor, and the softmax family."""

from __future__ import annotations

import math

from bettyc.c_memory import Memory
from bettyc.c_values import Inline, Stored, Unsupported, Value, real_text
from bettyc.expr import Node

CHUNK = 64  # rows that a sum takes before it adds them to the others: rounding stays small


class Folds(Memory):
    """The values of reductions."""

    def _axes(self, node: Node) -> tuple[int, ...]:
        rank, axis = len(self._shape(node.args[0])), node.attr("axis")
        if axis is None:
            return tuple(range(rank))
        return tuple(a % rank for a in (axis if isinstance(axis, tuple) else (axis,)))

    def _sum(self, node: Node, shape: tuple[int, ...]) -> Value:
        return self._folded(self._read(node.args[0]), self._axes(node), shape, "sum")

    def _mean(self, node: Node, shape: tuple[int, ...]) -> Value:
        value = self._read(node.args[0])
        count = math.prod(value.shape) // math.prod(shape)
        found = self._folded(value, self._axes(node), shape, "sum")
        return Inline(shape, lambda i: f"({found.at(i)} / {real_text(count)})", 1)

    def _sumsq(self, node: Node, shape: tuple[int, ...]) -> Value:
        value = self._read(node.args[0])
        squared = Inline(value.shape, lambda i: f"square({value.at(i)})", 1)
        return self._folded(squared, self._axes(node), shape, "sum")

    def _norm(self, node: Node, shape: tuple[int, ...]) -> Value:
        found = self._sumsq(node, shape)
        assert isinstance(found, Stored)
        return Inline(shape, lambda i: f"sqrt_({found.at(i)})", 1, True)

    def _amax(self, node: Node, shape: tuple[int, ...]) -> Value:
        return self._folded(self._read(node.args[0]), self._axes(node), shape, "larger")

    def _amin(self, node: Node, shape: tuple[int, ...]) -> Value:
        return self._folded(self._read(node.args[0]), self._axes(node), shape, "smaller")

    def _folded(
        self, value: Stored | Inline, axes: tuple[int, ...], shape: tuple[int, ...], fold: str
    ) -> Stored:
        """A reduction over axes; sums add CHUNK entries before these join the others."""
        to = self._fresh(shape)
        first = "0" if fold == "sum" else ("-INFINITY" if fold == "larger" else "INFINITY")
        rank = len(value.shape)
        kept = [k for k in range(rank) if k not in axes]
        names = [f"i{k}" if value.shape[k] > 1 else "0" for k in range(rank)]
        there = to.at([names[k] for k in kept][: len(shape)] if len(shape) == len(kept) else [])
        with_ = "{0} += {1};" if fold == "sum" else f"{{0}} = {fold}({{0}}, {{1}});"
        last = max((k for k in range(rank) if value.shape[k] > 1), default=None)
        self._each(to, Inline(shape, lambda _: first))

        def loop(k: int, low: str = "0", high: str = "") -> str:
            return f"for (long i{k} = {low}; i{k} < {high or value.shape[k]}; i{k}++) {{"

        if last is None:
            self.lines.append(with_.format(there, value.at(names)))
            return to
        outer = [k for k in range(rank) if value.shape[k] > 1 and k != last]
        if last in axes:
            self.lines += [loop(k) for k in outer]
            self.lines += ["{", f"REAL s = {first};"]
            if fold == "sum":  # a maximum that meets NaN depends on the order
                self.lines.append('_Pragma("omp simd reduction(+ : s)")')
            self.lines += [loop(last), with_.format("s", value.at(names)), "}"]
            self.lines += [with_.format(there, "s"), "}"]
            self.lines += ["}"] * len(outer)
            return to
        folded = [k for k in outer if k in axes]
        if fold == "sum" and len(outer) == 1 and folded and value.shape[folded[0]] > CHUNK:
            k, n, width = folded[0], value.shape[folded[0]], value.shape[last]
            part = self._fresh((width,))
            at = part.at([f"i{last}"])
            self.lines += [
                f"for (long b = 0; b < {n}; b += {CHUNK}) {{",
                loop(last), f"{at} = 0;", "}",
                loop(k, "b", f"(b + {CHUNK} < {n} ? b + {CHUNK} : {n})"),
                '_Pragma("omp simd")', loop(last), f"{at} += {value.at(names)};", "}", "}",
                loop(last), f"{there} += {at};", "}", "}",
            ]  # fmt: skip
            return to
        self.lines += [loop(k) for k in outer]
        self.lines += ['_Pragma("omp simd")', loop(last), with_.format(there, value.at(names)), "}"]
        self.lines += ["}"] * len(outer)
        return to

    # The softmax family: a call per row

    def _rows(self, index: int, axis: int) -> tuple[Stored, list[str], int, int]:
        """A stored operand, the indices of its rows, their length and the step along the axis."""
        value = self._stored(index)
        axis %= len(value.shape)
        indices = [f"i{k}" if s > 1 and k != axis else "0" for k, s in enumerate(value.shape)]
        return value, indices, value.shape[axis], value.strides[axis]

    def _each_row(self, shape: tuple[int, ...], axis: int | None, line: str) -> None:
        axes = [k for k, s in enumerate(shape) if s > 1 and k != axis]
        self.lines += [f"for (long i{k} = 0; i{k} < {shape[k]}; i{k}++)" for k in axes]
        self.lines.append(f"    {line}")

    def _softmax(self, node: Node, shape: tuple[int, ...]) -> Value:
        axis = node.attr("axis") % len(shape)
        value, at, count, step = self._rows(node.args[0], axis)
        to = self._fresh(shape)
        call = f"{node.op}(&{value.at(at)}, {step}, &{to.at(at)}, {to.strides[axis]}, {count});"
        self._each_row(shape, axis, call)
        return to

    _log_softmax = _softmax

    def _logsumexp(self, node: Node, shape: tuple[int, ...]) -> Value:
        axes = self._axes(node)
        if len(axes) != 1:
            raise Unsupported("logsumexp over several axes")
        value, at, count, step = self._rows(node.args[0], axes[0])
        to = self._fresh(shape)
        there = to.at([x for k, x in enumerate(at) if k != axes[0]])
        line = f"{there} = logsumexp(&{value.at(at)}, {step}, {count});"
        self._each_row(value.shape, axes[0], line)
        return to

    def _xent(self, node: Node, shape: tuple[int, ...]) -> Value:
        value, at, count, step = self._rows(node.args[0], -1)
        to = self._fresh(shape)
        axis = len(value.shape) - 1
        if self._kind(node.args[1]) == "real":
            targets = self._stored(node.args[1])
            call = (
                f"soft_xent(&{value.at(at)}, {step}, &{targets.at(at)}, {targets.strides[-1]},"
                f" {count})"
            )
        else:
            label = self._read(node.args[1]).at(at[:-1])
            call = f"xent(&{value.at(at)}, {step}, (long){label}, {count})"
        self._each_row(value.shape, axis, f"{to.at(at[:-1])} = {call};")
        return to
