"""What a syntax error is made of: the diagnostic and the repair."""

from __future__ import annotations

from typing import NamedTuple

from bettyc.diagnostics.model import Applicability, Diagnostic, Edit, Suggestion
from bettyc.diagnostics.span import Span
from bettyc.grammar.lex import END, Token
from bettyc.grammar.place import Place


class Repair(NamedTuple):
    """How to go on: the last `back` tokens and the next `remove` are replaced by `insert`."""

    back: int
    remove: int
    insert: tuple[Token, ...]


class Mistake(NamedTuple):
    """A diagnostic; without a repair the statement is given up."""

    diagnostic: Diagnostic
    repair: Repair | None = None


def quoted(token: Token) -> str:
    """A token as messages show it."""
    if token.kind == END:
        return "the end of the file"
    return f"`{token.text if len(token.text) <= 40 else token.text[:39] + '…'}`"


def rewrite(
    message: str, span: Span, text: str, applicability: Applicability = "maybe-incorrect"
) -> tuple[Suggestion]:
    """The suggestion to replace the text at `span`."""
    return (Suggestion(message, (Edit(span, text),), applicability),)


def missing(kind: str, text: str, place: Place) -> Token:
    """A token that is missing, right after the previous one."""
    at = place.previous.end
    return Token(kind, text, at, at)
