"""The graph as text: the order, a row per edge with the mention that made it, the paths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bettyc.graph import MEANING, ends, graph_edges, paths
from bettyc.plan import Edge

if TYPE_CHECKING:
    import networkx

LIMIT = 16  # paths that are listed per level


def draw(graph: networkx.MultiDiGraph[str]) -> str:
    """What `bettyc graph` prints."""
    lines = [f"program  {graph.graph['name']}", f"order    {order(graph)}"]
    found = graph_edges(graph)
    if found:
        lines += ["", "edges    from the level that is read to the level that reads", *rows(found)]
        kinds = sorted({e.kind for e in found}, key=list(MEANING).index)
        lines += ["", *(f"  {kind:<9}{MEANING[kind]}" for kind in kinds)]
    routes = _paths(graph)
    if routes:
        lines += ["", "paths    along which a hypergradient flows", *routes]
    return "\n".join(lines)


def order(graph: networkx.MultiDiGraph[str]) -> str:
    """`pretrain < finetune < reweight`; a comma between levels of which neither is above."""
    below = graph.graph["below"]
    text = ""
    previous = None
    for name in graph.graph["order"]:
        joint = "" if previous is None else " < " if previous in below[name] else ", "
        text += joint + name
        previous = name
    return text


def rows(found: Sequence[Edge]) -> list[str]:
    """One line per edge, in columns."""
    cells = [(*ends(e), e.kind, e.text, f"{e.file}:{e.line}:{e.column}") for e in found]
    widths = [max(len(row[i]) for row in cells) for i in range(4)]
    return [
        f"  {a:<{widths[0]}} -> {b:<{widths[1]}}   {kind:<{widths[2]}}   {text:<{widths[3]}}   {at}"
        for a, b, kind, text, at in cells
    ]


def why(found: Sequence[Edge], first: str, second: str) -> str:
    """The answer to `bettyc graph --why fit:tune`."""
    if not found:
        return f"`{first}` and `{second}` do not read each other"
    lines = []
    for e in found:
        start, end = ends(e)
        place = f"{e.file}:{e.line}:{e.column}"
        lines.append(f"{start} -> {end}  {e.kind}  because of `{e.text}` at {place}")
        lines.append(f"    {MEANING[e.kind]}")
    return "\n".join(lines)


def _paths(graph: networkx.MultiDiGraph[str]) -> list[str]:
    lines = []
    for root in reversed(graph.graph["order"]):
        found = paths(graph, root, LIMIT + 1)
        lines += [f"  {root}: {' -> '.join(path)}" for path in found[:LIMIT]]
        if len(found) > LIMIT:
            lines.append(f"  {root}: and more")
    return lines
