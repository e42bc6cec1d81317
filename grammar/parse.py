"""Text to syntax tree. A text with errors goes through `recover`, which finds all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from bettyc.diagnostics.model import Diagnostic
from bettyc.diagnostics.span import Source
from bettyc.grammar import ast
from bettyc.grammar.build import Builder, actions
from bettyc.grammar.lex import Token, docs, lex
from bettyc.grammar.machine import Machine, TooDeep

# The version of the language that this compiler reads.
LANGUAGE = (0, 1)
# Code points. A longer text is no program written by a person, and would take seconds.
LARGEST = 500_000


@dataclass(frozen=True)
class Parsed:
    """A parsed program: with diagnostics, what is left of it when the statements in error are left
    out; None when nothing is.
    """

    file: ast.File | None
    diagnostics: list[Diagnostic]
    source: Source


def parse(text: str, name: str) -> Parsed:
    """Parse the program `text`; `name` is what messages call it."""
    source = Source(name, text)
    if len(text) > LARGEST:
        from bettyc.grammar.recover import too_large

        return Parsed(None, [too_large(source, LARGEST)], source)
    tokens, comments = lex(text, name)
    builder = Builder(source, docs(text, tokens, comments))
    found: list[Diagnostic] = []
    file: ast.File | None = _run("file", tokens, builder)
    if file is None:
        from bettyc.grammar.recover import recover

        file, found = recover(source, tokens, builder)
    if file.version is not None and not _spoken(file.version):
        from bettyc.grammar.recover import wrong_version

        found.append(wrong_version(file.version, LANGUAGE))
    file = replace(file, comments=tuple(comments), grouped=builder.grouped)
    return Parsed(file, found, source)


def parse_expression(text: str, name: str) -> tuple[ast.Expr | None, list[Diagnostic]]:
    """Parse one expression, such as the value of `--set path=value`."""
    source = Source(name, text)
    tokens, _ = lex(text, name)
    builder = Builder(source, {})
    expression: ast.Expr | None = _run("expression", tokens, builder)
    if expression is not None:
        return expression, []
    from bettyc.grammar.recover import first_error

    return None, [first_error(source, tokens, builder, "expression")]


def tokens(text: str) -> list[Token]:
    """The tokens of a program for highlighting, without the end: keywords only where they are ones.

    After a syntax error all words of the language count as keywords.
    """
    found, _ = lex(text, "")
    _run("file", found, Builder(Source("", text), {}))
    return found[:-1]


def _run(start: str, tokens: list[Token], builder: Builder) -> Any:
    """The tree of a text without errors, otherwise None."""
    machine = Machine(start, actions(builder))
    try:
        complete = machine.run(tokens) == len(tokens)
    except TooDeep:
        return None
    return machine.values[-1] if complete else None


def _spoken(version: ast.Number) -> bool:
    """Whether this compiler reads programs of a version: an older one, or its own."""
    major, _, minor = version.text.partition(".")
    if not (major.isdecimal() and minor.isdecimal()):
        return False
    return (int(major), int(minor)) <= LANGUAGE
