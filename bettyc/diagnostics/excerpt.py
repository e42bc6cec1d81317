"""Excerpts of the source with marks under it: carets, dashes, bars for spans of several lines.

    17 |   minimize nll(w, train)
       |            ---    ^^^^^ remark of the rightmost mark
       |            |
       |            remark of a mark to its left

Marks are 1-based lines and 0-based display columns; `end` is exclusive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from bettyc.diagnostics.span import Source, Span
from bettyc.diagnostics.text import Row, cells

# A span of more lines than this shows only its first and last.
TALLEST = 6
# Columns of context kept left of the first mark when a long line is cut.
CONTEXT = 12


class Mark(NamedTuple):
    """Where a label points, resolved to lines and display columns."""

    first: int
    start: int
    last: int
    end: int
    text: str
    style: str

    @property
    def glyph(self) -> str:
        return "-" if self.style == "secondary" else "^"


def mark(source: Source, span: Span, text: str, style: str) -> Mark:
    """The mark of a span; an empty span is shown one column wide."""
    first, start = source.position(span.start)
    last, end = source.position(max(span.start, span.end - 1))
    _, first_columns = cells(source.line(first))
    _, last_columns = cells(source.line(last))
    # A span may end in a line break, which has no column of its own.
    start_column = first_columns[min(start - 1, len(first_columns) - 1)]
    end_column = last_columns[min(end, len(last_columns) - 1)]
    if first == last:
        end_column = max(end_column, start_column + 1)
    return Mark(first, start_column, last, end_column, text, style)


def excerpt(source: Source, marks: Sequence[Mark], gutter: int, width: int | None) -> list[Row]:
    """The rows that show `marks`; `gutter` is the room for line numbers."""
    tall = sorted((m for m in marks if m.first != m.last), key=lambda m: (m.first, -m.last))
    flat = [m for m in marks if m.first == m.last]
    rows: list[Row] = []
    previous = None
    for number in _shown(marks):
        if previous is not None and number > previous + 1:
            rows.append(Row().put(0, "...", "gutter"))
        here = [m for m in flat if m.first == number]
        rows += _line(source, number, here, tall, gutter, width)
        previous = number
    return rows


def _shown(marks: Sequence[Mark]) -> list[int]:
    """The line numbers to print; a gap of one line is filled rather than elided."""
    numbers: set[int] = set()
    for m in marks:
        whole = m.last - m.first < TALLEST
        numbers.update(range(m.first, m.last + 1) if whole else (m.first, m.last))
    filled = {n + 1 for n in numbers if n + 2 in numbers}
    return sorted(numbers | filled)


def margin(gutter: int, number: int | None = None, sign: str = "|") -> Row:
    """The left margin of a row: the line number, if any, and a rule."""
    label = f"{number:>{gutter}}" if number is not None else " " * gutter
    return Row().put(0, f"{label} {sign}", "gutter")


def _line(
    source: Source,
    number: int,
    here: list[Mark],
    tall: list[Mark],
    gutter: int,
    width: int | None,
) -> Iterator[Row]:
    """A source line with everything drawn below it."""
    bars = len(tall) + 1 if tall else 0
    left = gutter + 3 + bars
    columns, _ = cells(source.line(number))
    indent = next((i for i, cell in enumerate(columns) if cell != " "), 0)
    opening = [m for m in tall if m.first == number]
    # A span that starts the line needs no underline: its bar begins beside the text.
    flush = [m for m in opening if m.start <= indent]
    active = [m for m in tall if m.first < number <= m.last]
    shift, shown = _window(columns, here, width and width - left, cut_left=not tall)

    def rule(numbered: int | None = None) -> Row:
        row = margin(gutter, numbered)
        for m in active:
            row.put(gutter + 3 + tall.index(m), "|", m.style)
        return row

    source_row = rule(number)
    for m in flush:
        source_row.put(gutter + 3 + tall.index(m), "/", m.style)
    yield source_row.put(left, shown)
    active += flush
    for row in _flat_marks(here, left - shift, rule):
        yield row
    for m in (m for m in opening if m not in flush):
        yield _edge(rule(), gutter + 3 + tall.index(m) + 1, left + m.start, m)
        active.append(m)
    for m in reversed([m for m in tall if m.last == number]):
        row = _edge(rule(), gutter + 3 + tall.index(m) + 1, left + m.end - 1, m)
        yield row.put(left + m.end + 1, m.text, m.style) if m.text else row
        active.remove(m)


def _edge(row: Row, start: int, end: int, m: Mark) -> Row:
    """The underline from a bar to the column where a tall span starts or ends."""
    return row.put(start, "_" * (end - start), m.style).put(end, m.glyph, m.style)


def _flat_marks(here: list[Mark], left: int, rule: Callable[[], Row]) -> Iterator[Row]:
    """The row of carets, with the rightmost remark beside it and the others hanging below."""
    if not here:
        return
    carets = rule()
    for m in sorted(here, key=lambda m: m.style != "secondary"):
        carets.put(left + m.start, m.glyph * (m.end - m.start), m.style)
    remarks = sorted((m for m in here if m.text), key=lambda m: m.start, reverse=True)
    if remarks and remarks[0].end == max(m.end for m in here):
        beside = remarks.pop(0)
        carets.put(left + beside.end + 1, beside.text, beside.style)
    yield carets
    if remarks:
        yield _hanging(rule(), remarks, left)
    while remarks:
        m = remarks.pop(0)
        rest = [other for other in remarks if other.start < m.start]
        yield _hanging(rule(), rest, left).put(left + m.start, m.text, m.style)


def _hanging(row: Row, marks: Sequence[Mark], left: int) -> Row:
    for m in marks:
        row.put(left + m.start, "|", m.style)
    return row


def _window(
    columns: list[str], here: list[Mark], room: int | None, *, cut_left: bool
) -> tuple[int, str]:
    """The part of a long line that shows its marks: by how much it is shifted, and its text."""
    if room is None or len(columns) <= room:
        return 0, "".join(columns)
    first = min((m.start for m in here), default=0)
    last = max((m.end for m in here), default=0)
    start = max(0, first - CONTEXT) if cut_left and last > room - 1 else 0
    body = columns[start:]
    if start:
        # The ellipsis takes a column; half of a cut wide character becomes a blank.
        body[0] = "…"
        body[1:2] = [cell or " " for cell in body[1:2]]
    end = max(room, last - start + 1)
    if len(body) > end:
        body[end - 1 :] = "…"
    return start, "".join(body)
