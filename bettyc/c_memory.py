"""Memory and loops of a function in C that is being written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from bettyc.c_values import (
    Indices,
    Inline,
    Leaf,
    Place,
    Products,
    Stored,
    Unsupported,
    Value,
    ordered,
    packed,
    real_text,
    shape_of,
    turned,
)
from bettyc.expr import Graph
from bettyc.types import Dim, Tensor, number

ALIGNED = 16  # elements


class Memory:
    """Where the values of a function lie, and the lines that compute them."""

    def __init__(
        self, graph: Graph, leaf: Leaf, sizes: Mapping[str, int], given: Mapping[int, Place]
    ) -> None:
        self.graph, self.leaf, self.given = graph, leaf, given
        self.sizes: dict[str, Dim] = {k: number(v) for k, v in sizes.items()}
        self.pointers: dict[str, str] = {}  # what kind each is of
        self.values: dict[int, Value] = {}
        self.targets: dict[int, Stored] = {}
        self.uses: dict[int, int] = {}
        self.lines: list[str] = []
        self.blocks: dict[int, int] = {}  # sizes of scratch memory by number

    def _shape(self, index: int) -> tuple[int, ...]:
        return shape_of(self.graph, index, self.sizes)

    def _kind(self, index: int) -> str:
        type_ = self.graph[index].type
        return type_.kind if isinstance(type_, Tensor) else "real"

    def _located(self, place: Place, shape: tuple[int, ...], kind: str) -> Stored:
        base, offset = place
        self.pointers.setdefault(base, kind)
        if self.pointers[base] != kind:
            raise Unsupported(f"`{base}` is of two kinds")
        number_ = list(self.pointers).index(base)
        return Stored(f"p{number_}", offset, shape, packed(shape))

    def _fresh(self, shape: tuple[int, ...]) -> Stored:
        block = len(self.blocks)
        self.blocks[block] = -(-math.prod(shape) // ALIGNED) * ALIGNED
        return Stored(f"w{block}", 0, shape, packed(shape))

    def _store(self, index: int) -> Stored:
        """Compute a value into memory: the output's, where it is one."""
        value = self.values[index]
        assert not isinstance(value, Stored)
        to = self.targets.get(index) or self._fresh(value.shape)
        if isinstance(value, Inline):
            self._each(to, value)
        else:
            beta = 0.0
            if value.rest is not None:
                self._each(to, value.rest)
                beta = 1.0
            for alpha, left, right in value.products:
                self._multiply(to, alpha, left, right, beta)
                beta = 1.0
        self.values[index] = to
        return to

    def _stored(self, index: int) -> Stored:
        value = self.values[index]
        return value if isinstance(value, Stored) else self._store(index)

    def _read(self, index: int) -> Stored | Inline:
        value = self.values[index]
        return self._store(index) if isinstance(value, Products) else value

    # Lines

    def _loops(self, shape: Sequence[int], body: Callable[[Indices], Sequence[str]]) -> None:
        """Loops over all entries, the last axis innermost."""
        indices = [f"i{k}" if size > 1 else "0" for k, size in enumerate(shape)]
        axes = [k for k, size in enumerate(shape) if size > 1]
        depth = 0
        for k in axes:
            if k == axes[-1]:
                self.lines.append("    " * depth + '_Pragma("omp simd")')
            self.lines.append("    " * depth + f"for (long i{k} = 0; i{k} < {shape[k]}; i{k}++) {{")
            depth += 1
        self.lines += ["    " * depth + line for line in body(indices)]
        self.lines += ["    " * d + "}" for d in reversed(range(depth))]

    def _each(self, to: Stored, value: Stored | Inline) -> None:
        self._loops(to.shape, lambda i: [f"{to.at(i)} = {value.at(i)};"])

    def _multiply(self, to: Stored, alpha: float, left: Stored, right: Stored, beta: float) -> None:
        """to = alpha left @ right + beta to; all of them matrices."""
        if to.strides[1] != 1 and to.shape[1] > 1:
            to, left, right = turned(to), turned(right), turned(left)
        if to.strides[1] != 1 and to.shape[1] > 1:
            raise Unsupported("a product into memory with gaps")
        (m, k), n = left.shape, right.shape[1]
        operands = []
        for matrix in (right, left):
            found = ordered(matrix)
            if found is None:
                whole = self._fresh(matrix.shape)
                self._each(whole, matrix)
                matrix, found = whole, ordered(whole)
            assert found is not None
            operands.append((*found, f"&{matrix.at(['0', '0'])}"))
        (turn_r, ld_r, at_r), (turn_l, ld_l, at_l) = operands
        ld = max(to.strides[0], n)
        self.lines.append(
            f"multiply(gemm, '{turn_r}', '{turn_l}', {n}, {m}, {k}, {real_text(alpha)}, {at_r},"
            f" {ld_r}, {at_l}, {ld_l}, {real_text(beta)}, &{to.at(['0', '0'])}, {ld});"
        )
