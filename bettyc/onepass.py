"""The shape of cost that matters most: X^T phi(X V), phi acting row by row, whatever the loss.

Written as two products it reads X twice. `rewrite` turns it into one node, which a kernel computes
in one pass over X (`bettyc.kernels.one_pass`):

    one_pass(X, V, data..., [ridge])    X^T phi(X V), or scale X^T phi(X V) + shift V + ridge * V,
                                        or phi(X V) alone, for the few columns that BLAS is bad at
    kept(one_pass, position)            the product itself where more is kept, or what is kept:
                                        values between the two products that others read, as X V

phi is what lies between the products and depends on X V. It becomes a program of instructions
(`bettyc.kernels.rows` lists them), and everything else that it reads becomes data of the pass, so
that `hoist` moves it out of loops.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from math import prod
from typing import NamedTuple

from bettyc.calculus.hoist import below, is_number
from bettyc.expr import Graph
from bettyc.ops.term import Term
from bettyc.types import Dim, Tensor, number

INSTRUCTIONS = frozenset(
    {"add", "sub", "mul", "div", "pow", "neg", "eq", "ne", "lt", "le", "gt", "ge", "and", "or"}
    | {"not", "where", "maximum", "minimum", "exp", "log", "log1p", "expm1", "sqrt", "abs"}
    | {"square", "sign", "sigmoid", "tanh", "relu", "sin", "cos", "erf"}
)
FOLDS = frozenset({"sum", "amax", "amin", "logsumexp"})  # over the columns of a row
SAME = frozenset({"index", "reshape", "expand", "real", "detach", "straight_through"})
DATA = frozenset({"data", "batch", "task"})
MAX_LINES = 40
NARROW = 32  # columns of V up to which BLAS is worse
LARGE = 1 << 20  # products of X's elements and columns from which two calls of BLAS cost more


class Region(NamedTuple):
    """What one pass computes, in terms of the nodes that it replaces.

    z: the product X V. data: what phi reads besides. result: phi(z), None without a product with
    X^T; kept: what others read.
    """

    z: int
    data: tuple[int, ...]
    result: int | None
    kept: tuple[int, ...]


class Passes(NamedTuple):
    """Equal roots, and the region behind every `one_pass` node below them."""

    roots: list[int]
    regions: dict[int, Region]


def rewrite(
    graph: Graph,
    roots: Sequence[int],
    moving: Iterable[int] = (),
    sizes: Mapping[str, int] | None = None,
) -> Passes:
    """Write X^T phi(X V) as one node wherever it is found below `roots`, then phi(X V).

    moving: leaves; with any, V must depend on them: a product that does not is hoisted anyway.
    sizes: of dims.
    """
    found = Passes(list(roots), {})
    leaves = set(moving)
    known = {name: number(value) for name, value in (sizes or {}).items()}
    for make in (_pass, partial(_forward, known)):
        tried: set[int] = set()
        again = True
        while again:
            again = False
            order = graph.reachable(found.roots)
            dependent = below(graph, found.roots, leaves) if leaves else set(order)
            for index in order:
                if graph[index].op != "matmul" or index not in dependent or index in tried:
                    continue
                tried.add(index)
                made = make(graph, index, order, found.roots, dependent)
                if made is not None:
                    found = _replace(graph, found, index, *made)
                    again = True
                    break
    return _absorbed(graph, found, leaves)


def is_large(
    graph: Graph, regions: Mapping[int, Region], sizes: Mapping[str, int] | None = None
) -> bool:
    """Whether a pass goes over so much that two calls of BLAS for it are worse."""
    known = {name: number(value) for name, value in (sizes or {}).items()}
    for region in regions.values():
        dims = (*_shape(graph, graph[region.z].args[0]), *_shape(graph, region.z)[1:])
        if prod(d.bind(known).value or 0 for d in dims) >= LARGE:
            return True
    return False


def _replace(graph: Graph, found: Passes, index: int, node: int, region: Region) -> Passes:
    """The roots with the region's results read off one pass."""
    new = {index: node}
    regions = {**found.regions, node: region}
    olds = region.kept if region.result is None else (index, *region.kept)
    if len(olds) == 1:
        new = {olds[0]: node}
    else:
        for position, old in enumerate(olds):
            new[old] = graph.make("kept", (node,), graph[old].type, position=position)
    inside = set(graph.reachable([node]))
    for old in graph.reachable(found.roots):
        if old not in new and old not in inside:
            new[old] = graph.rebuild(old, [new.get(a, a) for a in graph[old].args])
            if old in regions:
                regions[new[old]] = regions[old]
    return Passes([new.get(r, r) for r in found.roots], regions)


def _pass(
    graph: Graph, index: int, order: Sequence[int], roots: Sequence[int], dependent: set[int]
) -> tuple[int, Region] | None:
    """The pass that ends in the product `index`, if it is one."""
    for x, s, turned in _ends(graph, index):
        starts = [z for z in _starts(graph, x, s, turned) if z[0] in dependent]
        if len(starts) == 1:
            made = _between(graph, x, s, *starts[0], turned, index, order, roots)
            if made is not None:
                return made
    return None


def _forward(
    sizes: Mapping[str, Dim], graph: Graph, index: int, order: Sequence[int], roots: Sequence[int],
    dependent: set[int],
) -> tuple[int, Region] | None:  # fmt: skip
    """One pass for a product X V with data, and for all functions of its rows."""
    x, v = graph[index].args
    shape = _shape(graph, index)
    wide = shape[1].bind(sizes).value if len(shape) == 2 else 1
    if graph[x].op not in DATA or _rank(graph, x) != 2 or _rank(graph, v) != len(shape):
        return None
    if len(set(shape)) != len(shape) or wide is None or wide > NARROW:
        return None
    inside = {index}
    writer = _Lines(graph, index, shape, inside)
    for i in order:
        if i > index and any(a in inside for a in graph[i].args) and writer.tries(i):
            inside.add(i)
    kept = _kept(graph, inside, order, roots)
    if any(_shape(graph, i) not in (shape, shape[:1]) or not _real(graph, i) for i in kept):
        return None
    node = graph.make(
        "one_pass", (x, v, *writer.data), graph[kept[0]].type, turned=False,
        lines=tuple(writer.lines), kinds=tuple(writer.data.values()), result=None,
        keep=tuple(writer.names[i] for i in kept),
    )  # fmt: skip
    return node, Region(index, tuple(writer.data), None, kept)


def _kept(
    graph: Graph, inside: set[int], order: Sequence[int], roots: Sequence[int], end: int = -1
) -> tuple[int, ...]:
    """The nodes of a region that others read; `end` is the one that the pass takes the place of."""
    users = {a for i in order if i not in inside and i != end for a in graph[i].args}
    return tuple(i for i in sorted(inside) if i in users or i in roots)


def _ends(graph: Graph, index: int) -> Iterable[tuple[int, int, bool]]:
    """(X, S, turned) for X^T S, or S^T X where turned."""
    left, right = graph[index].args
    under = _transposed(graph, left)
    if under is not None:
        yield under, right, False
        if _rank(graph, right) == 2:
            yield right, under, True
    if _rank(graph, left) == 1 and _rank(graph, right) == 2:
        yield right, left, False


def _starts(graph: Graph, x: int, s: int, turned: bool) -> list[tuple[int, int]]:
    """The products X V that S is made of, with V (or its transpose where turned)."""
    found = []
    for index in graph.reachable([s]):
        node = graph[index]
        if node.op == "matmul" and node.args[0] == x and _rank(graph, x) == 2:
            v = node.args[1]
            under = _transposed(graph, v) if turned else v
            if under is not None and _rank(graph, v) == _rank(graph, s):
                found.append((index, under))
    return found


def _between(
    graph: Graph, x: int, s: int, z: int, v: int, turned: bool, index: int, order: Sequence[int],
    roots: Sequence[int],
) -> tuple[int, Region] | None:  # fmt: skip
    """One pass for the region from z to S, if all of it acts row by row."""
    shape = _shape(graph, z)
    if len(set(shape)) != len(shape) or _shape(graph, s) != shape:
        return None
    inside = below(graph, [s], {z})
    if s not in inside or any(graph[i].op in ("one_pass", "kept") for i in inside):
        return None
    writer = _Lines(graph, z, shape, inside)
    if not all(writer.add(i) for i in graph.reachable([s]) if i in inside and i != z):
        return None
    for i in order:  # a loss of the rows instead of the rows
        if graph[i].op == "xent" and graph[i].args[0] == z and writer.tries(i):
            inside.add(i)
    kept = _kept(graph, inside, order, roots, index)
    if any(_shape(graph, i) not in (shape, shape[:1]) or not _real(graph, i) for i in kept):
        return None
    node = graph.make(
        "one_pass", (x, v, *writer.data), graph[index].type, turned=turned,
        lines=tuple(writer.lines), kinds=tuple(writer.data.values()), result=writer.names[s],
        keep=tuple(writer.names[i] for i in kept),
    )  # fmt: skip
    return node, Region(z, tuple(writer.data), s, kept)


class _Lines:
    """The program of a region, one node after the other. data: nodes read from outside, by kind."""

    def __init__(self, graph: Graph, z: int, shape: tuple[Dim, ...], inside: set[int]) -> None:
        self.graph, self.shape, self.inside = graph, shape, inside
        self.names = {z: "z"}
        self.data: dict[int, str] = {}
        self.lines: list[str] = []

    def add(self, index: int) -> bool:
        """Write a node; False where no instruction does what it does."""
        node = self.graph[index]
        if _kind(_shape(self.graph, index), self.shape) not in ("matrix", "column"):
            return False
        operands = [self._operand(a) for a in node.args]
        words = [w for w in operands if w is not None]
        if len(words) != len(operands) or len(self.lines) >= MAX_LINES:
            return False
        if node.op in SAME and len(words) == 1:
            self.names[index] = words[0]
            return self._is_view(index)
        if node.op in INSTRUCTIONS:
            return self._line(index, node.op, *words)
        if node.op == "xent":
            return self._cross_entropy(index, words)
        if len(self.shape) == 2 and _shape(self.graph, node.args[0]) == self.shape:
            return self._by_row(index, node.op, words[0])
        return False

    def tries(self, index: int) -> bool:
        """As `add`; where it says False, nothing is written."""
        lines, data, names = len(self.lines), dict(self.data), dict(self.names)
        if self.add(index):
            return True
        del self.lines[lines:]
        self.data, self.names = data, names
        return False

    def _cross_entropy(self, index: int, words: Sequence[str]) -> bool:
        """log sum exp z - z[y]; by `where`, as z may be infinite in another column."""
        logits, labels = self.graph[index].args
        if _shape(self.graph, logits) != self.shape or not self._is_checked(labels):
            return False
        self._line(index, "logsumexp", words[0])
        total = self._last()
        self._line(index, "one_hot", words[1])
        self._line(index, "where", self._last(), words[0], "0.0")
        self._line(index, "sum", self._last())
        return self._line(index, "sub", total, self._last())

    def _by_row(self, index: int, op: str, word: str) -> bool:
        if self.graph[index].attr("axis") not in (1, (1,)):
            return False
        if op in FOLDS or op == "softmax":
            return self._line(index, op, word)
        if op == "sumsq":
            return self._line(index, "square", word) and self._line(index, "sum", self._last())
        if op == "log_softmax":
            self._line(index, "logsumexp", word)
            return self._line(index, "sub", word, self._last())
        return False

    def _line(self, index: int, op: str, *words: str) -> bool:
        self.lines.append(" ".join([op, *words]))
        self.names[index] = self._last()
        return True

    def _last(self) -> str:
        return f"%{len(self.lines)}"

    def _operand(self, index: int) -> str | None:
        if index in self.names:
            return self.names[index]
        node = self.graph[index]
        if index in self.inside or not isinstance(node.type, Tensor):
            return None
        if node.op == "const":
            value = float(node.attr("value"))
            return repr(value) if abs(value) != float("inf") else None
        if (
            node.op == "one_hot"
            and node.type.shape == self.shape
            and self._is_checked(node.args[0])
        ):
            self._line(index, "one_hot", str(self._operand(node.args[0])))
            return self.names[index]
        kind = _kind(node.type.shape, self.shape)
        if kind == "column" and node.type.kind == "int":
            kind = "labels"
        if kind is None or (kind == "scalar" and is_number(self.graph, index)):
            return None
        self.data[index] = kind
        self.names[index] = f"d{len(self.data)}"
        return self.names[index]

    def _is_checked(self, index: int) -> bool:
        """Whether a node is labels of rows that were checked where data are read."""
        type_ = self.graph[index].type
        return (
            isinstance(type_, Tensor)
            and type_.labels is not None
            and type_.shape == self.shape[:1]
            and index not in self.inside
        )

    def _is_view(self, index: int) -> bool:
        """Whether the node has its operand's entries, row for row."""
        node = self.graph[index]
        if node.op == "index":
            return all(item[0] in ("all", "new") for item in node.attr("spec"))
        return node.op != "expand"  # the result of a program must have all its columns


def _kind(shape: tuple[Dim, ...], z: tuple[Dim, ...]) -> str | None:
    """How an operand of this shape lies beside z."""
    one = Dim((((), 1),))
    if shape == z:
        return "matrix"
    if all(d == one for d in shape) and len(shape) <= len(z):
        return "scalar"
    if shape == z[:1] or shape == (*z[:1], one):
        return "column"
    if len(z) == 2 and shape in (z[1:], (one, z[1])):
        return "row"
    return None


def _absorbed(graph: Graph, found: Passes, leaves: set[int]) -> Passes:
    """The roots with scale P + shift V + ridge * V as one node, where they are that."""
    uses: dict[int, int] = {}
    for index in graph.reachable(found.roots):
        for arg in graph[index].args:
            uses[arg] = uses.get(arg, 0) + 1
    roots = [_with_rest(graph, root, uses, leaves) for root in found.roots]
    regions = dict(found.regions)
    for made, node in roots:
        if node is not None:
            regions[made] = regions[node]
    return Passes([made for made, _ in roots], regions)


def _with_rest(
    graph: Graph, root: int, uses: dict[int, int], leaves: set[int]
) -> tuple[int, int | None]:
    """(the root, the pass that it absorbed)."""
    terms = list(_terms(graph, root, 1.0))
    passes = [(c, i) for c, i in terms if graph[i].op == "one_pass"]
    if len(passes) != 1 or passes[0][1] == root or uses[passes[0][1]] > 1:
        return root, None
    scale, node = passes[0]
    v, shift, ridges = graph[node].args[1], 0.0, []
    if graph[node].attr("keep"):
        return root, None
    for factor, index in terms:
        if index == v:
            shift += factor
        elif index != node:
            other = _beside(graph, index, v)
            if other is None or (leaves and other in below(graph, [other], leaves)):
                return root, None
            ridges.append(Term(graph, other) if factor == 1 else factor * Term(graph, other))
    old = graph[node]
    args = old.args
    if ridges:
        ridge = ridges[0]
        for another in ridges[1:]:
            ridge = ridge + another
        if ridge.shape not in ((), _shape(graph, v)) or is_number(graph, ridge.index):
            return root, None
        args = (*args, ridge.index)
    more = {"scale": scale, "shift": shift, "ridged": bool(ridges)}
    return graph.make("one_pass", args, old.type, **{**dict(old.attrs), **more}), node


def _terms(graph: Graph, index: int, factor: float) -> Iterable[tuple[float, int]]:
    """A sum as (number, node)."""
    node = graph[index]
    if node.op in ("add", "sub") and all(graph[a].type == node.type for a in node.args):
        yield from _terms(graph, node.args[0], factor)
        yield from _terms(graph, node.args[1], factor if node.op == "add" else -factor)
    elif node.op == "neg":
        yield from _terms(graph, node.args[0], -factor)
    elif node.op == "mul" and graph[node.args[0]].op == "const":
        yield from _terms(graph, node.args[1], factor * float(graph[node.args[0]].attr("value")))
    elif node.op == "mul" and graph[node.args[1]].op == "const":
        yield from _terms(graph, node.args[0], factor * float(graph[node.args[1]].attr("value")))
    elif node.op == "div" and graph[node.args[1]].op == "const":
        yield from _terms(graph, node.args[0], factor / float(graph[node.args[1]].attr("value")))
    else:
        yield factor, index


def _beside(graph: Graph, index: int, v: int) -> int | None:
    """R of the product R * V."""
    node = graph[index]
    if node.op != "mul" or node.args.count(v) != 1:
        return None
    return node.args[0] if node.args[1] == v else node.args[1]


def _transposed(graph: Graph, index: int) -> int | None:
    """The matrix whose transpose a node is."""
    node = graph[index]
    return node.args[0] if node.op == "permute" and node.attr("axes") == (1, 0) else None


def _rank(graph: Graph, index: int) -> int:
    return len(_shape(graph, index))


def _shape(graph: Graph, index: int) -> tuple[Dim, ...]:
    type_ = graph[index].type
    return type_.shape if isinstance(type_, Tensor) else ()


def _real(graph: Graph, index: int) -> bool:
    type_ = graph[index].type
    return isinstance(type_, Tensor) and type_.kind == "real"
