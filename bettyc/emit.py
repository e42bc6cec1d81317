"""Graph -> straight-line Python: one torch function, readable, the same text for the same program.

`bettyc compile --emit python` prints this text and the runtime executes it, so that tracebacks and
profilers show its lines. The function uses torch and its arguments, nothing else:

    def fit_objective(train_x, w, train_y):
        dtype = train_x.dtype
        train_x_w = train_x @ w  # real[n]
        ...
        return loss

A node that is used once and is short is written into the line of its user.
"""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import zip_longest

from bettyc.expr import LEAVES, Graph, Node
from bettyc.fuse import Added, Fusions, fresh, fusions, overwritten
from bettyc.ops import OPS
from bettyc.ops.control import is_opaque
from bettyc.placed import Scaled, placed
from bettyc.types import Dim, Tensor, Type, bind, number, symbol

Leaf = Callable[[int, Node], str]
Opaque = Callable[[int, Node, Sequence[str]], str]

WIDTH = 72  # of a line with other nodes written into it
# A matrix product with at most so many columns, and a left operand of at least so many elements, is
# written transposed. On 5000 x 784 x 10 in float32, one thread: 5.8 -> 2.7 ms for X @ W and
# 15.8 -> 2.5 ms for X^T @ R.
NARROW = 32
LARGE = 4096
SHORT = 48  # of a node that is written into another line

# How tightly an operator binds; a text without an operator on the outside binds tightest.
BINDING = {"add": 1, "sub": 1, "mul": 2, "div": 2, "matmul": 2, "neg": 3, "pow": 4}
ATOM = 9
# Operators that Python writes between two values, so that either may be a number.
NUMERIC = frozenset({*BINDING, "eq", "ne", "lt", "le", "gt", "ge", "and", "or"})
# What the value of an operator is called, where the operator's name is not a noun.
NOUNS = {
    "add": "total", "sub": "gap", "mul": "scaled", "div": "ratio", "pow": "power", "neg": "minus",
    "matmul": "product", "index": "rows", "concat": "joined", "where": "chosen", "replicas": "all",
    "apply": "out", "real": "as_real", "expand": "wide", "reshape": "flat", "permute": "turned",
    "sum": "sums", "and": "both", "or": "either", "not": "unless", "one_pass": "product",
}  # fmt: skip


def function(
    graph: Graph,
    outputs: Sequence[int],
    *,
    name: str,
    leaf: Leaf,
    opaque: Opaque | None = None,
    sizes: Mapping[str, int] | None = None,
    autograd: bool = True,
    given: Mapping[int, str] | None = None,
    fused: bool = False,
    into: Sequence[str | None] = (),
    held: str | None = None,
    dtype: str = "torch.get_default_dtype()",
    device: str = "None",
) -> str:
    """The text of a function that computes `outputs` (one value, or a tuple of several).

    leaf: how a leaf is written: a name, which becomes an argument in the order of first use, or an
        expression over arguments that the caller declares by returning their names elsewhere.
    opaque: how an operator without torch text is called (networks, replicas, masks), from the texts
        of its operands; `replicas` gets none, its body is a function of its own.
    sizes: dims to write as numbers. The others are read off the shapes of the arguments.
    autograd: without it, `detach` is written as nothing.
    given: nodes that are computed already and come as arguments of these names.
    fused: fewer calls, with results written in place (`bettyc.fuse`); for text without autograd.
    into: for each output the argument it is written into (`bettyc.placed`), None where it is
        returned; wants `fused`.
    held: a function that every detached value passes through, with its node's number.
    dtype: of real values where no argument is real. device: where no argument is a tensor.
    """
    if fused and autograd:
        raise ValueError("autograd does not follow results that are written in place")
    writer = _Writer(
        graph,
        leaf,
        opaque,
        sizes or {},
        autograd,
        given or {},
        fused,
        into,
        held,
        dtype,
        device,
    )
    return writer.write(name, outputs)


def titles(graph: Graph, nodes: Sequence[int]) -> dict[int, str]:
    """Names for nodes that one function returns and another is given."""
    found: dict[int, str] = {}
    for index in nodes:
        base = NOUNS.get(graph[index].op, graph[index].op)
        count = sum(name.rsplit("_", 1)[0] == f"fixed_{base}" for name in found.values())
        found[index] = f"fixed_{base}_{count}"
    return found


def needed(graph: Graph, outputs: Sequence[int], given: Collection[int] = ()) -> list[int]:
    """The nodes that a function evaluates itself: bodies of replicas are other functions."""
    seen: set[int] = set()
    stack = list(outputs)
    while stack:
        index = stack.pop()
        if index not in seen:
            seen.add(index)
            if graph[index].op != "replicas" and index not in given:
                stack.extend(graph[index].args)
    return sorted(seen)


class _Writer:
    """One function being written."""

    def __init__(
        self,
        graph: Graph,
        leaf: Leaf,
        opaque: Opaque | None,
        sizes: Mapping[str, int],
        autograd: bool,
        given: Mapping[int, str],
        fused: bool,
        into: Sequence[str | None],
        held: str | None,
        dtype: str,
        device: str,
    ) -> None:
        self.graph = graph
        self.leaf = leaf
        self.opaque = opaque
        self.autograd = autograd
        self.given = given
        self.fused = fused
        self.into = [*into]
        self.held = held
        self.dtype = dtype
        self.device = device
        self.uses: dict[int, int] = {}
        self.fusions = Fusions({}, set(), {}, {})
        self.placed: dict[int, Scaled] = {}
        self.sizes: dict[str, Dim] = {k: number(v) for k, v in sizes.items()}
        self.texts: dict[int, tuple[str, int]] = {}  # text and how tightly it binds
        self.names: dict[int, str] = {}
        self.plain: set[int] = set()  # values that are Python numbers, not tensors
        self.taken: set[str] = {"torch", "dtype", "device", *filter(None, [*into, held])}
        self.lines: list[str] = []

    def write(self, name: str, outputs: Sequence[int]) -> str:
        order = needed(self.graph, outputs, self.given)
        arguments = self._leaves(order)
        self._dims(order)
        self.uses = self._uses(order, outputs)
        targets = {o: t for o, t in zip(outputs, self.into, strict=False) if t}
        if self.fused:
            narrow = {i for i in order if self._narrow(self.graph[i])}
            self.fusions = fusions(self.graph, order, self.uses, narrow)
            self.placed = placed(self.graph, targets, self.uses, self.fusions, narrow)
        for index in order:
            if index in self.placed:
                self._place(targets[index], self.placed[index])
            elif index not in self.texts and index not in self.fusions.absorbed:
                self._statement(index, self.uses[index])
        results = []
        for index, target in zip_longest(outputs, self.into):
            if index in self.placed:
                continue
            text = self._scalar(index) if index in self.plain else self.texts[index][0]
            if target:
                self.lines.append(f"{target}.copy_({text})")
            else:
                results.append(text)
        body = [*self.lines, f"return {', '.join(results)}"] if results else self.lines
        head, missing = self._head(body, order)
        signature = ", ".join([*arguments, *missing, *filter(None, self.into)])
        return f"def {name}({signature}):\n" + "".join(f"    {line}\n" for line in [*head, *body])

    def _leaves(self, order: Sequence[int]) -> list[str]:
        """Write the leaves; the arguments are those that are plain names."""
        arguments: list[str] = []
        for index in order:
            node = self.graph[index]
            if node.op == "const":
                value = node.attr("value")
                self.plain.add(index)
                text = repr(value) if abs(value) != float("inf") else f"float('{value}')"
                self.texts[index] = text, 3 if text.startswith("-") else ATOM
            elif node.op in LEAVES or index in self.given:
                text = self.given.get(index) or self.leaf(index, node)
                self.texts[index] = text, ATOM
                root = re.split(r"[.\[(]", text, maxsplit=1)[0]
                self.taken.add(root)
                if root not in arguments:
                    arguments.append(root)
                self.names[index] = re.sub(r"\W+", "_", text).strip("_")
        return arguments

    def _dims(self, order: Sequence[int]) -> None:
        """Names for the dims, apart from all other names."""
        names = {
            n
            for i in order
            if isinstance(type_ := self.graph[i].type, Tensor)
            for d in type_.shape
            for n in d.names
        }
        for dim in sorted(names - self.sizes.keys()):
            self.sizes[dim] = symbol(self._fresh(dim))

    def _uses(self, order: Sequence[int], outputs: Sequence[int]) -> dict[int, int]:
        uses = dict.fromkeys(order, 0)
        for index in order:
            for arg in () if index in self.given else self.graph[index].args:
                if arg in uses:
                    uses[arg] += 1
        # Given nodes belong to the caller, who must find them as they were.
        for index in (*outputs, *self.given, *self.given):
            uses[index] = uses.get(index, 0) + 1
        return uses

    def _statement(self, index: int, uses: int) -> None:
        """Write a node, into the lines or into its user's text."""
        node = self.graph[index]
        text, binding = self._lower(index, node)
        if node.op == "size" or ({*node.args} <= self.plain and self._takes_numbers(node)):
            self.plain.add(index)
        alias = binding == ATOM and text.isidentifier()
        row = OPS.get(node.op)
        inline = node.op == "kept" or (row is not None and row.fusion != "opaque")
        if alias or (uses == 1 and len(text) <= SHORT and inline):
            self.texts[index] = text, binding
            if alias:
                self.names[index] = text
            return
        name = self.names[index] = self._fresh(self._title(node))
        self._line(name, text, node)
        self.texts[index] = name, ATOM

    def _line(self, name: str, text: str, node: Node) -> None:
        line, comment = f"{name} = {text}", f"  # {bind(node.type, self.sizes)}"
        self.lines.append(line + comment if len(line + comment) <= 96 else line)

    def _lower(self, index: int, node: Node) -> tuple[str, int]:
        """The text of one node over the texts of its operands."""
        row = OPS.get(node.op)
        if not self.autograd and node.op in ("detach", "straight_through"):
            return self.texts[node.args[0]]
        if self.held and node.op == "detach":
            return f"{self.held}({index}, {self.texts[node.args[0]][0]})", ATOM
        if row is None or row.torch is None or is_opaque(node, self._types(node)):
            if self.opaque is None:
                raise ValueError(f"%{index} = {node.op}: no way to call it was given")
            operands = [] if node.op == "replicas" else [self.texts[a][0] for a in node.args]
            return self.opaque(index, node, operands), 0 if row is not None else ATOM
        if self.fused and (short := self._fused(index, node)):
            return short, ATOM
        types = [bind(t, self.sizes) for t in self._types(node)]
        marks = [f"\0{i}\0" for i in range(len(node.args))]
        text = row.torch(marks, self._attributes(node), types, bind(node.type, self.sizes))
        filled = self._fill(node, text)
        if len(filled) > WIDTH:
            for arg in self._inlined(node):
                self._unfold(arg)
            filled = self._fill(node, text)
        return filled, _binding(node.op, filled)

    def _types(self, node: Node) -> list[Type]:
        return [self.graph[a].type for a in node.args]

    def _fused(self, index: int, node: Node) -> str | None:
        """The node as one call with its operands, or into one of them."""
        added = self.fusions.added.get(index)
        if added is not None:
            return self._added(index, added)
        if index in self.fusions.masked:
            other, condition = self.fusions.masked[index]
            inside = f"{self.texts[other][0]}, {self._named(condition)}, 0.0"
            return f"torch.ops.aten.threshold_backward({inside})"
        if index in self.fusions.masks:
            name = self._named(self.fusions.masks[index])
            return f"torch.gt({name}, 0.0, out=torch.empty_like({name}))"
        if self._narrow(node):
            return self._turned(node)
        position = overwritten(self.graph, index, self.uses)
        if position is None or any(a in self.plain for a in node.args[position : position + 1]):
            return None
        text, binding = self.texts[node.args[position]]
        into = text if binding == ATOM else f"({text})"
        others = [self.texts[a][0] for p, a in enumerate(node.args) if p != position]
        whole = f"{into}.{node.op}_({', '.join(others)})"
        if len(whole) > WIDTH and node.args[position] not in self.names:
            self._unfold(node.args[position])
            whole = f"{self.texts[node.args[position]][0]}.{node.op}_({', '.join(others)})"
        return whole

    def _narrow(self, node: Node) -> bool:
        """Whether a matrix product has few columns: BLAS is faster on its transpose."""
        if node.op != "matmul":
            return False
        types = [bind(self.graph[a].type, self.sizes) for a in node.args]
        shapes = [[d.value for d in t.shape] for t in types if isinstance(t, Tensor)]
        if [len(s) for s in shapes] != [2, 2] or None in shapes[0] or None in shapes[1]:
            return False
        (rows, inner), (_, columns) = shapes
        assert rows is not None
        assert inner is not None
        assert columns is not None
        return 2 <= columns <= NARROW and rows >= 2 * columns and rows * inner >= LARGE

    def _turned(self, node: Node) -> str:
        """left @ right as (right^T left^T)^T, the narrow operand in rows that lie together."""
        left, right = node.args
        text, binding = self.texts[right]
        right_t = f"{text if binding == ATOM else f'({text})'}.mT"
        source = self.graph[left]
        if source.op == "permute" and left not in self.given and source.args[0] in self.texts:
            under, binding = self.texts[source.args[0]]
            return f"({right_t} @ {under if binding == ATOM else f'({under})'}).mT"
        text, binding = self.texts[left]
        left_t = f"{text if binding == ATOM else f'({text})'}.mT"
        if left_t.endswith(".mT.mT"):
            return f"({right_t} @ {left_t.removesuffix('.mT.mT')}).mT"
        copied = "" if source.op == "permute" else ".contiguous()"
        return f"({right_t}{copied} @ {left_t}).mT"

    def _added(self, index: int, added: Added) -> str:
        """`torch.addmv(base, left, right, beta=..., alpha=...)`."""
        left, right = self.texts[added.left], self.texts[added.right]
        ranks = [
            len(t.shape)
            for i in (added.left, added.right)
            if isinstance(t := self.graph[i].type, Tensor)
        ]
        operands = [left[0], right[0]]
        if ranks == [1, 2]:  # a vector times a matrix is the transposed matrix times the vector
            operands = [f"{right[0] if right[1] == ATOM else f'({right[0]})'}.mT", left[0]]
        if added.beta != 1:
            operands.append(f"beta={added.beta:g}")
        alpha = self._alpha(added)
        if alpha != "1":
            operands.append(f"alpha={alpha}")
        name = "addmm" if ranks == [2, 2] else "addmv"
        base, binding = self.texts[added.base]
        own = self.graph[added.base].type == self.graph[index].type
        if own and self.uses[added.base] == 1 and fresh(self.graph, added.base):
            return f"{base if binding == ATOM else f'({base})'}.{name}_({', '.join(operands)})"
        return f"torch.{name}({', '.join([base, *operands])})"

    def _named(self, index: int) -> str:
        """The name of a value that is written more than once."""
        if not self.texts[index][0].isidentifier():
            self._unfold(index)
        return self.texts[index][0]

    def _place(self, out: str, scaled: Scaled) -> None:
        """Lines that compute a result in the memory `out`."""
        node = self.graph[scaled.core]
        added = self.fusions.added.get(scaled.core)
        factor = self._alpha(scaled)
        if node.op == "sum":
            axes = self._attributes(node)["axis"]
            summed, _ = self.texts[node.args[0]]
            self.lines.append(f"torch.sum({summed}, dim={axes!r}, out={out})")
            if factor != "1":
                self.lines.append(f"{out}.mul_({factor})")
            return
        if added is None:
            self._multiplied(out, node, factor)
            return
        base = self.texts[added.base][0] if added.base in self.texts else out
        if base == out:
            self._multiplied(out, self.graph[added.base], "1")
        left, right = self.texts[added.left][0], self.texts[added.right][0]
        scales = [_times(factor, text) for text in (f"{added.beta:g}", self._alpha(added))]
        scale = f", beta={scales[0]}, alpha={scales[1]}" if scales != ["1", "1"] else ""
        self.lines.append(f"torch.addmm({base}, {left}, {right}{scale}, out={out})")

    def _multiplied(self, out: str, node: Node, factor: str) -> None:
        left, right = (self.texts[a][0] for a in node.args)
        scale = "" if factor == "1" else f", beta=0, alpha={factor}"
        head = f"torch.mm({left}" if not scale else f"torch.addmm({out}, {left}"
        self.lines.append(f"{head}, {right}{scale}, out={out})")

    def _alpha(self, added: Added | Scaled) -> str:
        """The factor of the product as a Python number."""
        factor = added.sign
        above: list[str] = []
        below: list[str] = []
        for index, multiplies in added.scale:
            value = self.graph[index].attr("value")
            if value is not None:
                factor = factor * value if multiplies else factor / value
            else:
                (above if multiplies else below).append(self.texts[index][0])
        text = " * ".join([f"{factor:.17g}" if factor != 1 or not above else "", *above]).strip(
            " *"
        )
        return " / ".join([text, *below])

    def _attributes(self, node: Node) -> dict[str, object]:
        return {k: _rebound(v, self.sizes) for k, v in node.attrs}

    def _fill(self, node: Node, text: str) -> str:
        """Put the operands' texts in, with parentheses where they are needed."""

        def operand(match: re.Match[str]) -> str:
            position = int(match[1])
            inner, binding = self.texts[node.args[position]]
            if node.args[position] in self.plain and not self._takes_numbers(node):
                return self._scalar(node.args[position])
            before, after = text[: match.start()], text[match.end() :]
            if before.endswith(("(", "[", ", ")) and after.startswith((")", "]", ",")):
                return inner
            own = BINDING.get(node.op, ATOM)
            first = position == 0 and node.op != "pow"
            return (
                inner
                if binding > own or (binding == own and first) or binding == ATOM
                else f"({inner})"
            )

        return re.sub("\0(\\d+)\0", operand, text)

    def _takes_numbers(self, node: Node) -> bool:
        """Whether Python numbers may be operands: beside operators, in one arm of `where`, or as a
        place in a tensor.
        """
        if node.op == "where":
            return not {*node.args[1:]} <= self.plain
        if node.op == "index":
            # torch waits for the device to know a place that is a tensor without axes
            return node.args[0] not in self.plain
        if node.op in ("div", "pow") and {*node.args} <= self.plain:
            return False  # Python raises where torch says inf
        return node.op in NUMERIC

    def _scalar(self, index: int) -> str:
        """A Python number as a tensor without axes; `full` does not wait for the device."""
        type_ = self.graph[index].type
        kind = type_.kind if isinstance(type_, Tensor) else "real"
        dtype = {"real": "dtype", "int": "torch.int64", "bool": "torch.bool"}[kind]
        return f"torch.full((), {self.texts[index][0]}, dtype={dtype}, device=device)"

    def _inlined(self, node: Node) -> Iterator[int]:
        """Operands that are written into this line, the longest first."""
        inline = [
            a
            for a in dict.fromkeys(node.args)
            if a not in self.names and self.graph[a].op != "const"
        ]
        yield from sorted(inline, key=lambda a: -len(self.texts[a][0]))

    def _unfold(self, index: int) -> None:
        """Give an operand its own line after all."""
        node = self.graph[index]
        name = self.names[index] = self._fresh(self._title(node))
        self._line(name, self.texts[index][0], node)
        self.texts[index] = name, ATOM

    def _title(self, node: Node) -> str:
        """What the value is called: `exp_log_wd`, `x_w`, `bce`."""
        own = NOUNS.get(node.op, node.op)
        leaves = [self.names.get(a) for a in node.args if self.graph[a].op in LEAVES]
        if node.op == "matmul" and len(leaves) == 2 and all(leaves):
            title = "_".join(str(n) for n in leaves)
        elif len(node.args) == 1 and leaves and leaves[0]:
            title = f"{own}_{leaves[0]}"
        else:
            title = own
        return title if len(title) <= 24 else own

    def _fresh(self, wanted: str) -> str:
        base = re.sub(r"\W", "_", wanted)
        if keyword.iskeyword(base) or hasattr(builtins, base) or base[:1].isdigit():
            base = f"{base}_"
        name, count = base, 1
        while name in self.taken:
            count += 1
            name = f"{base}_{count}"
        self.taken.add(name)
        return name

    def _head(self, body: Sequence[str], order: Sequence[int]) -> tuple[list[str], list[str]]:
        """Lines for dtype, device and dims that the body uses; dims that become arguments."""
        words = set(re.findall(r"[^\W\d]\w*", " ".join(line.split("  # ")[0] for line in body)))
        leaves = [
            i
            for i in order
            if i in self.given or (self.graph[i].op in LEAVES and self.graph[i].op != "const")
        ]
        tensors = [(i, t) for i in leaves if isinstance(t := self.graph[i].type, Tensor)]
        head = []
        reals = [self.texts[i][0] for i, t in tensors if t.kind == "real"]
        if "dtype" in words:
            head.append(f"dtype = {f'{reals[0]}.dtype' if reals else self.dtype}")
        if "device" in words:
            like = reals or [self.texts[i][0] for i, _ in tensors]
            head.append(f"device = {f'{like[0]}.device' if like else self.device}")
        missing = []
        for dim, value in sorted(self.sizes.items()):
            name = str(value)
            if value.value is None and name in words:
                source = next(self._sources(tensors, dim), None)
                missing.append(name) if source is None else head.append(f"{name} = {source}")
        return head, missing

    def _sources(self, tensors: Sequence[tuple[int, Tensor]], dim: str) -> Iterator[str]:
        for index, type_ in tensors:
            for axis, size in enumerate(type_.shape):
                if size == symbol(dim):
                    yield f"{self.texts[index][0]}.shape[{axis}]"


def _binding(op: str, text: str) -> int:
    """How tightly the text binds: an infix operator as such, calls and names as atoms."""
    if op in BINDING:
        return BINDING[op]
    depth = 0
    for char in text:
        depth += (char in "([") - (char in ")]")
        if depth == 0 and char in " ~":
            return 0
    return 3 if text.startswith("-") else ATOM


def _times(left: str, right: str) -> str:
    """The product of two numbers that are texts."""
    if "1" in (left, right):
        return left if right == "1" else right
    return f"{left} * {right}"


def _rebound(value: object, sizes: Mapping[str, Dim]) -> object:
    """An attribute with the dims in it replaced: their terms are tuples of (names, coefficient)."""
    if isinstance(value, tuple):
        if value and all(_is_term(v) for v in value):
            return Dim(value).bind(sizes).terms
        return tuple(_rebound(v, sizes) for v in value)
    return value


def _is_term(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and isinstance(value[0], tuple)
        and isinstance(value[1], int)
        and all(isinstance(n, str) for n in value[0])
    )
