"""A bar chart of times as SVG, logarithmic, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from measure import Row

LINE, LEFT, WIDTH = 24, 240, 720


def bars(title: str, unit: str, factor: float, rows: Sequence[Row]) -> str:
    """One bar per row, shortest first; `factor` turns seconds per round into `unit`."""
    rows = sorted(rows, key=lambda row: row.median)
    values = [row.median * factor for row in rows]
    low, high = math.log10(min(values)) - 0.3, math.log10(max(values)) + 0.1
    height = LINE * (len(rows) + 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="8" y="17" font-weight="bold">{escape(title)}, {escape(unit)}</text>',
    ]
    for i, (row, value) in enumerate(zip(rows, values, strict=True)):
        y = LINE * (i + 1)
        length = (WIDTH - LEFT - 90) * (math.log10(value) - low) / (high - low)
        colour = "#2a6f97" if row.name.startswith("bettyc") else "#b0b7bf"
        parts += [
            f'<text x="{LEFT - 8}" y="{y + 17}" text-anchor="end">{escape(row.name)}</text>',
            f'<rect x="{LEFT}" y="{y + 4}" width="{length:.1f}" height="{LINE - 8}" '
            f'fill="{colour}"/>',
            f'<text x="{LEFT + length + 6:.1f}" y="{y + 17}">{value:.3g}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"
