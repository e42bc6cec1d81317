"""The graph in the DOT language of Graphviz, the highest level at the top."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bettyc.graph import ends, graph_edges

if TYPE_CHECKING:
    import networkx

STYLE = {
    "l2u": "solid",
    "u2l": "dashed",
    "implied": "dotted",
    "frozen": "solid",
    "sampling": "dotted",
}


def draw(graph: networkx.MultiDiGraph[str]) -> str:
    """A `digraph`; feed it to `dot -Tpdf`."""
    lines = [
        f"digraph {quote(graph.graph['name'])} {{",
        "  rankdir = BT;",
        '  node [shape = box, style = rounded, fontname = "Helvetica"];',
        '  edge [fontname = "Courier", fontsize = 11];',
    ]
    for name in graph.graph["order"]:
        node = graph.nodes[name]
        label = [name, node["sense"], *(f"{n} : {t}" for n, t in node["variables"])]
        lines.append(f"  {quote(name)} [label = {quote(chr(10).join(label))}];")
    for edge in graph_edges(graph):
        start, end = ends(edge)
        options = {"label": edge.text, "style": STYLE[edge.kind], "class": edge.kind}
        if edge.kind in ("u2l", "sampling"):
            options["constraint"] = "false"
        if edge.kind == "frozen":
            options["arrowhead"] = "empty"
        listed = ", ".join(f"{key} = {quote(value)}" for key, value in options.items())
        lines.append(f"  {quote(start)} -> {quote(end)} [{listed}];")
    return "\n".join([*lines, "}"])


def quote(text: str) -> str:
    """A quoted string; a line break becomes `\\n`, which Graphviz centres."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
