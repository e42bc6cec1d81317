"""The graph as a Mermaid flowchart, which repository hosts and notebooks draw."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bettyc.graph import ends, graph_edges

if TYPE_CHECKING:
    import networkx

ARROW = {"l2u": "-->", "u2l": "-.->", "implied": "-.->", "frozen": "--o", "sampling": "-.->"}


def draw(graph: networkx.MultiDiGraph[str]) -> str:
    """A `flowchart`; nodes are numbered, since Mermaid reserves words such as `end`."""
    numbers = {name: f"L{i}" for i, name in enumerate(graph.graph["order"])}
    lines = ["flowchart BT"]
    for name, number in reversed(numbers.items()):
        node = graph.nodes[name]
        label = [f"<b>{escape(name)}</b>", node["sense"]]
        label += [escape(f"{n} : {t}") for n, t in node["variables"]]
        lines.append(f'  {number}["{"<br/>".join(label)}"]')
    for edge in graph_edges(graph):
        start, end = ends(edge)
        text = f'|"{escape(edge.text)}"|' if edge.text else ""
        lines.append(f"  {numbers[start]} {ARROW[edge.kind]}{text} {numbers[end]}")
    return "\n".join(lines)


def escape(text: str) -> str:
    """Every character that Mermaid or Markdown could read, as `#code;`."""
    return re.sub(r"[^\w .:=()-]", lambda found: f"#{ord(found[0])};", text)
