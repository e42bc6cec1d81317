"""The grammar itself: no conflicts, complete, and read by our machine as Lark reads it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from lark import Lark, Token, Tree
from lark.exceptions import GrammarError, LexError

from bettyc.diagnostics.span import Source
from bettyc.grammar.build import Builder, actions
from bettyc.grammar.lex import lex
from bettyc.grammar.machine import Machine
from bettyc.grammar.place import ITEMS, STATEMENTS
from bettyc.grammar.tables import GRAMMAR, tables


def test_there_are_no_conflicts_and_no_colliding_terminals(lark: Lark) -> None:
    assert find_spec("interegular")  # without it, strict mode does not look at terminals
    assert lark.rules


@pytest.mark.parametrize(
    ("rule", "change", "error"),
    [
        ("?stmt: var", "?stmt: var | FUN", LexError),
        ('let: "let" NAME', 'let: "let" NAME "=" sum | "let" NAME', GrammarError),
    ],
    ids=["colliding terminals", "conflict"],
)
def test_strict_mode_would_see(rule: str, change: str, error: type[Exception]) -> None:
    broken = Path(GRAMMAR).read_text(encoding="utf-8") + "\nFUN: /f[a-z]/\n"
    broken = broken.replace(rule, change)
    with pytest.raises(error):
        Lark(broken, parser="lalr", lexer="contextual", strict=True, start="file")


def test_every_rule_builds_something() -> None:
    known = actions(Builder(Source("", ""), {}))
    built = {rule.name for rule in tables().rules if not (rule.unit or rule.helper)}

    assert built == set(known)


def test_no_statement_starts_like_the_rest_of_an_expression() -> None:
    """Otherwise statements would need a separator."""
    machine = Machine("file", actions(Builder(Source("", ""), {})))
    tokens, _ = lex("level a { minimize x", "")
    assert machine.run(tokens[:-1]) == 5
    fixed = {*tables().words.values(), *tables().operators.values(), "NAME", "NUMBER", "STRING"}
    after_statement = {kind for kind in fixed if machine.accepts(kind)}
    tokens, _ = lex("(x", "")
    inside = Machine("expression", actions(Builder(Source("", ""), {})))
    assert inside.run(tokens[:-1]) == 2
    continuing = {kind for kind in fixed if inside.accepts(kind)} - {"RPAR"}

    assert after_statement - continuing == {*STATEMENTS, "NAME", "SEMICOLON", "RBRACE"}
    assert not continuing & (ITEMS | STATEMENTS | {"NAME"})
    assert {"PLUS", "LPAR", "LSQB", "DOT", "RESPONSE", "AND"} <= continuing


def _lark_tree(tree: Any) -> Any:
    if isinstance(tree, Tree):
        return (str(tree.data), [_lark_tree(child) for child in tree.children])
    return str(tree) if isinstance(tree, Token) else tree


def _machine_tree(text: str) -> Any:
    def maker(name: str) -> Any:
        return lambda children, start, end: (
            name,
            [child.text if hasattr(child, "text") else child for child in children],
        )

    machine = Machine("file", {rule.name: maker(rule.name) for rule in tables().rules})
    tokens, _ = lex(text, "")
    assert machine.run(tokens) == len(tokens)
    return machine.values[-1]


def test_the_machine_derives_what_lark_derives(program: str, lark: Lark) -> None:
    assert _machine_tree(program) == _lark_tree(lark.parse(program, start="file"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mlo 0.1;",
        "dim n, d = n + 1;",
        'import "a.mlo" as a import "b.mlo"',
        "extern fn f() -> real from \"a:b\"",
        "extern fn f(x, y: real,) -> real[2] nondiff(x, y) from \"a:b\";",
        "extern module m() : (real, { x: real y: int<3>[n] }) -> real from \"a:b\"",
        "def f(a) -> real = if a < 1 and not b or c then -a ^ -2 else a[1:, :, :b, new](x)[0].y",
        "level a foreach t in x { let y: real = [1, [2], ] metric m = a*.b(z for z in w) }",
        "data a : {} from x(y = 1, 2,)",
        "profile p { a.b.c = 1..2 d = true; } run { }",
        "param x : real in interval(0, 1) = (1 - 2) - 3 / (4 @ 5)",
    ],
)  # fmt: skip
def test_the_machine_derives_what_lark_derives_of_the_rest(text: str, lark: Lark) -> None:
    assert _machine_tree(text) == _lark_tree(lark.parse(text, start="file"))
