"""Where levels and edges go in a drawing: layered, the highest levels in the top row.

The steps of Sugiyama, Tagawa and Toda (1981): rows from the hierarchy, a way point in every row
that an edge passes, an order within each row by barycentres, then x positions that come as close
to their neighbours as the order allows (least squares, by pooling adjacent violators).
All lengths are pixels; x is a centre, y a top.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from bettyc.graph import ends
from bettyc.plan import Edge

SPACE = 36  # between neighbours in a row
GAP = 84  # between rows
LANE = 22  # between the two directions of one pair of levels
SWEEPS = 8


@dataclass(frozen=True)
class Wire:
    """One edge: where it runs from start to end, and where its label stands.

    points: ends and way points; anchor: "start" or "end", the side of the label that is at `label`.
    """

    edge: Edge
    points: tuple[tuple[float, float], ...]
    label: tuple[float, float]
    anchor: str


@dataclass
class Item:
    """A level, or a way point of a bundle, in a row; `left` and `right` reach from its centre."""

    row: int
    left: float
    right: float
    height: float = 0.0
    x: float = 0.0
    above: list[Item] = field(default_factory=list)
    under: list[Item] = field(default_factory=list)


@dataclass
class Bundle:
    """All edges between two levels, side by side. `items` lead from the upper to the lower."""

    upper: str
    lower: str
    lanes: list[tuple[Edge, float, str]]  # edge, offset from the middle, side of its label
    left: float
    right: float
    items: list[Item] = field(default_factory=list)


@dataclass(frozen=True)
class Layout:
    """`boxes` gives x of the centre, y of the top, width and height of each level."""

    boxes: Mapping[str, tuple[float, float, float, float]]
    wires: tuple[Wire, ...]
    width: float
    height: float


def layout(
    order: Sequence[str],
    below: Mapping[str, Sequence[str]],
    boxes: Mapping[str, tuple[float, float]],
    edges: Sequence[Edge],
    labels: Mapping[Edge, float],
) -> Layout:
    """Place levels of the given (width, height) and edges with labels of the given widths.

    order: levels from the lowest to the highest; below: the levels under each.
    """
    rank: dict[str, int] = {}
    for name in order:
        rank[name] = 1 + max((rank[q] for q in below[name]), default=-1)
    top = max(rank.values(), default=0)
    items = {n: Item(top - rank[n], boxes[n][0] / 2, boxes[n][0] / 2, boxes[n][1]) for n in order}
    rows: list[list[Item]] = [[] for _ in range(top + 1)]
    for name in reversed(order):
        rows[items[name].row].append(items[name])
    bundles = _bundles(edges, items, labels)
    for bundle in bundles:
        _thread(bundle, items, rows)
    _widen(items, bundles)
    _arrange(rows)
    tops = _heights(rows, bundles)
    return _measure(items, bundles, tops, boxes)


def _bundles(
    edges: Sequence[Edge], items: Mapping[str, Item], labels: Mapping[Edge, float]
) -> list[Bundle]:
    pairs: dict[tuple[str, str], list[Edge]] = {}
    for edge in edges:
        pair = (edge.upper, edge.lower)
        if items[pair[0]].row > items[pair[1]].row:
            pair = (edge.lower, edge.upper)
        pairs.setdefault(pair, []).append(edge)
    return [_lanes(upper, lower, found, labels) for (upper, lower), found in pairs.items()]


def _lanes(upper: str, lower: str, edges: Sequence[Edge], labels: Mapping[Edge, float]) -> Bundle:
    """Values that flow down run on the left with their labels, values that flow up on the right."""
    lanes: list[tuple[Edge, float, str]] = []
    both = len({ends(e)[0] for e in edges}) == 2
    reach = {"end": LANE / 2 if both else 0.0, "start": LANE / 2 if both else 0.0}
    for edge in edges:
        side = "end" if ends(edge)[0] == upper else "start"
        lanes.append((edge, -reach[side] if side == "end" else reach[side], side))
        reach[side] += labels[edge] + 14
    return Bundle(upper, lower, lanes, reach["end"], reach["start"])


def _thread(bundle: Bundle, items: Mapping[str, Item], rows: list[list[Item]]) -> None:
    """Give the bundle a way point in every row between its levels, and link neighbours."""
    upper, lower = items[bundle.upper], items[bundle.lower]
    points = [Item(row, bundle.left, bundle.right) for row in range(upper.row + 1, lower.row)]
    for point in points:
        rows[point.row].append(point)
    bundle.items = [upper, *points, lower]
    if upper.row == lower.row:
        return
    for a, b in pairwise(bundle.items):
        a.under.append(b)
        b.above.append(a)


def _widen(items: Mapping[str, Item], bundles: Sequence[Bundle]) -> None:
    """A level is given as much room as the labels of its widest bundle need."""
    for name, item in items.items():
        own = [b for b in bundles if name in (b.upper, b.lower)]
        item.left = max([item.left, *(b.left for b in own)])
        item.right = max([item.right, *(b.right for b in own)])


def _arrange(rows: list[list[Item]]) -> None:
    """Order within rows, then positions."""
    for row in rows:
        for place, item in enumerate(row):
            item.x = float(place)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else reversed(rows):
            row.sort(key=lambda item: _centre(item.above if down else item.under, item.x))
            for place, item in enumerate(row):
                item.x = float(place)
    for sweep in range(2 * SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            _place(row, [_centre(i.above + i.under, i.x) if sweep else i.x for i in row])


def _centre(around: Sequence[Item], otherwise: float) -> float:
    return sum(i.x for i in around) / len(around) if around else otherwise


def _place(row: Sequence[Item], wanted: Sequence[float], space: float = SPACE) -> None:
    """Move each item of a row as near to where it is wanted as its neighbours allow."""
    offsets = [0.0]
    for a, b in pairwise(row):
        offsets.append(offsets[-1] + a.right + space + b.left)
    blocks: list[tuple[float, int]] = []  # mean, length
    for want, offset in zip(wanted, offsets, strict=True):
        mean, count = want - offset, 1
        while blocks and blocks[-1][0] > mean:
            other, length = blocks.pop()
            mean, count = (mean * count + other * length) / (count + length), count + length
        blocks.append((mean, count))
    positions = [mean for mean, length in blocks for _ in range(length)]
    for item, position, offset in zip(row, positions, offsets, strict=True):
        item.x = position + offset


def _heights(rows: Sequence[Sequence[Item]], bundles: Sequence[Bundle]) -> list[float]:
    """The top of each row; a gap grows with the slant of what crosses it."""
    slant = [0.0] * len(rows)
    for bundle in bundles:
        for a, b in pairwise(bundle.items):
            slant[a.row] = max(slant[a.row], abs(a.x - b.x))
    tops = [0.0]
    for row, lean in zip(rows, slant, strict=True):
        tops.append(tops[-1] + max(i.height for i in row) + GAP + min(90.0, lean / 5))
    return tops


def _ports(
    bundles: Sequence[Bundle],
    items: Mapping[str, Item],
    boxes: Mapping[str, tuple[float, float]],
) -> dict[tuple[int, str], float]:
    """Where on a level each bundle ends: towards where it leads, apart from its neighbours."""
    ports: dict[tuple[int, str], float] = {}
    for name, item in items.items():
        for side in ("upper", "lower"):
            own = [
                (b.items[1 if side == "upper" else -2].x, i, _core(b))
                for i, b in enumerate(bundles)
                if getattr(b, side) == name and b.items[0].row != b.items[-1].row
            ]
            if not own:
                continue
            own.sort()
            half = boxes[name][0] / 2 - 14
            spots = [
                Item(0, core[0] + 6, core[1] + 6, x=max(item.x - half, min(item.x + half, x)))
                for x, _, core in own
            ]
            _place(spots, [spot.x for spot in spots], 0.0)
            _inside(spots, item.x - half, item.x + half)
            for spot, (_, index, _) in zip(spots, own, strict=True):
                ports[index, side] = spot.x
    return ports


def _core(bundle: Bundle) -> tuple[float, float]:
    """How far the lanes of a bundle reach to the left and right of its middle, labels aside."""
    offsets = [offset for _, offset, _ in bundle.lanes]
    return -min(offsets, default=0.0), max(offsets, default=0.0)


def _inside(spots: Sequence[Item], low: float, high: float) -> None:
    """Move the spots together so that the lanes at both ends stay on the side of the box."""
    low, high = low + spots[0].left - 6, high - spots[-1].right + 6
    first, last = spots[0].x, spots[-1].x
    if last - first > high - low:  # too many: squeeze them
        scale = max(high - low, 0.0) / (last - first)
        for spot in spots:
            spot.x = low + (spot.x - first) * scale
        return
    move = max(low - first, 0.0) + min(high - last, 0.0)
    for spot in spots:
        spot.x += move


def _measure(
    items: Mapping[str, Item],
    bundles: Sequence[Bundle],
    tops: Sequence[float],
    boxes: Mapping[str, tuple[float, float]],
) -> Layout:
    """Final coordinates, moved so that all of them are positive."""
    tallest = [0.0] * len(tops)
    for item in items.values():
        tallest[item.row] = max(tallest[item.row], item.height)
    ports = _ports(bundles, items, boxes)
    wires = [w for i, b in enumerate(bundles) for w in _wires(i, b, items, ports, tops, tallest)]
    lefts = [items[n].x - boxes[n][0] / 2 for n in items]
    rights = [items[n].x + boxes[n][0] / 2 for n in items]
    for bundle in bundles:
        for item in bundle.items[1:-1] or [bundle.items[0], bundle.items[-1]]:
            lefts.append(item.x - bundle.left)
            rights.append(item.x + bundle.right)
    shift = -min(lefts, default=0.0)
    placed = {
        n: (i.x + shift, tops[i.row] + (tallest[i.row] - i.height) / 2, *boxes[n])
        for n, i in items.items()
    }
    moved = tuple(
        Wire(
            w.edge,
            tuple((x + shift, y) for x, y in w.points),
            (w.label[0] + shift, w.label[1]),
            w.anchor,
        )
        for w in wires
    )
    bottom = max((y + h for _, y, _, h in placed.values()), default=0.0)
    return Layout(placed, moved, max(rights, default=0.0) + shift, bottom)


def _wires(
    index: int,
    bundle: Bundle,
    items: Mapping[str, Item],
    ports: Mapping[tuple[int, str], float],
    tops: Sequence[float],
    tallest: Sequence[float],
) -> list[Wire]:
    upper, lower = items[bundle.upper], items[bundle.lower]
    if upper.row == lower.row:
        return _level_wires(bundle, upper, lower, tops, tallest)

    def box_top(item: Item) -> float:
        return tops[item.row] + (tallest[item.row] - item.height) / 2

    spine = [(ports[index, "upper"], box_top(upper) + upper.height)]
    for point in bundle.items[1:-1]:
        spine.append((point.x, tops[point.row]))
        spine.append((point.x, tops[point.row] + tallest[point.row]))
    spine.append((ports[index, "lower"], box_top(lower)))
    # The label stands where the wire is straight: beside a way point, or in the middle of the gap.
    a, b = (spine[1], spine[2]) if len(spine) > 2 else (spine[0], spine[1])
    middle = ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2)
    # In half the height of a letter a slanted wire moves towards its label.
    clear = 8 + min(44.0, 18 * abs(a[0] - b[0]) / max(1.0, b[1] - a[1]))
    wires = []
    for edge, offset, side in bundle.lanes:
        points = [(x + offset, y) for x, y in spine]
        if ends(edge)[0] != bundle.upper:
            points.reverse()
        gap = -clear if side == "end" else clear
        wires.append(Wire(edge, tuple(points), (middle[0] + offset + gap, middle[1]), side))
    return wires


def _level_wires(
    bundle: Bundle, a: Item, b: Item, tops: Sequence[float], tallest: Sequence[float]
) -> list[Wire]:
    """Edges between two levels of one row leave and enter at the facing sides."""
    first, second = (a, b) if a.x < b.x else (b, a)
    y = tops[a.row] + tallest[a.row] / 2
    wires = []
    for number, (edge, _, _) in enumerate(bundle.lanes):
        at = y + number * LANE
        points = [(first.x + first.left, at), (second.x - second.left, at)]
        if (ends(edge)[0] == bundle.upper) != (first is a):
            points.reverse()
        wires.append(Wire(edge, tuple(points), ((first.x + second.x) / 2, at - 8), "middle"))
    return wires
