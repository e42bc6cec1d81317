"""What is wrong at a place where the parse stopped, in words, and how to go on.

The rules are tried in order, most telling first; the last always applies. Decisions use what the
parser would really accept, never its raw table row, which under LALR(1) both lacks and invents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bettyc.diagnostics.model import Label
from bettyc.diagnostics.registry import report
from bettyc.diagnostics.span import Span
from bettyc.diagnostics.suggest import closest
from bettyc.grammar import notation
from bettyc.grammar.lex import END, Token
from bettyc.grammar.mistake import Mistake, Repair, missing, quoted, rewrite
from bettyc.grammar.place import (
    CLOSING,
    ITEMS,
    OPERAND_ENDS,
    OPERAND_STARTS,
    STATEMENTS,
    Place,
    is_word,
    terminal_text,
)
from bettyc.grammar.tables import tables

# Words that other languages, or haste, put where mlo has a statement.
_ALIASES = {
    "min": "minimize",
    "max": "maximize",
    "minimise": "minimize",
    "maximise": "maximize",
    "variable": "var",
    "parameter": "param",
    "function": "def",
    "fn": "def",
    "const": "param",
    "dataset": "data",
    "dimension": "dim",
    "sample": "draw",
    "network": "module",
    "problem": "level",
    "include": "import",
}


def find(place: Place) -> Mistake:
    """The mistake at a place."""
    for rule in _RULES:
        mistake = rule(place)
        if mistake is not None:
            return mistake
    return _unexpected(place)


# brackets -----------------------------------------------------------------------------------------


def _closing(p: Place) -> Mistake | None:
    """A closing bracket without, or other than that of, the innermost open one."""
    token, bracket = p.token, p.inside
    if token.kind not in CLOSING.values():
        return None
    if bracket is None:
        if p.block.brace is not None and token.kind == "RBRACE":
            return None
        return Mistake(report("MLO0100", p.span(), found=quoted(token)), Repair(0, 1, ()))
    kind = CLOSING[bracket.kind]
    if kind == token.kind:
        return None
    mistake = _unclosed(p, bracket)
    if mistake is None or token.kind in p.open:
        return mistake
    close = terminal_text(kind)[1:-1]
    suggestions = rewrite(f"write `{close}`", p.span(), close)
    return Mistake(
        replace(mistake.diagnostic, suggestions=suggestions),
        Repair(0, 1, (Token(kind, close, token.start, token.end),)),
    )


def _unclosed(p: Place, bracket: Token) -> Mistake | None:
    """MLO0104: a bracket is open where its list should go on or end."""
    kind = CLOSING[bracket.kind]
    if not p.machine.accepts(kind):
        return None
    close = terminal_text(kind)[1:-1]
    if _closed(p):
        secondary = [Label(p.span(bracket), "inside this")]
        return Mistake(
            report("MLO0104", p.span(), close=close, found=quoted(p.token), secondary=secondary)
        )
    diagnostic = report(
        "MLO0104",
        p.span(),
        close=close,
        found=quoted(p.token),
        secondary=[Label(p.span(bracket), f"this `{bracket.text}` is never closed")],
        suggestions=rewrite(f"close it with `{close}`", p.after_previous(), close),
    )
    return Mistake(diagnostic, Repair(0, 0, (missing(kind, close, p),)))


def _brace(p: Place) -> Mistake | None:
    """A block that is open where the next item starts, or the file ends."""
    brace, token = p.block.brace, p.token
    if brace is None or p.inside is not None or not p.machine.accepts("RBRACE"):
        return None
    item = p.starts_item(p.at) and p.first_on_line(p.at)
    if token.kind != END and not (item and p.indent(token.start) <= p.indent(brace.start)):
        return None
    diagnostic = report(
        "MLO0103",
        p.span(),
        found=quoted(token),
        secondary=[Label(p.span(brace), "this `{` is never closed")],
        suggestions=rewrite("close it with `}`", p.after_previous(), "\n}"),
    )
    return Mistake(diagnostic, Repair(0, 0, (missing("RBRACE", "}", p),)))


def _list(p: Place) -> Mistake | None:
    """Inside parentheses or brackets: what ends too early, or lacks a comma."""
    bracket, token = p.inside, p.token
    if bracket is None:
        return None
    opens = p.first_on_line(p.at) and p.starts_statement(p.at, p.block.kind)
    if token.kind == END or opens or bracket.kind == "LBRACE":
        return _unclosed(p, bracket)
    if not p.machine.accepts("COMMA") or (
        p.previous.kind == "NUMBER" and p.ahead(1).kind != "ASSIGN"
    ):
        return None
    starts = token.kind in OPERAND_STARTS or token.kind in ("LSQB", "MINUS", "NOT", "IF")
    if not (starts or is_word(token)):
        return None
    mistake = _unclosed(p, bracket)
    if mistake is None:
        return None
    diagnostic = report(
        "MLO0104",
        p.span(),
        close=terminal_text(CLOSING[bracket.kind])[1:-1],
        found=quoted(token),
        secondary=[Label(p.span(bracket), "inside this")],
        suggestions=rewrite("separate them by `,`", p.after_previous(), ","),
    )
    return Mistake(diagnostic, Repair(0, 0, (missing("COMMA", ",", p),)))


# statements ---------------------------------------------------------------------------------------


def _operator(p: Place) -> Mistake | None:
    """Two operands side by side. A name that follows a whole statement was taken for a setting, so
    there it is noticed one token late.
    """
    token, before = p.token, p.previous
    operands = token.kind in OPERAND_STARTS and before.kind in OPERAND_ENDS
    if operands and p.same_line(before, token) and p.machine.accepts("STAR"):
        return _missing_operator(p, before, token, Repair(0, 0, (missing("STAR", "*", p),)))
    earlier = p.ahead(-2)
    if (
        p.name_begun
        and token.kind not in ("ASSIGN", "EQ", "COLON")
        and earlier.kind in OPERAND_ENDS
        and p.same_line(earlier, before)
    ):
        return _missing_operator(p, earlier, before, None)
    return None


def _missing_operator(p: Place, left: Token, right: Token, repair: Repair | None) -> Mistake:
    between = Span(p.source.name, left.end, right.start)
    message = f"write `{left.text} * {right.text}`"
    diagnostic = report(
        "MLO0106", p.span(right), found=quoted(right), suggestions=rewrite(message, between, " * ")
    )
    return Mistake(diagnostic, repair)


def _statement(p: Place) -> Mistake | None:
    """A statement that begins with no word that begins one."""
    if p.block.kind == "file":
        begun = len(p.machine.values) == p.block.keep and p.token.kind == "NAME"
        word, back, words = p.token, 0, ITEMS
        if begun and p.ahead(1).kind == "ASSIGN":
            notes = ["settings stand in a level or in `run { … }`"]
            return Mistake(report("MLO0105", p.span(), word=word.text, notes=notes))
    else:
        begun = p.name_begun and p.token.kind not in ("ASSIGN", "EQ", "COLON", *CLOSING.values())
        word, back, words = p.previous, 1, STATEMENTS if p.block.kind == "level" else frozenset()
    if not begun:
        return None
    texts = [text for text, kind in tables().words.items() if kind in words]
    alias = _ALIASES.get(word.text.lower(), "")
    near = [alias] if alias in texts else closest(word.text, texts)
    if not near and back:
        return None
    span = p.span(word)
    suggestions = [s for text in near for s in rewrite(f"did you mean `{text}`?", span, text)]
    diagnostic = report("MLO0105", span, word=word.text, suggestions=suggestions)
    if not near:
        return Mistake(diagnostic)
    meant = Token(tables().words[near[0]], near[0], word.start, word.end)
    return Mistake(diagnostic, Repair(back, 1 - back, (meant,)))


def _elsewhere(p: Place) -> Mistake | None:
    """A whole statement, in a block where that kind does not belong."""
    token = p.token
    if len(p.machine.values) != p.block.keep or not is_word(token):
        return None
    if p.block.kind == "file" and token.kind in STATEMENTS:
        note = f"`{token.text}` belongs in a level"
        if token.kind == "LET":
            note += "; at top level write `def`"
    elif p.block.kind != "file" and token.kind in ITEMS | STATEMENTS:
        top = "at top level" if token.kind in ITEMS else "in a level"
        note = f"`{token.text}` belongs {top}, not in a {p.block.kind} block"
    else:
        return None
    return Mistake(report("MLO0100", p.span(), found=quoted(token), notes=[note]))


# single tokens ------------------------------------------------------------------------------------


def _equals(p: Place) -> Mistake | None:
    """`:` or `==` for `=`, and `=` for `==`."""
    token = p.token
    if token.kind in ("COLON", "EQ") and p.machine.accepts("ASSIGN"):
        ours, kind = "=", "ASSIGN"
    elif token.kind == "ASSIGN" and p.machine.accepts("EQ") and _closed(p):
        ours, kind = "==", "EQ"
    else:
        return None
    mistake = _expected(p) or _unexpected(p)
    suggestions = rewrite(f"write `{ours}`", p.span(), ours)
    return Mistake(
        replace(mistake.diagnostic, suggestions=suggestions),
        Repair(0, 1, (Token(kind, ours, token.start, token.end),)),
    )


def _closed(p: Place) -> bool:
    """Whether the innermost open bracket is closed on the line of the error, not too far off."""
    if p.inside is None:
        return False
    opening, closing = p.inside.kind, CLOSING[p.inside.kind]
    depth, at = 1, 0
    while depth and at < 200 and p.same_line(p.token, p.ahead(at)):
        depth += (p.ahead(at).kind == opening) - (p.ahead(at).kind == closing)
        at += 1
    return depth == 0


def _separator(p: Place) -> Mistake | None:
    """No comma between the dims of `dim`, the parts of `split`."""
    if p.inside is not None or p.token.kind != "NAME" or not p.machine.accepts("COMMA"):
        return None
    if p.machine.accepts("STAR") and p.ahead(1).kind != "ASSIGN":
        return None
    suggestions = rewrite("separate them by `,`", p.after_previous(), ",")
    diagnostic = report(
        "MLO0107", p.span(), expected="`,`", after=quoted(p.previous), found=quoted(p.token),
        suggestions=suggestions,
    )  # fmt: skip
    return Mistake(diagnostic, Repair(0, 0, (missing("COMMA", ",", p),)))


def _comma(p: Place) -> Mistake | None:
    """A comma after a whole statement."""
    if p.token.kind != "COMMA" or p.inside is not None or not p.machine.accepts("SEMICOLON"):
        return None
    suggestions = rewrite("statements need no separator", p.span(), "")
    return Mistake(
        report("MLO0100", p.span(), found="`,`", suggestions=suggestions), Repair(0, 1, ())
    )


def _chain(p: Place) -> Mistake | None:
    """`a < b < c`."""
    if p.token.kind not in ("LT", "LE", "GT", "GE", "EQ", "NE") or not p.machine.accepts("AND"):
        return None
    notes = ["comparisons do not chain: write `a < b and b < c`"]
    return Mistake(report("MLO0100", p.span(), found=quoted(p.token), notes=notes))


def _misspelt(p: Place) -> Mistake | None:
    """A name where one keyword, spelt nearly so, could stand."""
    if p.token.kind != "NAME":
        return None
    words = {text: kind for text, kind in tables().words.items() if kind in p.accepts}
    near = closest(p.token.text, words)
    if not near:
        return None
    mistake = _expected(p) or _unexpected(p)
    suggestions = rewrite(f"did you mean `{near[0]}`?", p.span(), near[0])
    meant = Token(words[near[0]], near[0], p.token.start, p.token.end)
    return Mistake(replace(mistake.diagnostic, suggestions=suggestions), Repair(0, 1, (meant,)))


def _expected(p: Place) -> Mistake | None:
    """MLO0107, where what could stand here can be said in a few words."""
    if p.previous.kind == END:
        return None
    accepts = p.accepts - {"SEMICOLON"}
    if {"NAME", "NUMBER", "LPAR"} <= accepts and not accepts & {"STAR", "ASSIGN"}:
        expected = "an expression"
    elif accepts == {"NAME", "LBRACE"}:
        expected = "a type"
    elif len(accepts) <= 4:
        texts = sorted(terminal_text(kind) for kind in accepts)
        expected = " or ".join([", ".join(texts[:-1]), texts[-1]] if texts[1:] else texts)
    else:
        return None
    diagnostic = report(
        "MLO0107", p.span(), expected=expected, after=quoted(p.previous), found=quoted(p.token)
    )
    return Mistake(diagnostic)


def _open(p: Place) -> Mistake | None:
    """Anything else where a bracket could be closed."""
    return _unclosed(p, p.inside) if p.inside is not None else None


def _unexpected(p: Place) -> Mistake:
    return Mistake(report("MLO0100", p.span(), found=quoted(p.token)))


_RULES: tuple[Callable[[Place], Mistake | None], ...] = (
    *notation.RULES,
    _closing,
    _brace,
    _list,
    _separator,
    _operator,
    _statement,
    _elsewhere,
    _equals,
    _comma,
    _chain,
    _misspelt,
    _expected,
    _open,
)
