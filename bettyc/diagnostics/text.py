"""Laying out text in terminal columns: tabs, wide and invisible characters, and colour.

Columns here are 0-based display columns, not code points: a tab runs to the next multiple of
`TAB`, East Asian wide characters take two columns, combining marks take none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from unicodedata import category, east_asian_width

TAB = 4

# SGR parameters (ECMA-48) by what the text is.
STYLES = {
    "error": "1;31",
    "warning": "1;33",
    "pedantic": "1;36",
    "note": "1;32",
    "help": "1;36",
    "secondary": "1;34",
    "gutter": "1;34",
    "message": "1",
    "insert": "32",
    "delete": "31",
}

# Bidirectional overrides can make source read differently from what it is (CVE-2021-42574).
_REORDERING = re.compile("[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c]")


def paint(text: str, style: str, color: bool) -> str:
    """`text` in a style of `STYLES`; unchanged without colour, style or text."""
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if color and style and text else text


def wants_color(mode: str, terminal: bool, environ: Mapping[str, str]) -> bool:
    """Whether to colour. `mode` is auto, always or never; `NO_COLOR` turns auto off."""
    if mode != "auto":
        return mode == "always"
    return terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def _printable(char: str) -> str:
    """What stands for a character that would move the cursor or reorder the line."""
    return "\ufffd" if category(char) == "Cc" or _REORDERING.match(char) else char


def _width(char: str) -> int:
    if category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if east_asian_width(char) in "WF" else 1


def cells(line: str) -> tuple[list[str], list[int]]:
    """One string per display column of `line`, and the column where each code point starts.

    The first column of a wide character holds it, the second holds "". The list of starts has one
    more entry than `line` has code points: the column after its end.
    """
    if line.isascii() and line.isprintable():
        return list(line), list(range(len(line) + 1))
    columns: list[str] = []
    starts: list[int] = []
    for char in line:
        starts.append(len(columns))
        if char == "\t":
            columns += " " * (TAB - len(columns) % TAB)
            continue
        char = _printable(char)
        width = _width(char)
        if width:
            columns += [char] + [""] * (width - 1)
        elif columns:
            base = max(i for i, cell in enumerate(columns) if cell)
            columns[base] += char
    return columns, [*starts, len(columns)]


class Row:
    """A line under construction, written at display columns and painted at the end."""

    def __init__(self) -> None:
        self._cells: list[tuple[str, str]] = []

    def put(self, column: int, text: str, style: str = "") -> Row:
        """Write `text` at `column`, over what stands there."""
        columns, _ = cells(text)
        missing = column + len(columns) - len(self._cells)
        self._cells += [(" ", "")] * missing
        self._cells[column : column + len(columns)] = [(cell, style) for cell in columns]
        return self

    def __len__(self) -> int:
        return len(self._cells)

    def render(self, color: bool) -> str:
        """The line without trailing spaces, one colour run per stretch of one style."""
        end = len(self._cells)
        while end and self._cells[end - 1][0] in (" ", ""):
            # A wide character's second column is empty but not blank.
            if self._cells[end - 1][0] == "" and self._cells[end - 2][0] != " ":
                break
            end -= 1
        out: list[str] = []
        run, style = "", ""
        for cell, cell_style in self._cells[:end]:
            if cell_style != style:
                out.append(paint(run, style, color))
                run, style = "", cell_style
            run += cell
        return "".join([*out, paint(run, style, color)])
