"""What a suggestion would make of the source: the changed lines, with the change marked.

Insertions are underlined with `+`, replacements with `~`; where text goes away or lines change in
number, the old lines are shown with `-` and the new ones with `+`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bettyc.diagnostics.apply import apply_edits
from bettyc.diagnostics.excerpt import margin
from bettyc.diagnostics.model import Edit
from bettyc.diagnostics.span import Source
from bettyc.diagnostics.text import Row, cells


class _Block(NamedTuple):
    """Neighbouring edits and the whole lines they touch (1-based, both inclusive)."""

    edits: tuple[Edit, ...]
    first: int
    last: int


def preview(source: Source, edits: Sequence[Edit], gutter: int) -> list[Row]:
    """The rows that show `edits`, all of one file."""
    rows: list[Row] = []
    previous = None
    for block in _blocks(source, edits):
        if previous is not None and block.first > previous + 1:
            rows.append(Row().put(0, "...", "gutter"))
        rows += _rows(source, block, gutter)
        previous = block.last
    return rows


def last_line(source: Source, edits: Sequence[Edit]) -> int:
    """No line number that `preview` prints is higher."""
    return max(
        block.first - 1 + max(block.last - block.first + 1, len(_new_lines(source, block)))
        for block in _blocks(source, edits)
    )


def _blocks(source: Source, edits: Sequence[Edit]) -> Iterator[_Block]:
    block: _Block | None = None
    for edit in sorted(edits, key=lambda edit: (edit.span.start, edit.span.end)):
        # An edit that takes a line break away concerns the next line too.
        first, last = source.position(edit.span.start)[0], source.position(edit.span.end)[0]
        if block and first <= block.last:
            block = _Block((*block.edits, edit), block.first, max(last, block.last))
            continue
        if block:
            yield block
        block = _Block((edit,), first, last)
    if block:
        yield block


def _new_lines(source: Source, block: _Block) -> list[str]:
    start = source.offset(block.first, 1)
    end = source.offset(block.last, len(source.line(block.last)) + 1)
    new = Source(source.name, apply_edits(source.text[start:end], block.edits, start))
    return [new.line(number) for number in range(1, new.lines + 1)]


def _rows(source: Source, block: _Block, gutter: int) -> Iterator[Row]:
    old = [source.line(number) for number in range(block.first, block.last + 1)]
    new = _new_lines(source, block)
    if len(old) == len(new) == 1 and all(edit.text for edit in block.edits):
        yield margin(gutter, block.first).put(gutter + 3, new[0])
        yield _underline(block, source.offset(block.first, 1), new[0], gutter)
        return
    while old and new and old[-1] == new[-1]:
        del old[-1], new[-1]
    for number, line in enumerate(old, block.first):
        yield _changed(number, "-", line, "delete", gutter)
    for number, line in enumerate(new, block.first):
        yield _changed(number, "+", line, "insert", gutter)


def _changed(number: int, sign: str, line: str, style: str, gutter: int) -> Row:
    row = margin(gutter, number).put(gutter + 1, sign, style)
    return row.put(gutter + 3, line, style)


def _underline(block: _Block, start: int, line: str, gutter: int) -> Row:
    """`+` or `~` under the text that each edit brings into `line`."""
    _, columns = cells(line)
    row = margin(gutter)
    moved = -start
    for edit in block.edits:
        at = edit.span.start + moved
        begin, end = columns[at], columns[at + len(edit.text)]
        glyph = "+" if edit.span.start == edit.span.end else "~"
        row.put(gutter + 3 + begin, glyph * (end - begin), "insert")
        moved += len(edit.text) - (edit.span.end - edit.span.start)
    return row
