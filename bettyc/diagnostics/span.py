"""Places in a source text, and the text itself.

Offsets are 0-based code points, ends exclusive. Lines and columns are 1-based and exist only
where people read them; a column counts code points (a tab is one).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import cached_property
from typing import NamedTuple

# CR LF is one line break. Unicode's other separators are ordinary characters here, as in editors.
_BREAK = re.compile(r"\r\n|\n|\r")


class Span(NamedTuple):
    """The code points from `start` to before `end` of the file called `file`."""

    file: str
    start: int
    end: int


class Source:
    """A program's text under the name that messages use for it."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *(found.end() for found in _BREAK.finditer(self.text))]

    @property
    def lines(self) -> int:
        """The number of lines; text that ends in a line break has an empty last line."""
        return len(self._starts)

    def position(self, offset: int) -> tuple[int, int]:
        """The line and column, both 1-based, of an offset; offsets past the end count as the
        end.
        """
        offset = max(0, min(offset, len(self.text)))
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1

    def offset(self, line: int, column: int) -> int:
        """The inverse of `position`; a column past the end of its line counts as that end."""
        start = self._starts[line - 1]
        return start + min(column - 1, len(self.line(line)))

    def line(self, number: int) -> str:
        """The text of a line (1-based) without its line break; `IndexError` when there is none."""
        if not 1 <= number <= len(self._starts):
            raise IndexError(f"no line {number} in {self.name}")
        end = self._starts[number] if number < len(self._starts) else len(self.text)
        return self.text[self._starts[number - 1] : end].rstrip("\r\n")

    def slice(self, span: Span) -> str:
        """The text that `span` covers."""
        return self.text[span.start : span.end]

    def __repr__(self) -> str:
        return f"Source({self.name!r}, {len(self.text)} code points)"
