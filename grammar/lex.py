"""Text to tokens, in one pass of one regular expression made from the grammar's terminals.

A word that the grammar knows gets its keyword's kind here; where a keyword is not legal, the parser
makes it a NAME again (`b.data`, `run.steps` in a profile). What is no token becomes one of a kind
that no rule accepts, so that every error is found by the parser, in order.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from functools import cache
from typing import NamedTuple

from bettyc.diagnostics.span import Span
from bettyc.grammar.ast import Comment
from bettyc.grammar.tables import tables

# Kinds of the tokens that are errors.
BAD = "BAD"
BAD_STRING = "BAD_STRING"
END = "$END"


class Token(NamedTuple):
    """A piece of the text. `kind` is the name of a terminal of `mlo.lark`, or an error's."""

    kind: str
    text: str
    start: int
    end: int


@cache
def _pattern() -> re.Pattern[str]:
    known = tables()
    patterns = known.patterns
    operators = sorted(known.operators, key=len, reverse=True)
    groups = {
        "NAME": patterns["NAME"],
        "OPERATOR": "|".join(map(re.escape, operators)),
        "NUMBER": patterns["NUMBER"],
        "STRING": patterns["STRING"],
        "COMMENT": patterns["COMMENT"],
        BAD_STRING: '"[^\r\n]*',
        BAD: ".",
    }
    alternatives = "|".join(f"(?P<{kind}>{pattern})" for kind, pattern in groups.items())
    # White space is not given back, and the end matches, so that the time is linear.
    return re.compile(f"(?>(?:{patterns['WS']})?)(?:{alternatives}|\\Z)", re.DOTALL)


def lex(text: str, name: str) -> tuple[list[Token], list[Comment]]:
    """The tokens of `text`, the last of them the end, and its comments."""
    known = tables()
    words, operators = known.words, known.operators
    tokens: list[Token] = []
    comments: list[Comment] = []
    for found in _pattern().finditer(text, 1 if text.startswith("\ufeff") else 0):
        kind = found.lastgroup
        if kind is None:
            break
        start, end = found.span(kind)
        piece = text[start:end]
        if kind == "NAME":
            kind = words.get(piece, kind)
        elif kind == "OPERATOR":
            kind = operators[piece]
        elif kind == "COMMENT":
            comments.append(Comment(Span(name, start, end), piece))
            continue
        tokens.append(Token(kind, piece, start, end))
    tokens.append(Token(END, "", len(text), len(text)))
    return tokens, comments


# From the end of a comment to the token below it: line ends and other comments, no blank line.
_ADJACENT = re.compile(r"(?:\r\n|\n|\r)(?:[ \t]*#[^\r\n]*(?:\r\n|\n|\r))*[ \t]*")


def docs(text: str, tokens: list[Token], comments: list[Comment]) -> dict[int, str]:
    """The text of the `##` comments directly above a token, by where the token starts."""
    starts = [token.start for token in tokens]
    found: dict[int, list[str]] = {}
    for span, comment in comments:
        if not comment.startswith("##"):
            continue
        line = text.rfind("\n", 0, span.start) + 1
        if text[max(line, text.rfind("\r", 0, span.start) + 1) : span.start].strip(" \t\ufeff"):
            continue
        token = tokens[bisect_left(starts, span.end)]
        if token.kind != END and _ADJACENT.fullmatch(text, span.end, token.start):
            found.setdefault(token.start, []).append(comment[2:].removeprefix(" ").rstrip())
    return {start: "\n".join(lines) for start, lines in found.items()}
