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
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from bettyc.c_arena import arena
from bettyc.c_folds import Folds
from bettyc.c_memory import ALIGNED
from bettyc.c_values import (
    Indices,
    Inline,
    Leaf,
    Place,
    Products,
    Stored,
    Unsupported,
    Value,
    as_matrix,
    elements,
    is_const,
    is_number,
    number_text,
    scaled,
    turned,
    within,
)
from bettyc.c_views import Views
from bettyc.emit import needed
from bettyc.expr import LEAVES, Graph, Node

LONGEST = 24  # operators in one loop
# No work is shared among threads outside BLAS, so that larger tensors are torch's.
LARGE = 1 << 18


class Text(NamedTuple):
    """A function in C. pointers: the tensors of `p`, as expressions of Python; kinds: real, int or
    bool, of each. scratch: elements of `w`. results: shapes of the outputs that have no place.
    """

    text: str
    pointers: tuple[str, ...]
    kinds: tuple[str, ...]
    scratch: int
    results: tuple[tuple[int, ...], ...]


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


class _Writer(Views, Folds):
    """One function being written."""

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
        scratch = arena(self.lines, self.blocks)
        head += [f"REAL *const w{b} = w + {at};" for b, at in sorted(scratch.offsets.items())]
        body = "\n".join(f"    {line}" for line in [*head, "(void)w, (void)gemm;", *self.lines])
        text = f"void {name}(void *const *p, REAL *w, GEMM *gemm) {{\n{body}\n}}\n"
        return Text(text, tuple(names), tuple(self.pointers.values()), scratch.size, tuple(results))

    # Memory

    def _waits(self, index: int) -> bool:
        """Whether a product is better computed with what becomes of it."""
        if index in self.targets or self.uses[index] != 1:
            return index in self.targets and self.uses[index] == 0
        return True

    def _value(self, index: int) -> Value:
        node, shape = self.graph[index], self._shape(index)
        if index in self.given:
            return self._located(self.given[index], shape, "real")
        if node.op == "const":
            text = number_text(node.attr("value"))
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
        template = _TEXTS[node.op]
        attrs = {k: number_text(v) for k, v in node.attrs if is_number(v)}
        inline = [o for o in operands if isinstance(o, Inline)]

        def make(indices: Indices) -> str:
            texts = [o.at(within(o.shape, indices)) for o in operands]
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
            swapped = tuple((c, turned(b), turned(a)) for c, a, b in first.products)
            rest = first.rest
            if rest is not None:
                made = rest.make
                rest = replace(rest, shape=shape, make=lambda i: made([i[1], i[0]]))
            return Products(shape, swapped, rest)
        if node.op == "neg":
            assert isinstance(first, Products)
            return scaled(first, -1.0)
        if node.op in ("mul", "div"):
            other = self.graph[node.args[1]].attr("value")
            if waiting == [True, False] and is_const(self.graph[node.args[1]]):
                assert isinstance(first, Products)
                return scaled(first, float(other) if node.op == "mul" else 1 / float(other))
            if waiting == [False, True] and node.op == "mul" and is_const(self.graph[node.args[0]]):
                second = values[1]
                assert isinstance(second, Products)
                return scaled(second, float(self.graph[node.args[0]].attr("value")))
            return None
        sign = 1.0 if node.op == "add" else -1.0
        if all(waiting):
            left, right = values
            assert isinstance(left, Products)
            assert isinstance(right, Products)
            if left.shape != right.shape or node.args[0] == node.args[1]:
                return None
            right = scaled(right, sign)
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
        product = scaled(product, sign if position == 1 else 1.0)
        negative = sign < 0 and position == 0

        def make(indices: Indices) -> str:
            text = other_.at(within(other_.shape, indices))
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
        a_m = stored[0] if ranks[0] == 2 else as_matrix(stored[0], row=True)
        b_m = stored[1] if ranks[1] == 2 else as_matrix(stored[1], row=False)
        if ranks == (2, 2):
            return Products(shape, ((1.0, a_m, b_m),))
        to = self._fresh(shape)
        self._multiply(as_matrix(to, row=ranks[0] == 1), 1.0, a_m, b_m, 0.0)
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


__all__ = ["ALIGNED", "LARGE", "Leaf", "Place", "Text", "Unsupported", "elements", "function"]
