"""Breaking text into lines: documents with groups that are laid out flat where they fit.

Groups as in Wadler, "A prettier printer", 2003; fitting looks ahead to the next line break, as in
Oppen, TOPLAS 2(4), 1980. Comments are no part of a document: those of the source that stand before
a leaf are put out before it, and a group with comments inside is not laid out flat.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

from bettyc.grammar.ast import Comment
from bettyc.grammar.lex import own_line


@dataclass(frozen=True)
class Leaf:
    """A piece of text that stands at `start` in the source; comments before that come first."""

    text: str
    start: int


@dataclass(frozen=True)
class Line:
    """A line break, or `flat` in a group that fits on its line."""

    flat: str = " "


@dataclass(frozen=True)
class Nest:
    """Lines inside are indented by two more."""

    inside: Doc


@dataclass(frozen=True)
class Hang:
    """Lines inside start two before where this does, so that operands stand below each other."""

    inside: Doc


@dataclass(frozen=True)
class Group:
    """All line breaks directly inside are taken, or none. `start` and `end` are its place in the
    source, for the comments in it; `broken` takes the breaks in any case.
    """

    inside: Doc
    start: int = 0
    end: int = 0
    broken: bool = False


Doc: TypeAlias = "str | Leaf | Line | Nest | Hang | Group | list[Doc]"


class Layout:
    """The lines of a text under construction, with the comments of the source."""

    def __init__(self, text: str, comments: Sequence[Comment], width: int) -> None:
        self._text = text
        self._comments = comments
        self._starts = [comment.span.start for comment in comments]
        self._width = width
        self._taken = 0  # so many comments are put out
        # Code, and the comment behind it.
        self._lines: list[tuple[str, str]] = []
        self._line, self._comment = "", ""
        # White space due before the next text: a blank, or the indentation of a new line.
        self._blank = ""
        self._break: int | None = 0

    def put(self, doc: Doc, indent: int) -> None:
        """Lay out a document on a new line; ends its last line."""
        self._break = indent
        todo: list[tuple[int, bool, Doc]] = [(indent, False, doc)]
        while todo:
            depth, flat, doc = todo.pop()
            if isinstance(doc, str):
                self._write(doc)
            elif isinstance(doc, Leaf):
                self._comments_before(doc.start, depth)
                self._write(doc.text)
            elif isinstance(doc, Line):
                if flat:
                    self._blank = self._blank or doc.flat
                else:
                    self._break = depth
            elif isinstance(doc, Nest):
                todo.append((depth + 2, flat, doc.inside))
            elif isinstance(doc, Hang):
                todo.append((max(depth, self._column() - 2), flat, doc.inside))
            elif isinstance(doc, Group):
                breaks = doc.broken or self._has_comment(doc.start, doc.end)
                flat = flat or (not breaks and self._fits(doc.inside, todo))
                todo.append((depth, flat, doc.inside))
            else:
                todo.extend((depth, flat, part) for part in reversed(doc))

    def comments(self, before: int) -> Sequence[Comment]:
        """The comments not yet put out that start before an offset."""
        return self._comments[self._taken : bisect_left(self._starts, before)]

    def trailing(self, comment: Comment, indent: int) -> None:
        """Put a comment at the end of the line, or below if there is one already."""
        if self._comment or not self._line:
            self.own(comment, indent)
        else:
            self._comment = comment.text.rstrip()
            self._taken += 1

    def own(self, comment: Comment, indent: int) -> None:
        """Put a comment on a line of its own."""
        self._break = indent
        self._write(comment.text.rstrip())
        self._taken += 1
        self.end()

    def blank_line(self) -> None:
        """Leave a line empty, once, and not at the beginning."""
        self.end()
        if self._lines and self._lines[-1] != ("", ""):
            self._lines.append(("", ""))

    def end(self) -> None:
        """End the line."""
        if self._line:
            self._lines.append((self._line.rstrip(" "), self._comment))
        self._line, self._comment, self._blank, self._break = "", "", "", 0

    def lines(self) -> list[str]:
        """All lines; comments behind neighbouring ones are in one column."""
        self.end()
        out: list[str] = []
        for (behind, _), run in groupby(self._lines, _margin):
            rows = list(run)
            width = max(len(code) for code, _ in rows) if behind else 0
            out += [f"{code:<{width}}  {comment}" if comment else code for code, comment in rows]
        while out and not out[-1]:
            out.pop()
        return out

    def _write(self, text: str) -> None:
        if not text:
            return
        if self._break is not None:
            indent = self._break
            self.end()
            self._line, self._break = " " * indent, None
        self._line += self._blank + text
        self._blank = ""

    def _column(self) -> int:
        return self._break if self._break is not None else len(self._line + self._blank)

    def _has_comment(self, start: int, end: int) -> bool:
        return bisect_left(self._starts, start) < bisect_left(self._starts, end)

    def _comments_before(self, start: int, indent: int) -> None:
        """Comments inside a statement: where they were, and a new line after them."""
        for comment in self.comments(start):
            if own_line(self._text, comment.span.start):
                self.own(comment, indent)
            else:
                self.trailing(comment, indent)
            self._break, self._blank = indent, ""

    def _fits(self, doc: Doc, rest: Sequence[tuple[int, bool, Doc]]) -> bool:
        """Whether `doc` is flat, and what follows up to a line break, fits on this line."""
        room = self._width - self._column()
        todo: list[tuple[bool, Doc]] = [(flat, part) for _, flat, part in rest] + [(True, doc)]
        while todo and room >= 0:
            flat, doc = todo.pop()
            if isinstance(doc, str):
                room -= len(doc)
            elif isinstance(doc, Leaf):
                room -= len(doc.text)
            elif isinstance(doc, Line):
                if not flat:
                    return True
                room -= len(doc.flat)
            elif isinstance(doc, Group):
                if doc.broken and flat:
                    return False
                todo.append((flat, doc.inside))
            elif isinstance(doc, Nest | Hang):
                todo.append((flat, doc.inside))
            else:
                todo.extend((flat, part) for part in reversed(doc))
        return room >= 0


def _margin(line: tuple[str, str]) -> tuple[bool, int]:
    """Lines with comments behind them align with their neighbours of equal indentation."""
    code, comment = line
    return bool(comment), len(code) - len(code.lstrip(" ")) if comment else 0


def flat(doc: Doc) -> str:
    """A document on one line, without comments."""
    out: list[str] = []
    todo: list[Doc] = [doc]
    while todo:
        doc = todo.pop()
        if isinstance(doc, str):
            out.append(doc)
        elif isinstance(doc, Leaf):
            out.append(doc.text)
        elif isinstance(doc, Line):
            out.append(doc.flat)
        elif isinstance(doc, Nest | Hang | Group):
            todo.append(doc.inside)
        else:
            todo.extend(reversed(doc))
    return "".join(out)
