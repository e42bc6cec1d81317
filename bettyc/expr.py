"""The typed, hash-consed expression graph: what every formula of a program becomes.

A graph is a list of nodes in topological order; equal expressions are one node. `def` and `let` are
inlined and built-in networks are expanded before they get here, so a node is either a leaf or an
operator of the registry (`bettyc.ops`).

Leaves (op, attrs):
    const   value                     a real, int or bool scalar known at compile time
    var     level, name               a tensor variable of a level; a built-in network `net` has one
                                      per parameter, named `net.0.weight` as torch names them
    module  level, name               the parameters of a network from Python, as one value
    data    data, field               a whole column of a data set or split
    batch   draw, field               a column of the current batch; `index` is the row numbers
    task    level, field              a column of the current task of a `foreach` level
    direction  name                   what a derivative is multiplied with; made by the calculus

How a level is read (its response, its value, or detached) is not in the leaf: `detach` is an
operator, and starred or bare is one fact per pair of levels (MLO0213), kept in `Level.reads`.
So two objectives that are the same formula are the same node, which is how a zero-sum game is seen.

Inside `replicas(body, level=..., reduce=...)` the leaves `var`, `module` and `task` of the named
level mean one replica; the operator reduces `body` over all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from bettyc.types import REAL, Tensor, Type

Attr: TypeAlias = Any  # JSON: None, bool, int, float, str, or a tuple of those
Attrs: TypeAlias = tuple[tuple[str, Attr], ...]

LEAVES = frozenset({"const", "var", "module", "data", "batch", "task", "direction"})


class Node(NamedTuple):
    """One expression. `args` are indices of earlier nodes of the same graph."""

    op: str
    args: tuple[int, ...]
    attrs: Attrs
    type: Type

    def attr(self, name: str) -> Attr:
        """The attribute, or None."""
        for key, value in self.attrs:
            if key == name:
                return value
        return None


class Graph:
    """Nodes in topological order, without duplicates."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._index: dict[tuple[Any, ...], int] = {}

    def __getitem__(self, index: int) -> Node:
        return self.nodes[index]

    def __len__(self) -> int:
        return len(self.nodes)

    def leaf(self, op: str, type_: Type, **attrs: Attr) -> int:
        """A leaf; its type is the declaration's."""
        return self._intern(op, (), tuple(sorted(attrs.items())), type_)

    def add(self, op: str, *args: int, **attrs: Attr) -> int:
        """An operator applied to nodes; its type comes from the registry's shape rule.

        Raises `bettyc.ops.ShapeError` when the operands do not fit.
        """
        from bettyc.ops import OPS

        row = OPS[op]
        key = tuple(sorted(row.attributes([self.nodes[a].type for a in args], attrs).items()))
        known = self._index.get((op, args, key_of(key), None))
        if known is not None:
            return known
        type_ = row.shape([self.nodes[a].type for a in args], dict(key))
        promoted = self._promote(args, type_, row.promotes)
        found = self._intern(op, promoted, key, type_)
        self._index[(op, args, key_of(key), None)] = found
        return found

    def make(self, op: str, args: Iterable[int], type_: Type, **attrs: Attr) -> int:
        """An operator whose type is stated: networks, replicas, and what the calculus makes."""
        key = tuple(sorted((k, v) for k, v in attrs.items() if v is not None))
        return self._intern(op, tuple(args), key, type_)

    def rebuild(self, index: int, args: Sequence[int], type_: Type | None = None) -> int:
        """The node with other operands of the same types, or with those of its own type named."""
        node = self.nodes[index]
        if tuple(args) == node.args and type_ in (None, node.type):
            return index
        return self._intern(node.op, tuple(args), node.attrs, type_ or node.type)

    def _promote(
        self, args: tuple[int, ...], result: Type, positions: tuple[int, ...] | None
    ) -> tuple[int, ...]:
        """The operands with `real` around those that are int or bool, where a real is meant."""
        kinds = {
            t.kind for t in (result, *(self.nodes[a].type for a in args)) if isinstance(t, Tensor)
        }
        if "real" not in kinds:
            return args
        return tuple(
            self.real(a) if positions is None or p in positions else a for p, a in enumerate(args)
        )

    def real(self, index: int) -> int:
        """The node as a real tensor."""
        node = self.nodes[index]
        if not isinstance(node.type, Tensor) or node.type.kind == "real":
            return index
        if node.op == "const":
            return self.leaf("const", REAL, value=float(node.attr("value")))
        return self.add("real", index)

    def _intern(self, op: str, args: tuple[int, ...], attrs: Attrs, type_: Type) -> int:
        key = (op, args, key_of(attrs), type_)
        found = self._index.get(key)
        if found is None:
            found = self._index[key] = len(self.nodes)
            self.nodes.append(Node(op, args, attrs, type_))
        return found

    def reachable(self, roots: Iterable[int]) -> list[int]:
        """The nodes that the roots need, in topological order."""
        seen: set[int] = set()
        stack = list(roots)
        while stack:
            index = stack.pop()
            if index not in seen:
                seen.add(index)
                stack.extend(self.nodes[index].args)
        return sorted(seen)

    def leaves(self, root: int) -> Iterator[tuple[int, Node]]:
        """The leaves below one node."""
        for index in self.reachable([root]):
            if self.nodes[index].op in LEAVES:
                yield index, self.nodes[index]


def key_of(attrs: Attrs) -> tuple[Any, ...]:
    """A hashable key that keeps 1, 1.0 and True apart."""
    return tuple((name, type(value).__name__, value) for name, value in attrs)


def show(graph: Graph, roots: Sequence[int]) -> str:
    """The nodes below `roots`, one a line: `%3 = sigmoid(%2)  : real[n]`."""
    lines = []
    for index in graph.reachable(roots):
        node = graph[index]
        inside = [f"%{a}" for a in node.args] + [f"{k}={v!r}" for k, v in node.attrs]
        lines.append(f"%{index} = {node.op}({', '.join(inside)})  : {node.type}")
    return "\n".join(lines)
