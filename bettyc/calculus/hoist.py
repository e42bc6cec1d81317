"""Hoisting: what does not depend on the direction is computed once per solve, not per product.

Products are regrouped first, so that a * (v * b) becomes (a * b) * v: the Hessian product of a
generalized linear model then costs two products with the data, one scaling, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from bettyc.expr import LEAVES, Graph
from bettyc.ops.term import Term
from bettyc.types import Tensor

# Better written where they are used: the operand is hoisted instead. In torch a transpose is
# hoisted itself, because making it costs as much as a product does on small problems; in C it costs
# nothing.
VIEWS = frozenset({"reshape", "expand", "size"})
VIEWS_IN_C = VIEWS | {"permute"}


class Hoisted(NamedTuple):
    """Equal roots, and the nodes below them to compute beforehand."""

    roots: list[int]
    prologue: list[int]


def hoist(
    graph: Graph,
    roots: Sequence[int],
    moving: Iterable[int],
    change: Callable[[list[int]], list[int]] = list,
    views: frozenset[str] = VIEWS,
) -> Hoisted:
    """Split the work below `roots` into what depends on the leaves `moving` and what does not.

    change: writes the regrouped roots anew. views: operators that are not hoisted themselves.
    """
    leaves = set(moving)
    regrouped = change(regroup(graph, roots, leaves))
    dependent = below(graph, regrouped, leaves)
    frontier: dict[int, None] = {}
    stack = [r for r in regrouped if r not in dependent]
    for index in graph.reachable(regrouped):
        if index in dependent:
            stack += [a for a in graph[index].args if a not in dependent]
    for index in stack:
        _base(graph, index, frontier, views)
    return Hoisted(regrouped, sorted(frontier))


def _base(graph: Graph, index: int, frontier: dict[int, None], views: frozenset[str]) -> None:
    """The node itself, or what it is a view of."""
    node = graph[index]
    if node.op in LEAVES:
        return
    if node.op in views or (node.op == "index" and len(node.args) == 1):
        for arg in node.args:
            _base(graph, arg, frontier, views)
        return
    if not (isinstance(node.type, Tensor) and not node.type.shape and is_number(graph, index)):
        frontier[index] = None


def is_number(graph: Graph, index: int) -> bool:
    """Whether emitted code holds a value as a Python number: no tensor is below it."""
    reached = (graph[i] for i in graph.reachable([index]))
    return all(node.args or node.op in ("const", "size") for node in reached)


def below(graph: Graph, roots: Sequence[int], leaves: set[int]) -> set[int]:
    """The nodes that depend on the leaves."""
    found: set[int] = set()
    for index in graph.reachable(roots):
        if index in leaves or any(a in found for a in graph[index].args):
            found.add(index)
    return found


def cut_detached(
    graph: Graph, roots: Sequence[int], leaves: Iterable[int]
) -> tuple[list[int], dict[int, int]]:
    """The roots with a leaf in place of every detached value that depends on `leaves`, and the
    leaf by what it stands for.
    """
    dependent = below(graph, roots, set(leaves))
    new: dict[int, int] = {}
    held: dict[int, int] = {}
    for index in graph.reachable(roots):
        node = graph[index]
        if node.op == "detach" and index in dependent:
            new[index] = held[index] = graph.leaf("direction", node.type, name=f"held.{index}")
        else:
            new[index] = graph.rebuild(index, [new[a] for a in node.args])
    return [new[r] for r in roots], held


def restored(graph: Graph, roots: Sequence[int], known: Mapping[int, int]) -> list[int]:
    """The roots with what the leaves of `cut_detached` stand for in their places."""
    new = dict(known)
    for index in graph.reachable(roots):
        if index not in new:
            new[index] = graph.rebuild(index, [new[a] for a in graph[index].args])
    return [new[r] for r in roots]


def regroup(graph: Graph, roots: Sequence[int], leaves: set[int]) -> list[int]:
    """Collect the factors of every product that do not depend on the leaves."""
    order = graph.reachable(roots)
    dependent = below(graph, roots, leaves)
    new: dict[int, int] = {}
    for index in order:
        node = graph[index]
        rebuilt = graph.rebuild(index, [new[a] for a in node.args])
        if rebuilt != index and index in dependent:
            dependent.add(rebuilt)
        if node.op == "mul" and index in dependent:
            rebuilt = _grouped(Term(graph, rebuilt), dependent).index
            dependent.add(rebuilt)
        new[index] = rebuilt
    return [new[r] for r in roots]


def _grouped(product: Term, dependent: set[int]) -> Term:
    factors = list(_factors(product, dependent))
    still = [f for f in factors if f.index not in dependent]
    if len(still) < 2 or len(still) == len(factors):
        return product
    moved = [f for f in factors if f.index in dependent]
    fixed = _times(still)
    result = fixed * _times(moved)
    if result.shape != product.shape:
        return product
    dependent.update((result.index, _times(moved).index))
    return result


def _times(factors: Sequence[Term]) -> Term:
    """The product, scalars first so that they meet each other."""
    ordered = sorted(factors, key=lambda f: (len(f.shape), f.index))
    result = ordered[0]
    for factor in ordered[1:]:
        result = result * factor
    return result


def _factors(term: Term, dependent: set[int]) -> Iterable[Term]:
    """The factors of a product, seen through products that depend on the direction."""
    if term.node.op == "mul" and term.index in dependent:
        for operand in term.operands:
            yield from _factors(operand, dependent)
    else:
        yield term
