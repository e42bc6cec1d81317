"""Parts of a flat tensor taken in one call.

Autograd gives the derivative of a slice as a whole tensor of zeros with the slice in it, and adds
these up; the derivative of one split is one concatenation, whatever the number of parts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

SLICE = re.compile(r'theta\["([^"]+)"\]\[(\d+)(?::(\d+))?\]')


def split(values: Sequence[str], sizes: dict[str, int]) -> tuple[list[str], list[str]]:
    """Lines that split the flat tensors of which `values`, expressions of Python, take several
    slices, and the values in terms of the parts. sizes: elements of theta by level.
    """
    found: dict[str, set[tuple[int, int]]] = {}
    for value in values:
        for level, start, stop in SLICE.findall(value):
            found.setdefault(level, set()).add((int(start), int(stop or int(start) + 1)))
    lines = []
    names: dict[tuple[str, int, int], str] = {}
    for level, ranges in found.items():
        parts = _whole(sorted(ranges), sizes[level])
        if len(ranges) < 2 or parts is None:
            continue
        own = re.sub(r"\W", "_", level)
        names |= {(level, a, b): f"{own}_{a}" for a, b in ranges}
        left = ", ".join(names.get((level, a, b), "_") for a, b in parts)
        lines.append(f'{left} = theta["{level}"].split({[b - a for a, b in parts]})')

    def part(match: re.Match[str]) -> str:
        level, start, stop = match[1], int(match[2]), match[3]
        name = names.get((level, start, int(stop or start + 1)))
        if name is None:
            return match[0]
        return name if stop else f"{name}.view(())"

    return lines, [SLICE.sub(part, value) for value in values]


def _whole(ranges: Sequence[tuple[int, int]], size: int) -> list[tuple[int, int]] | None:
    """The ranges with those between them; None where two overlap."""
    parts: list[tuple[int, int]] = []
    end = 0
    for start, stop in ranges:
        if start < end:
            return None
        if start > end:
            parts.append((end, start))
        parts.append((start, stop))
        end = stop
    if end < size:
        parts.append((end, size))
    return parts
