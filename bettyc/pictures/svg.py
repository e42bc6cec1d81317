"""The graph as a self-contained SVG drawing, fit for a paper, in light and dark.

A solid line with a star is a response that is differentiated, a dashed line a value that a lower
level reads, a dotted line a data source. Nothing is loaded from elsewhere: fonts are the reader's,
and room for text is reckoned from generous letter widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from bettyc.graph import MEANING, ends, graph_edges
from bettyc.pictures.layout import Layout, Wire, layout
from bettyc.pictures.text import order
from bettyc.plan import Edge

if TYPE_CHECKING:
    import networkx

MARGIN = 28
MONO = 7.3  # width of a letter of the monospaced font at 12 px
SANS = 8.6  # of the bold title at 15 px
SMALL = 6.4  # of plain text at 12 px
LINE = 18
MOST = 6  # variables shown in a box
LEGEND = {
    "l2u": "response, differentiated",
    "u2l": "value that the level below reads",
    "implied": "below, implied by a response",
    "frozen": "response as a constant",
    "sampling": "through data, no gradient",
}
STYLE = """\
svg { font-family: Helvetica, Arial, "Liberation Sans", sans-serif; font-size: 12px; }
.page { fill: #ffffff; } .box { fill: #f6f8fb; stroke: #475467; stroke-width: 1.2; }
.name { font-size: 15px; font-weight: bold; fill: #101828; } .plain { fill: #475467; }
.code { font-family: Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #101828; }
.rule { stroke: #d0d5dd; }
.halo { paint-order: stroke; stroke: #ffffff; stroke-width: 5px; stroke-linejoin: round; }
.wire { fill: none; stroke-width: 1.7; } .head { stroke: none; }
.l2u { stroke: #1d4ed8; } .l2u.head, text.l2u { fill: #1d4ed8; }
.u2l { stroke: #b45309; stroke-dasharray: 7 4; } .u2l.head, text.u2l { fill: #b45309; }
.implied { stroke: #667085; stroke-dasharray: 2 4; } .implied.head, text.implied { fill: #667085; }
.frozen { stroke: #0e7490; } .frozen.head, text.frozen { fill: #0e7490; }
.sampling { stroke: #667085; stroke-dasharray: 1.5 5; stroke-linecap: round; }
.sampling.head, text.sampling { fill: #667085; }
.head { stroke-dasharray: none; } .star { fill: #ffffff; stroke-width: 1.4; }
text.label { stroke-dasharray: none; stroke: #ffffff; }
@media (prefers-color-scheme: dark) {
  .page { fill: #0d1117; } .box { fill: #161b22; stroke: #98a2b3; } .star { fill: #0d1117; }
  .name, .code { fill: #f2f4f7; } .plain { fill: #98a2b3; } .rule { stroke: #344054; }
  .halo, text.label { stroke: #0d1117; }
  .l2u { stroke: #84adff; } .l2u.head, text.l2u { fill: #84adff; }
  .u2l { stroke: #fdb022; } .u2l.head, text.u2l { fill: #fdb022; }
  .frozen { stroke: #67e3f9; } .frozen.head, text.frozen { fill: #67e3f9; }
  .implied, .sampling { stroke: #98a2b3; }
  .implied.head, .sampling.head, text.implied, text.sampling { fill: #98a2b3; }
}
"""


def draw(graph: networkx.MultiDiGraph[str]) -> str:
    """The drawing, with a title and a description for readers who do not see it."""
    edges = graph_edges(graph)
    content = {name: _content(graph.nodes[name]) for name in graph.graph["order"]}
    boxes = {
        name: (_box_width(name, graph.nodes[name], lines), _box_height(lines))
        for name, lines in content.items()
    }
    labels = {e: MONO * len(_label(e)) for e in edges}
    plan = layout(graph.graph["order"], graph.graph["below"], boxes, edges, labels)
    kinds = [k for k in LEGEND if any(e.kind == k for e in edges)]
    legend, legend_width, legend_height = _legend(kinds, max(plan.width, 420.0))
    width = max(plan.width, legend_width) + 2 * MARGIN
    height = plan.height + legend_height + 2 * MARGIN
    left = (width - plan.width) / 2
    name = escape(graph.graph["name"])
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-labelledby="title desc">',
        f'<title id="title">Levels of {name}</title>',
        f'<desc id="desc">{escape(describe(graph, edges))}</desc>',
        f"<style>\n{STYLE}</style>",
        '<rect class="page" width="100%" height="100%"/>',
        f'<g transform="translate({left:.1f} {MARGIN})">',
        *_wires(plan),
        *(line for n in content for line in _box(n, graph.nodes[n], content[n], plan)),
        *_stars(plan),
        *_labels(plan),
        "</g>",
        f'<g transform="translate({MARGIN} {plan.height + MARGIN + 26:.1f})">',
        *legend,
        "</g>",
        "</svg>",
    ])  # fmt: skip


def describe(graph: networkx.MultiDiGraph[str], edges: Sequence[Edge]) -> str:
    """The drawing in words."""
    sentences = [f"Levels from the lowest to the highest: {order(graph)}."]
    for edge in edges:
        start, end = ends(edge)
        sentences.append(f"{start} to {end}, {edge.text or edge.kind} ({MEANING[edge.kind]}).")
    return " ".join(sentences)


def _content(node: Any) -> list[str]:
    """The lines of a box under its name: what the level owns."""
    owned = [f"{name} : {type_}" for name, type_ in node["variables"]]
    if len(owned) > MOST:
        owned = [*owned[: MOST - 1], f"and {len(owned) - MOST + 1} more"]
    return owned


def _subtitle(node: Any) -> str:
    sense: str = node["sense"]
    return f"{sense}, for each {node['task']}" if node["task"] else sense


def _box_width(name: str, node: Any, lines: Sequence[str]) -> float:
    widths = [SANS * len(name), SMALL * len(_subtitle(node)), *(MONO * len(line) for line in lines)]
    return max(132.0, 28 + max(widths))


def _box_height(lines: Sequence[str]) -> float:
    return 46.0 + (10 + LINE * len(lines) if lines else 0)


def _box(name: str, node: Any, lines: Sequence[str], plan: Layout) -> list[str]:
    x, y, width, height = plan.boxes[name]
    left = x - width / 2
    drawn = [
        f'<rect class="box" x="{left:.1f}" y="{y:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}" rx="7"/>',
        f'<text class="name" x="{x:.1f}" y="{y + 20:.1f}" text-anchor="middle">'
        f"{escape(name)}</text>",
        f'<text class="plain" x="{x:.1f}" y="{y + 36:.1f}" text-anchor="middle">'
        f"{escape(_subtitle(node))}</text>",
    ]
    if lines:
        rule = y + 45
        drawn.append(
            f'<line class="rule" x1="{left + 10:.1f}" y1="{rule:.1f}" '
            f'x2="{left + width - 10:.1f}" y2="{rule:.1f}"/>'
        )
    for number, line in enumerate(lines):
        drawn.append(
            f'<text class="code" x="{x:.1f}" y="{y + 62 + LINE * number:.1f}" '
            f'text-anchor="middle">{escape(line)}</text>'
        )
    return drawn


def _wires(plan: Layout) -> list[str]:
    return [line for wire in plan.wires for line in _wire(wire)]


def _wire(wire: Wire) -> list[str]:
    """The line, and an arrow head where it ends."""
    kind = wire.edge.kind
    points = list(wire.points)
    (x0, y0), (x1, y1) = points[-2], points[-1]
    level = x0 != x1 and y0 == y1
    dx, dy = ((1 if x1 > x0 else -1), 0) if level else (0, 1 if y1 > y0 else -1)
    points[-1] = (x1 - 8 * dx, y1 - 8 * dy)
    head = " ".join(
        f"{x:.1f},{y:.1f}"
        for x, y in (
            (x1, y1),
            (x1 - 10 * dx - 4.5 * dy, y1 - 10 * dy - 4.5 * dx),
            (x1 - 10 * dx + 4.5 * dy, y1 - 10 * dy + 4.5 * dx),
        )
    )
    drawn = [
        f'<path class="wire {kind}" d="{_curve(points)}"/>',
        f'<polygon class="{kind} head" points="{head}"/>',
    ]
    return drawn


def _stars(plan: Layout) -> list[str]:
    """Drawn over the boxes, on whose borders they sit."""
    starred = [w for w in plan.wires if w.edge.kind in ("l2u", "frozen")]
    return [line for wire in starred for line in _star(*wire.points[0], wire.edge.kind)]


def _curve(points: Sequence[tuple[float, float]]) -> str:
    text = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x0, y0), (x1, y1) in pairwise(points):
        if abs(x0 - x1) < 0.05 or y0 == y1:
            text += f" L{x1:.1f} {y1:.1f}"
        else:
            bend = (y0 + y1) / 2
            text += f" C{x0:.1f} {bend:.1f} {x1:.1f} {bend:.1f} {x1:.1f} {y1:.1f}"
    return text


def _star(x: float, y: float, kind: str) -> list[str]:
    """The star of `fit*.w`, on the border of the level whose solution is read."""
    arms = " ".join(
        f"M{x - a:.1f} {y - b:.1f} L{x + a:.1f} {y + b:.1f}"
        for a, b in ((0, 4.2), (3.64, 2.1), (3.64, -2.1))
    )
    return [
        f'<circle class="star {kind}" cx="{x:.1f}" cy="{y:.1f}" r="7"/>',
        f'<path class="wire {kind}" d="{arms}"/>',
    ]


def _label(edge: Edge) -> str:
    text = {"implied": "implied", "sampling": "sampling"}.get(edge.kind, edge.text or edge.kind)
    return text if len(text) <= 40 else text[:39] + "…"


def _labels(plan: Layout) -> list[str]:
    return [
        f'<text class="code label halo {w.edge.kind}" x="{w.label[0]:.1f}" '
        f'y="{w.label[1] + 4:.1f}" text-anchor="{w.anchor}">{escape(_label(w.edge))}</text>'
        for w in plan.wires
    ]


def _legend(kinds: Sequence[str], width: float) -> tuple[list[str], float, float]:
    """Samples of the lines in use, flowing into as many rows as they need; its width and height."""
    drawn: list[str] = []
    x, y, reach = 0.0, 0.0, 0.0
    for kind in kinds:
        text = LEGEND[kind]
        need = 52 + SMALL * len(text) + 20
        if x and x + need > width:
            x, y = 0.0, y + 22
        drawn.append(f'<path class="wire {kind}" d="M{x:.1f} {y:.1f} L{x + 34:.1f} {y:.1f}"/>')
        drawn.append(
            f'<polygon class="{kind} head" points="{x + 42:.1f},{y:.1f} '
            f'{x + 32:.1f},{y - 4.5:.1f} {x + 32:.1f},{y + 4.5:.1f}"/>'
        )
        if kind in ("l2u", "frozen"):
            drawn += _star(x + 7, y, kind)
        drawn.append(f'<text class="plain" x="{x + 50:.1f}" y="{y + 4:.1f}">{escape(text)}</text>')
        x += need
        reach = max(reach, x)
    return drawn, reach, (y + 34 if kinds else 0.0)
