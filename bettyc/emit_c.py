"""Graph -> C: one function for the CPU that computes what `bettyc.emit` writes in torch.

Where tensors are small, torch spends more time between operators than in them. Here everything but
matrix products is loops, those over the same entries being one; matrix products go to the BLAS that
torch calls itself, scaled, added up and transposed there. A function looks like

    void fit_gradient(void *const *p, REAL *w, GEMM *gemm)

p: the addresses of its operands and results, w: scratch memory. All sizes are numbers. What has no
text here raises Unsupported; torch's text then stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

from bettyc.emit import needed
from bettyc.expr import LEAVES, Graph, Node
from bettyc.types import Dim, Tensor, bind, number

LONGEST = 24  # operators in one loop
ALIGNED = 16  # elements
CHUNK = 64  # rows that a sum takes before it adds them to the others: rounding stays small
# No work is shared among threads outside BLAS, so that larger tensors are torch's.
LARGE = 1 << 18

Place: TypeAlias = tuple[
    str, int
]  # a tensor, as an expression of Python, and an offset in elements
Leaf: TypeAlias = Callable[[int, Node], Place]
Indices: TypeAlias = Sequence[str]


class Unsupported(ValueError):
    """An operator or a shape that has no text in C."""


class Text(NamedTuple):
    """A function in C. pointers: the tensors of `p`, as expressions of Python; kinds: real, int or
    bool, of each. scratch: elements of `w`. results: shapes of the outputs that have no place.
    """

    text: str
    pointers: tuple[str, ...]
    kinds: tuple[str, ...]
    scratch: int
    results: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Stored:
    """A tensor in memory."""

    pointer: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def at(self, indices: Indices) -> str:
        terms = [str(self.offset)] if self.offset else []
        for index, stride in zip(indices, self.strides, strict=True):
            if index != "0" and stride:
                terms.append(index if stride == 1 else f"{index} * {stride}")
        return f"{self.pointer}[{' + '.join(terms) or '0'}]"


@dataclass(frozen=True)
class Inline:
    """A tensor as an expression of its indices. work: operators in it. heavy: one of them costs
    more than reading its result back.
    """

    shape: tuple[int, ...]
    make: Callable[[Indices], str]
    work: int = 0
    heavy: bool = False

    def at(self, indices: Indices) -> str:
        return self.make(indices)


@dataclass(frozen=True)
class Products:
    """A sum of scaled matrix products and of something else, not computed yet."""

    shape: tuple[int, ...]
    products: tuple[tuple[float, Stored, Stored], ...]
    rest: Inline | None = None


Value: TypeAlias = Stored | Inline | Products

_CALLS = (
    "exp", "log", "log1p", "expm1", "sqrt", "sign", "sigmoid", "tanh", "relu", "softplus", "gelu",
    "silu", "sin", "cos", "erf", "floor", "round",
)  # fmt: skip
_LIGHT = frozenset({"relu", "sqrt", "sign", "floor", "round"})
_TEXTS = {
    "add": "({0} + {1})", "sub": "({0} - {1})", "mul": "({0} * {1})", "div": "({0} / {1})",
    "pow": "POWER({0}, {1})", "neg": "(-{0})", "eq": "({0} == {1})", "ne": "({0} != {1})",
    "lt": "({0} < {1})", "le": "({0} <= {1})", "gt": "({0} > {1})", "ge": "({0} >= {1})",
    "and": "({0} && {1})", "or": "({0} || {1})", "not": "(!{0})", "where": "({0} ? {1} : {2})",
    "maximum": "larger({0}, {1})", "minimum": "smaller({0}, {1})", "abs": "ABS({0})",
    "square": "square({0})", "real": "((REAL){0})", "int": "((int64_t){0})",
    "bce": "bce({0}, {1})", "leaky_relu": "leaky_relu({0}, {slope})", "elu": "elu({0}, {alpha})",
    **{name: f"{name}_({{0}})" for name in _CALLS},
}  # fmt: skip
_HEAVY = frozenset({*_CALLS, "pow", "div", "bce", "elu"}) - _LIGHT
_VIEWS = frozenset({"permute", "reshape", "expand", "narrow"})


def function(
    graph: Graph,
    outputs: Sequence[int],
    *,
    name: str,
    leaf: Leaf,
    sizes: Mapping[str, int],
    given: Mapping[int, Place],
    into: Sequence[Place | None],
) -> Text:
    """The text of a function that computes `outputs`. Raises Unsupported.

    leaf: where a leaf lies. given: where nodes lie that are computed already. into: where the
    outputs go; None for those that get memory of their own, as `result[k]`.
    """
    return _Writer(graph, leaf, sizes, given).write(name, outputs, into)


def elements(graph: Graph, index: int, sizes: Mapping[str, int]) -> int:
    """How many entries a node has. Raises Unsupported while a dim has no size."""
    return math.prod(shape_of(graph, index, {k: number(v) for k, v in sizes.items()}))


def shape_of(graph: Graph, index: int, sizes: Mapping[str, Dim]) -> tuple[int, ...]:
    """The shape of a node as numbers. Raises Unsupported while a dim has no size."""
    type_ = bind(graph[index].type, sizes)
    if not isinstance(type_, Tensor):
        raise Unsupported(f"{graph[index].op} is no tensor")
    shape = [d.value for d in type_.shape]
    if None in shape:
        raise Unsupported("a dim without a size")
    return tuple(s for s in shape if s is not None)


class _Writer:
    """One function being written."""

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
        self.scratch = 0

    def write(self, name: str, outputs: Sequence[int], into: Sequence[Place | None]) -> Text:
        order = needed(self.graph, outputs, self.given)
        self.uses = dict.fromkeys(order, 0)
        multiplied: set[int] = set()  # operands of products, which have to lie in memory
        for index in reversed(order):
            node = self.graph[index]
            for arg in node.args if index not in self.given else ():
                self.uses[arg] += 1
                if node.op == "matmul" or (node.op == "permute" and index in multiplied):
                    multiplied.add(arg)
        results: list[tuple[int, ...]] = []
        places: list[Stored] = []
        for index, place in zip(outputs, into, strict=True):
            shape = self._shape(index)
            if place is None:
                place = f"result[{len(results)}]", 0
                results.append(shape)
            places.append(self._located(place, shape, "real"))
            self.targets.setdefault(index, places[-1])
        for index in order:
            self.values[index] = value = self._value(index)
            size = math.prod(value.shape)
            if size == 0 or (size > LARGE and not isinstance(value, Stored)):
                raise Unsupported(f"a tensor of {size} elements")
            if isinstance(value, Products):
                if not self._waits(index):
                    self._stored(index)
            elif isinstance(value, Inline) and (
                (self.uses[index] > 1 and (value.work > 1 or index in multiplied))
                or value.work > LONGEST
            ):
                self._stored(index)
        for index, target in zip(outputs, places, strict=True):
            if self.targets[index] is target:
                value = self.values[index]
                if not isinstance(value, Stored):
                    self._store(index)
                    continue
            if self.values[index] != target:
                self._each(target, self._read(index))
        names = list(self.pointers)
        head = [f"{_TYPES[self.pointers[base]]}p{k} = p[{k}];" for k, base in enumerate(names)]
        body = "\n".join(f"    {line}" for line in [*head, "(void)w, (void)gemm;", *self.lines])
        text = f"void {name}(void *const *p, REAL *w, GEMM *gemm) {{\n{body}\n}}\n"
        return Text(text, tuple(names), tuple(self.pointers.values()), self.scratch, tuple(results))

    # Memory

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
        return Stored(f"p{number_}", offset, shape, _packed(shape))

    def _fresh(self, shape: tuple[int, ...]) -> Stored:
        start = self.scratch
        self.scratch += -(-math.prod(shape) // ALIGNED) * ALIGNED
        return Stored("w", start, shape, _packed(shape))

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

    def _waits(self, index: int) -> bool:
        """Whether a product is better computed with what becomes of it."""
        if index in self.targets or self.uses[index] != 1:
            return index in self.targets and self.uses[index] == 0
        return True

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
            to, left, right = _turned(to), _turned(right), _turned(left)
        if to.strides[1] != 1 and to.shape[1] > 1:
            raise Unsupported("a product into memory with gaps")
        (m, k), n = left.shape, right.shape[1]
        operands = []
        for matrix in (right, left):
            found = _ordered(matrix)
            if found is None:
                whole = self._fresh(matrix.shape)
                self._each(whole, matrix)
                matrix, found = whole, _ordered(whole)
            assert found is not None
            operands.append((*found, f"&{matrix.at(['0', '0'])}"))
        (turn_r, ld_r, at_r), (turn_l, ld_l, at_l) = operands
        ld = max(to.strides[0], n)
        self.lines.append(
            f"multiply(gemm, '{turn_r}', '{turn_l}', {n}, {m}, {k}, {_real(alpha)}, {at_r}, {ld_r},"
            f" {at_l}, {ld_l}, {_real(beta)}, &{to.at(['0', '0'])}, {ld});"
        )

    # Values

    def _value(self, index: int) -> Value:
        node, shape = self.graph[index], self._shape(index)
        if index in self.given:
            return self._located(self.given[index], shape, "real")
        if node.op == "const":
            text = _number(node.attr("value"))
            return Inline(shape, lambda _: text)
        if node.op in LEAVES:
            if node.op == "module":
                raise Unsupported("a network from Python")
            return self._located(self.leaf(index, node), shape, self._kind(index))
        if node.op == "detach":
            return self.values[node.args[0]]
        if node.op == "straight_through":
            return self.values[node.args[0]]
        if node.op in ("add", "sub", "mul", "neg", "permute", "div"):
            kept = self._combined(index, node, shape)
            if kept is not None:
                return kept
        if node.op in _TEXTS:
            return self._pointwise(node, shape)
        method = getattr(self, f"_{node.op}", None) if node.op in _METHODS else None
        if method is None:
            raise Unsupported(node.op)
        return method(node, shape)  # type: ignore[no-any-return]

    def _pointwise(self, node: Node, shape: tuple[int, ...]) -> Inline:
        heavy = node.op in _HEAVY
        operands = []
        for arg in node.args:
            value = self._read(arg)
            if isinstance(value, Inline) and value.heavy and value.shape != shape:
                value = self._store(arg)  # computed once, not for every entry of the result
            operands.append(value)
        template, attrs = _TEXTS[node.op], {k: _number(v) for k, v in node.attrs if _plain(v)}
        inline = [o for o in operands if isinstance(o, Inline)]

        def make(indices: Indices) -> str:
            texts = [o.at(_within(o.shape, indices)) for o in operands]
            return template.format(*texts, **attrs)

        work = 1 + sum(o.work for o in inline)
        return Inline(shape, make, work, heavy or any(o.heavy for o in inline))

    def _combined(self, index: int, node: Node, shape: tuple[int, ...]) -> Products | None:
        """Sums, multiples and transposes of products that are not computed yet."""
        values = [self.values[a] for a in node.args]
        waiting = [isinstance(v, Products) for v in values]
        if not any(waiting):
            return None
        first = values[0]
        if node.op == "permute":
            assert isinstance(first, Products)
            if tuple(node.attr("axes")) != (1, 0):
                return None
            turned = tuple((c, _turned(b), _turned(a)) for c, a, b in first.products)
            rest = first.rest
            if rest is not None:
                made = rest.make
                rest = replace(rest, shape=shape, make=lambda i: made([i[1], i[0]]))
            return Products(shape, turned, rest)
        if node.op == "neg":
            assert isinstance(first, Products)
            return _scaled(first, -1.0)
        if node.op in ("mul", "div"):
            other = self.graph[node.args[1]].attr("value")
            if waiting == [True, False] and _is_const(self.graph[node.args[1]]):
                assert isinstance(first, Products)
                return _scaled(first, float(other) if node.op == "mul" else 1 / float(other))
            if (
                waiting == [False, True]
                and node.op == "mul"
                and _is_const(self.graph[node.args[0]])
            ):
                second = values[1]
                assert isinstance(second, Products)
                return _scaled(second, float(self.graph[node.args[0]].attr("value")))
            return None
        sign = 1.0 if node.op == "add" else -1.0
        if all(waiting):
            left, right = values
            assert isinstance(left, Products)
            assert isinstance(right, Products)
            if left.shape != right.shape or node.args[0] == node.args[1]:
                return None
            right = _scaled(right, sign)
            rests = [r for r in (left.rest, right.rest) if r is not None]
            rest = rests[0] if rests else None
            if len(rests) == 2:
                a, b = rests
                rest = Inline(shape, lambda i: f"({a.at(i)} + {b.at(i)})", 1 + a.work + b.work)
            return Products(shape, left.products + right.products, rest)
        # With something else it pays where the sum is a result: elsewhere a loop follows anyway.
        if not (index in self.targets and self.uses[index] == 0):
            return None
        position = waiting.index(True)
        product, other_ = values[position], values[1 - position]
        assert isinstance(product, Products)
        if product.shape != shape or product.rest is not None or isinstance(other_, Products):
            return None
        product = _scaled(product, sign if position == 1 else 1.0)
        negative = sign < 0 and position == 0

        def make(indices: Indices) -> str:
            text = other_.at(_within(other_.shape, indices))
            return f"(-{text})" if negative else text

        return Products(shape, product.products, Inline(shape, make, 1))

    def _matmul(self, node: Node, shape: tuple[int, ...]) -> Value:
        left, right = (self._read(a) for a in node.args)
        ranks = len(left.shape), len(right.shape)
        if ranks not in ((2, 2), (1, 2), (2, 1), (1, 1)):
            raise Unsupported("products of many matrices")
        inner = left.shape[-1]
        if ranks == (2, 2) and inner == 1:
            a, b = left, right
            if any(isinstance(v, Inline) and v.heavy for v in (a, b)):
                a, b = (self._stored(i) for i in node.args)
            work = 1 + sum(v.work for v in (a, b) if isinstance(v, Inline))
            return Inline(shape, lambda i: f"({a.at([i[0], '0'])} * {b.at(['0', i[1]])})", work)
        if ranks == (1, 1):
            a, b = left, right
            return self._folded(
                Inline((inner,), lambda i: f"({a.at(i)} * {b.at(i)})", 1), (0,), shape, "sum"
            )
        stored = [self._stored(i) for i in node.args]
        a_m = stored[0] if ranks[0] == 2 else _as_matrix(stored[0], row=True)
        b_m = stored[1] if ranks[1] == 2 else _as_matrix(stored[1], row=False)
        if ranks == (2, 2):
            return Products(shape, ((1.0, a_m, b_m),))
        to = self._fresh(shape)
        self._multiply(_as_matrix(to, row=ranks[0] == 1), 1.0, a_m, b_m, 0.0)
        return to

    # Views

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
        if stored.strides != _packed(stored.shape):
            whole = self._fresh(stored.shape)
            self._each(whole, stored)
            stored = whole
        return replace(stored, shape=shape, strides=_packed(shape))

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
        return replace(value, shape=shape, make=lambda i: value.at(_within(value.shape, i)))

    def _narrow(self, node: Node, shape: tuple[int, ...]) -> Value:
        return self._piece(node, shape, node.attr("axis"), self._bound(node.attr("start")))

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
                reads.append(_taken(rows, out, size))
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
        axis, start = node.attr("axis"), self._bound(node.attr("start"))
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
        text = _number(float(self._bound(node.attr("dim"))))
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
        axis = node.attr("axis")
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

    # Folds

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
        return Inline(shape, lambda i: f"({found.at(i)} / {_real(count)})", 1)

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


_METHODS = frozenset({
    "matmul", "permute", "reshape", "expand", "narrow", "index", "pad", "size", "eye", "one_hot",
    "pick", "concat", "scatter", "sum", "mean", "sumsq", "norm", "amax", "amin", "softmax",
    "log_softmax", "logsumexp", "xent",
})  # fmt: skip
_TYPES = {
    "real": "REAL *const ",
    "int": "const int64_t *const ",
    "bool": "const unsigned char *const ",
}


def _packed(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a tensor whose rows lie one after the other."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.insert(0, step)
        step *= size
    return tuple(strides)


def _within(shape: Sequence[int], indices: Indices) -> list[str]:
    """The indices of an operand that is broadcast."""
    own = list(indices)[len(indices) - len(shape) :]
    return ["0" if size == 1 else index for size, index in zip(shape, own, strict=True)]


def _taken(rows: Stored | Inline, first: int, size: int) -> Callable[[Indices], str]:
    """Entries by number: the axes of `rows` begin at `first`."""
    last = first + len(rows.shape)
    return lambda i: f"wrapped((int64_t){rows.at(i[first:last])}, {size})"


def _turned(matrix: Stored) -> Stored:
    return replace(matrix, shape=matrix.shape[::-1], strides=matrix.strides[::-1])


def _as_matrix(vector: Stored, row: bool) -> Stored:
    (size,), (step,) = vector.shape, vector.strides
    if row:
        return replace(vector, shape=(1, size), strides=(size * step, step))
    return replace(vector, shape=(size, 1), strides=(step, 1))


def _ordered(matrix: Stored) -> tuple[str, int] | None:
    """How BLAS is told of a row-major matrix: N or T, and the leading dimension."""
    (rows, columns), (down, across) = matrix.shape, matrix.strides
    if across == 1 or columns == 1:
        lead = max(down, columns) if rows == 1 else down
        if lead >= columns and lead > 0:
            return "N", lead
    if down == 1 or rows == 1:
        lead = max(across, rows) if columns == 1 else across
        if lead >= rows and lead > 0:
            return "T", lead
    return None


def _scaled(value: Products, factor: float) -> Products:
    rest = value.rest
    if rest is not None and factor != 1:
        made = rest.make
        rest = replace(rest, make=lambda i: f"({_real(factor)} * {made(i)})", work=rest.work + 1)
    return Products(value.shape, tuple((factor * c, a, b) for c, a, b in value.products), rest)


def _is_const(node: Node) -> bool:
    return node.op == "const"


def _plain(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, int):
        return f"({value}L)" if value < 0 else f"{value}L"
    assert isinstance(value, float)
    return _real(value)


def _real(value: float) -> str:
    if math.isinf(value):
        return "INFINITY" if value > 0 else "(-INFINITY)"
    if math.isnan(value):
        return "NAN"
    return f"((REAL){float(value)!r})"


__all__ = ["ALIGNED", "Leaf", "Place", "Text", "Unsupported", "elements", "function"]
