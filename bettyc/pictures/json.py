"""The graph as JSON: levels, edges with their mentions, order and paths."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bettyc.graph import ends, graph_edges, paths
from bettyc.plan import Edge

if TYPE_CHECKING:
    import networkx

SCHEMA = 1


def draw(graph: networkx.MultiDiGraph[str]) -> str:
    """One object; lines and columns are 1-based."""
    return json.dumps(content(graph), ensure_ascii=False, indent=2)


def content(graph: networkx.MultiDiGraph[str]) -> dict[str, Any]:
    """The object as data; `size` is a number, a formula in dims, or null if Python decides."""
    order = graph.graph["order"]
    return {
        "schema": SCHEMA,
        "type": "graph",
        "program": graph.graph["name"],
        "order": list(order),
        "levels": [_level(graph, name) for name in order],
        "edges": [_edge(e) for e in graph_edges(graph)],
        "paths": {root: [list(p) for p in paths(graph, root)] for root in order},
    }


def _level(graph: networkx.MultiDiGraph[str], name: str) -> dict[str, Any]:
    node = graph.nodes[name]
    return {
        "name": name,
        "sense": node["sense"],
        "task": node["task"],
        "size": node["size"],
        "below": list(graph.graph["below"][name]),
        "variables": [{"name": n, "type": t} for n, t in node["variables"]],
    }


def _edge(edge: Edge) -> dict[str, Any]:
    start, end = ends(edge)
    return {
        "kind": edge.kind,
        "from": start,
        "to": end,
        "lower": edge.lower,
        "upper": edge.upper,
        "file": edge.file,
        "line": edge.line,
        "column": edge.column,
        "text": edge.text,
    }
