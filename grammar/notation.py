"""Notation that is not mlo's: characters, quotes, operators and numbers of other languages."""

from __future__ import annotations

import re

from bettyc.diagnostics.model import Suggestion
from bettyc.diagnostics.registry import report
from bettyc.diagnostics.span import Span
from bettyc.grammar.lex import BAD, BAD_STRING, END, Token
from bettyc.grammar.mistake import Mistake, Repair, rewrite
from bettyc.grammar.place import Place
from bettyc.grammar.tables import tables

# Characters and operators of other notations, by what mlo writes.
_CHARACTERS = {
    "÷": "/",
    "×": "*",
    "·": "*",
    "∗": "*",
    "−": "-",
    "–": "-",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "→": "->",
    "\u00a0": " ",
    "“": '"',
    "”": '"',
    "„": '"',
    "&": "and",
    "|": "or",
    "!": "not",
}
_FOREIGN = {"&&": "and", "||": "or"}
_QUOTED = re.compile("'([^'\"\r\n]*)'|[“”„]([^“”\"\r\n]*)[“”]")

# characters ---------------------------------------------------------------------------------------


def _character(p: Place) -> Mistake | None:
    if p.token.kind != BAD:
        return None
    text, start = p.source.text, p.token.start
    quotes = _QUOTED.match(text, start)
    if quotes:
        return _quotes(p, quotes)
    for foreign, ours in _FOREIGN.items():
        if text.startswith(foreign, start):
            return _foreign(p, foreign, p.token, p.ahead(1), ours, f"write `{ours}`", _fixed(ours))
    char = p.token.text
    shown = char if char.isprintable() and char != "\u00a0" else f"U+{ord(char):04X}"
    ours = _CHARACTERS.get(char, "")
    suggestions: tuple[Suggestion, ...] = ()
    if ours:
        message = f"did you mean `{ours}`?" if ours != " " else "write an ordinary space"
        suggestions = rewrite(message, p.span(), ours)
    kind = _fixed(ours)
    if not kind and p.machine.accepts("NAME") and not p.machine.accepts(p.ahead(1).kind):
        kind, ours = "NAME", char  # it stood for an operand
    insert = (Token(kind, ours, p.token.start, p.token.end),) if kind else ()
    notes = ["strings use double quotes"] if char in "'`" else []
    diagnostic = report("MLO0101", p.span(), character=shown, notes=notes, suggestions=suggestions)
    return Mistake(diagnostic, Repair(0, 1, insert))


def _fixed(text: str) -> str:
    """The kind of a token that is a fixed string, "" if `text` is none."""
    known = tables()
    return known.words.get(text) or known.operators.get(text, "")


def _quotes(p: Place, found: re.Match[str]) -> Mistake:
    content = found[1] if found[1] is not None else found[2]
    start, end = found.span()
    span = Span(p.source.name, start, end)
    text = f'"{content}"'
    suggestions = rewrite(f"strings use double quotes: `{text}`", span, text, "machine-applicable")
    if found[1] is None:
        diagnostic = report("MLO0101", p.span(), character=found[0][0], suggestions=suggestions)
    else:
        diagnostic = report("MLO0109", span, found="`'…'`", suggestions=suggestions)
    remove = 0
    while p.ahead(remove).start < end and p.ahead(remove).kind != END:
        remove += 1
    return Mistake(diagnostic, Repair(0, remove, (Token("STRING", text, start, end),)))


def _string(p: Place) -> Mistake | None:
    if p.token.kind != BAD_STRING:
        return None
    end = Span(p.source.name, p.token.end, p.token.end)
    diagnostic = report(
        "MLO0102", p.span(), label="it starts here", suggestions=rewrite("close it", end, '"')
    )
    closed = Token("STRING", p.token.text + '"', p.token.start, p.token.end)
    return Mistake(diagnostic, Repair(0, 1, (closed,)))


# notation of other languages ----------------------------------------------------------------------


def _foreign(
    p: Place,
    found: str,
    first: Token,
    last: Token,
    ours: str,
    message: str,
    kind: str,
    back: int = 0,
) -> Mistake:
    """MLO0109 for the two tokens `first` and `last`, the second of which is `back` before this."""
    span = p.span(first, last)
    diagnostic = report(
        "MLO0109", span, found=f"`{found}`", suggestions=rewrite(message, span, ours)
    )
    return Mistake(diagnostic, Repair(back, 2 - back, (Token(kind, ours, first.start, last.end),)))


def _assignment(p: Place) -> Mistake | None:
    """`:=`, `+=` and the like, at either of their two tokens."""
    for back in (0, 1):
        first, second = p.ahead(-back), p.ahead(1 - back)
        known = first.kind in ("COLON", "PLUS", "MINUS", "STAR", "SLASH", "AT", "CARET")
        if known and second.kind == "ASSIGN" and p.adjacent(first, second):
            found = first.text + "="
            return _foreign(p, found, first, second, "=", "write `=`", "ASSIGN", back)
    return None


def _comment(p: Place) -> Mistake | None:
    """`//` and `/*`, at either of their two tokens."""
    for back in (0, 1):
        first, second = p.ahead(-back), p.ahead(1 - back)
        if first.kind == "SLASH" and second.kind in ("SLASH", "STAR") and p.adjacent(first, second):
            remove = 0
            while p.same_line(first, p.ahead(remove)):
                remove += 1
            span = p.span(first, second)
            diagnostic = report(
                "MLO0109",
                span,
                found=f"`{first.text}{second.text}`",
                suggestions=rewrite("comments start with `#`", span, "#"),
            )
            return Mistake(diagnostic, Repair(back, remove, ()))
    return None


# numbers ------------------------------------------------------------------------------------------


def _number(p: Place) -> Mistake | None:
    token, before, after = p.token, p.previous, p.ahead(1)
    if token.kind == "DOT" and _fraction(after) and p.adjacent(token, after):
        text = f"0.{after.text}"
        span = p.span(token, after)
        diagnostic = report(
            "MLO0108", span, place="leading",
            suggestions=rewrite(f"write `{text}`", span, text, "machine-applicable"),
        )  # fmt: skip
        return Mistake(diagnostic, Repair(0, 2, (Token("NUMBER", text, token.start, after.end),)))
    if _fraction(token) and before.kind == "RESPONSE" and p.adjacent(before, token):
        span = Span(p.source.name, before.end - 1, token.end)
        text = f"0.{token.text}"
        diagnostic = report(
            "MLO0108", span, place="leading",
            notes=["`*.` means \"response of\""],
            suggestions=rewrite(f"write `* {text}`", p.span(before, token), f"* {text}"),
        )  # fmt: skip
        star = Token("STAR", "*", before.start, before.end - 1)
        number = Token("NUMBER", text, before.end - 1, token.end)
        return Mistake(diagnostic, Repair(1, 1, (star, number)))
    return _trailing(p)


def _fraction(token: Token) -> bool:
    """Whether a token can be what stands behind the dot of a number."""
    return token.kind == "NUMBER" and "." not in token.text


def _trailing(p: Place) -> Mistake | None:
    """`1.`, also where the next line was read as a field: `lr = 1.` above `steps = 3`."""
    name = p.previous.kind == "NAME"
    dot, number = (p.ahead(-2), p.ahead(-3)) if name else (p.previous, p.ahead(-2))
    if dot.kind != "DOT" or number.kind != "NUMBER" or not p.adjacent(number, dot):
        return None
    end = Span(p.source.name, dot.end, dot.end)
    diagnostic = report(
        "MLO0108", p.span(number, dot), place="trailing",
        suggestions=rewrite(f"write `{number.text}.0`", end, "0"),
    )  # fmt: skip
    return Mistake(diagnostic, Repair(2, 0, (p.previous,)) if name else Repair(1, 0, ()))


RULES = (_character, _string, _assignment, _comment, _number)
