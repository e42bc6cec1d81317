"""The graph of a program as people see it: levels, edges between them, paths of the hypergradient.

`bettyc.inference` finds who is above whom; this module puts the result into a NetworkX graph in
which every edge knows the mention in the source that made it. An edge points along the flow of
values: from the level that is read to the level that reads.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from bettyc.model import Level, Model, Read, Ref
from bettyc.plan import Edge, Plan
from bettyc.types import Dim, add, number, product

if TYPE_CHECKING:
    import networkx

    from bettyc.diagnostics.span import Source, Span
    from bettyc.hierarchy import Hierarchy

# The kinds whose values carry a gradient, so that a hypergradient passes along them.
DIFFERENTIATED = ("l2u", "u2l")
MEANING = {
    "l2u": "response: the upper level differentiates through the lower one's solution",
    "u2l": "value: the lower level's solution moves with it",
    "implied": "below without being named: a starred response passes through it",
    "frozen": "response taken as a constant: no gradient",
    "sampling": "through a data source: no gradient",
}


def edges(model: Model, hierarchy: Hierarchy, sources: Mapping[str, Source]) -> tuple[Edge, ...]:
    """Every dependency between two levels, once per kind, with the first mention that made it.

    Sorted by the order of the levels, so that equal programs give equal tuples. Needs no NetworkX.
    """
    rank = {name: i for i, name in enumerate(hierarchy.order or sorted(hierarchy.levels))}
    found = [
        _edge(kind, lower, upper, read.span, sources)
        for kind, lower, upper, read in _dependencies(hierarchy)
    ]
    found += [
        _edge("sampling", reader, read, span, sources)
        for reader, read, span in _samples(model, sources)
    ]
    return tuple(sorted(found, key=lambda e: (rank[e.upper], rank[e.lower], e.kind)))


def _dependencies(h: Hierarchy) -> Iterator[tuple[str, str, str, Read]]:
    """Kind, lower level, upper level, mention."""
    for p in h.levels:
        for q, read in h.starred[p].items():
            yield "l2u", q, p, read
        for q, read in h.frozen[p].items():
            if q not in h.starred[p]:
                yield "frozen", q, p, read
        for r, read in h.implied[p].items():
            yield "implied", r, p, read
        for q, read in h.value[p].items():
            yield "u2l", p, q, read


def _samples(model: Model, sources: Mapping[str, Source]) -> Iterator[tuple[str, str, Span]]:
    """Levels that draw from a source which reads another level's variable: reader, read, place."""
    data = {d.name: d for d in model.data}
    parts = {part.name: split.of for split in model.splits for part in split.parts}
    draws = {d.name: d for d in model.draws}
    seen = set()
    for level in model.levels:
        for name in level.draws:
            draw = draws[name]
            source = data.get(parts.get(draw.of, draw.of))
            for ref in source.samples if source else ():
                read = ref.path.split(".", 1)[0]
                if source and read != level.name and (level.name, read) not in seen:
                    seen.add((level.name, read))
                    yield level.name, read, _mention(ref, source.span, sources)


def _mention(ref: Ref, declared: Span, sources: Mapping[str, Source]) -> Span:
    """Where a data source names a variable: the first mention from its declaration on."""
    source = sources.get(declared.file)
    start = source.text.find(ref.path, declared.start) if source is not None else -1
    return declared._replace(start=start, end=start + len(ref.path)) if start >= 0 else declared


def _edge(kind: str, lower: str, upper: str, span: Span, sources: Mapping[str, Source]) -> Edge:
    source = sources.get(span.file)
    if source is None:
        return Edge(kind, lower, upper, span.file, 1, 1, "")
    line, column = source.position(span.start)
    text = " ".join(source.text[span.start : span.end].split())
    return Edge(kind, lower, upper, span.file, line, column, text)


def build(
    model: Model, hierarchy: Hierarchy, sources: Mapping[str, Source]
) -> networkx.MultiDiGraph[str]:
    """The graph: one node per level, one edge per dependency and kind, keyed by the kind.

    Node attributes: sense, variables (name and type as text), size (number of scalars, an int, the
    text of a formula in dims, or None for a network from Python), task (text or None).
    Edge attributes: those of `bettyc.plan.Edge`.
    Graph attributes: name; order, from the lowest level to the highest; below, the levels under
    each.
    """
    below = {p: tuple(sorted(hierarchy.below[p])) for p in hierarchy.order}
    return _assemble(model, hierarchy.order, below, edges(model, hierarchy, sources))


def from_plan(plan: Plan) -> networkx.MultiDiGraph[str]:
    """The same graph from a plan, which knows the edges but not the sources."""
    return _assemble(plan.model, plan.order, below(plan), plan.edges)


def below(plan: Plan) -> dict[str, tuple[str, ...]]:
    """The levels under each, sorted: below what is below it, by response or implied."""
    under: dict[str, set[str]] = {name: set() for name in plan.order}
    for name in plan.order:
        for edge in plan.edges:
            if edge.upper == name and edge.kind in ("l2u", "frozen", "implied"):
                under[name] |= {edge.lower} | under[edge.lower]
    return {name: tuple(sorted(found)) for name, found in under.items()}


def _assemble(
    model: Model,
    order: Sequence[str],
    below: Mapping[str, tuple[str, ...]],
    found: Iterable[Edge],
) -> networkx.MultiDiGraph[str]:
    import networkx

    graph: networkx.MultiDiGraph[str] = networkx.MultiDiGraph(
        name=model.name, order=tuple(order), below=dict(below)
    )
    levels = {level.name: level for level in model.levels}
    for name in order:
        level = levels[name]
        graph.add_node(
            name,
            sense=level.sense,
            variables=variables(level),
            size=size(level, dict(model.dims)),
            task=f"{level.task.name} in {level.task.of}" if level.task else None,
        )
    for edge in found:
        start, end = ends(edge)
        graph.add_edge(
            start, end, edge.kind, kind=edge.kind, lower=edge.lower, upper=edge.upper,
            file=edge.file, line=edge.line, column=edge.column, text=edge.text,
        )  # fmt: skip
    return graph


def ends(edge: Edge) -> tuple[str, str]:
    """From where to where values flow along an edge: from the level that is read to its reader."""
    if edge.kind in ("u2l", "sampling"):
        return edge.upper, edge.lower
    return edge.lower, edge.upper


def variables(level: Level) -> tuple[tuple[str, str], ...]:
    """Name and type of what a level owns; a network counts as one."""
    inside = {name for network in level.networks for name in network.variables}
    owned = [(v.span.start, v.name, str(v.type)) for v in level.variables if v.name not in inside]
    owned += [(n.span.start, n.name, str(n.type)) for n in level.networks]
    return tuple((name, type_) for _, name, type_ in sorted(owned))


def size(level: Level, sizes: Mapping[str, int | None]) -> int | str | None:
    """Number of scalars that a level owns: a number, a formula in dims, None if Python decides."""
    if any(network.extern for network in level.networks):
        return None
    known: dict[str, Dim] = {n: number(v) for n, v in sizes.items() if v is not None}
    total = number(0)
    for variable in level.variables:
        total = add(total, product(variable.type.shape).bind(known))
    return total.value if total.value is not None else str(total)


def paths(graph: networkx.MultiDiGraph[str], root: str, limit: int = 64) -> list[tuple[str, ...]]:
    """The ways in which a level's variables come back to its objective: `(tune, fit, tune)`.

    Each is a simple cycle through `root` along differentiated edges, among `root` and the levels
    below it. At most `limit` of them are listed: a ladder of k diamonds has 2^k.
    """
    inside = {root, *graph.graph["below"][root]}
    adjacent: dict[str, list[str]] = {name: [] for name in sorted(inside)}
    for start, end, kind in sorted(graph.edges(keys=True)):
        if kind in DIFFERENTIATED and {start, end} <= inside and end not in adjacent[start]:
            adjacent[start].append(end)
    found = islice(_circuits(adjacent, root), limit)
    return sorted(found, key=lambda path: (len(path), path))


def _circuits(
    adjacent: Mapping[str, Sequence[str]], root: str
) -> Generator[tuple[str, ...], None, None]:
    """Every simple cycle through `root`, with polynomial time between one and the next.

    Johnson, Finding all the elementary circuits of a directed graph, SIAM J. Comput. 4 (1975): a
    node from which the path at hand cannot be closed is blocked until a node behind it is freed.
    NetworkX has the algorithm for all cycles of a graph at once; those of one root are far fewer.
    """
    path: list[str] = []
    blocked: set[str] = set()
    waiting: dict[str, set[str]] = {name: set() for name in adjacent}

    def free(name: str) -> None:
        pending = [name]
        while pending:
            current = pending.pop()
            if current in blocked:
                blocked.remove(current)
                pending += waiting[current]
                waiting[current].clear()

    def extend(name: str) -> Generator[tuple[str, ...], None, bool]:
        closed = False
        path.append(name)
        blocked.add(name)
        for following in adjacent[name]:
            if following == root:
                yield (*path, root)
                closed = True
            elif following not in blocked:
                closed = (yield from extend(following)) or closed
        path.pop()
        if closed:
            free(name)
        else:
            for following in adjacent[name]:
                waiting[following].add(name)
        return closed

    yield from extend(root)


def between(found: Iterable[Edge], first: str, second: str) -> list[Edge]:
    """The edges that join two levels, in either direction."""
    return [e for e in found if {e.lower, e.upper} == {first, second}]


def graph_edges(graph: networkx.MultiDiGraph[str]) -> list[Edge]:
    """The edges of a built graph, sorted from the highest level to the lowest."""
    rank = {name: -i for i, name in enumerate(graph.graph["order"])}
    found = [_as_edge(attributes) for _, _, attributes in graph.edges(data=True)]
    return sorted(found, key=lambda e: (rank[e.upper], rank[e.lower], e.kind))


def _as_edge(attributes: Mapping[str, Any]) -> Edge:
    return Edge(**{name: attributes[name] for name in Edge.__dataclass_fields__})
