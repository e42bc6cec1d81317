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


# From the end of a comment to what stands directly below it.
_BELOW = re.compile(r"(?:\r\n|\n|\r)[ \t]*")


def docs(text: str, tokens: list[Token], comments: list[Comment]) -> dict[int, str]:
    """The text of the `##` comments directly above a token, by where the token starts.

    Comments of either kind may stand between; a blank line may not.
    """
    found: dict[int, list[str]] = {}
    if not any(comment.text.startswith("##") for comment in comments):
        return {}
    starts = [token.start for token in tokens]
    below, documented = -1, -1  # of the comment before: its start, and the token it is about
    for span, comment in reversed(comments):
        token = tokens[bisect_left(starts, span.end)]
        if not (below >= 0 and _BELOW.fullmatch(text, span.end, below)):
            documented = token.start if _BELOW.fullmatch(text, span.end, token.start) else -1
        below = span.start if own_line(text, span.start) else -1
        if below >= 0 and documented >= 0 and comment.startswith("##"):
            found.setdefault(documented, []).append(comment[2:].removeprefix(" ").rstrip())
    return {start: "\n".join(reversed(lines)) for start, lines in found.items()}


def own_line(text: str, start: int) -> bool:
    """Whether nothing but white space stands before `start` on its line."""
    while start > 0 and text[start - 1] in " \t\f":
        start -= 1
    return start == 0 or text[start - 1] in "\r\n\ufeff"
