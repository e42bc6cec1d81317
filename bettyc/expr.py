"""The typed, hash-consed expression graph: what every formula of a program becomes.

A graph is a list of nodes in topological order; equal expressions are one node. `def` and `let` are
inlined and built-in networks are expanded before they get here, so a node is either a leaf or an
operator of the registry (`bettyc.ops`).

Leaves (op, attrs):
    const   value                     a real, int or bool scalar known at compile time
    var     level, name               a tensor variable of a level; a built-in network `net` has one per
                                      parameter, named `net.0.weight` as torch names them
    module  level, name               the parameters of a network from Python, as one value
    data    data, field               a whole column of a data set or split
    batch   draw, field               a column of the current batch; field `index` is the row numbers
    task    level, field              a column of the current task of a `foreach` level

How a level is read (its response, its value, or detached) is not in the leaf: `detach` is an
operator, and starred or bare is one fact per pair of levels (MLO0213), kept in `Level.reads`.
So two objectives that are the same formula are the same node, which is how a zero-sum game is seen.

Inside `replicas(body, level=..., reduce=...)` the leaves `var`, `module` and `task` of the named
level mean one replica; the operator reduces `body` over all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from bettyc.types import Type

Attr: TypeAlias = Any  # JSON: None, bool, int, float, str, or a tuple of those
Attrs: TypeAlias = tuple[tuple[str, Attr], ...]

LEAVES = frozenset({"const", "var", "module", "data", "batch", "task"})


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

        key = tuple(sorted((k, v) for k, v in attrs.items() if v is not None))
        known = self._index.get((op, args, key_of(key)))
        if known is not None:
            return known
        type_ = OPS[op].shape([self.nodes[a].type for a in args], dict(key))
        return self._intern(op, args, key, type_)

    def _intern(self, op: str, args: tuple[int, ...], attrs: Attrs, type_: Type) -> int:
        key = (op, args, key_of(attrs))
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
