"""Syntax errors: what is said, where, with which cure, and what is left of the program."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from bettyc.diagnostics.apply import apply_edits
from bettyc.diagnostics.registry import CODES
from bettyc.grammar import ast
from bettyc.grammar.lex import lex
from bettyc.grammar.parse import Parsed, parse

NINE = sorted(Path(__file__).parents[1].joinpath("programs", "nine").glob("*.mlo"))


def found(text: str) -> list[tuple[int, int, str, str]]:
    """Line, column, code and message of each diagnostic."""
    parsed = parse(text, "test.mlo")
    return [
        (*parsed.source.position(d.span.start), d.code, d.message)
        for d in parsed.diagnostics
        if d.span
    ]


SEEDED = """\
mlo 0.1
dim n, d

level a {
  var w : real = 0
  optimizer = sgd(lr = 0.1
  steps = 10
  minimize w^2
  vra v : real
  let z = 2 w + 3
  minimise mean(w)
  clip = norm(3
}
level b {
  minimize w $ 3
  steps = 3
level c {
  minimize w
}
}
"""


def test_eight_errors_in_one_file_are_found_where_they_are() -> None:
    parsed = parse(SEEDED, "test.mlo")

    assert found(SEEDED) == [
        (7, 3, "MLO0104", "expected `,` or `)`, found `steps`"),
        (9, 3, "MLO0105", "unknown statement `vra`"),
        (10, 13, "MLO0106", "missing operator before `w`"),
        (11, 3, "MLO0105", "unknown statement `minimise`"),
        (13, 1, "MLO0104", "expected `,` or `)`, found `}`"),
        (15, 14, "MLO0101", "unexpected character `$`"),
        (17, 1, "MLO0103", "missing `}` before `level`"),
        (20, 1, "MLO0100", "unexpected `}`"),
    ]
    opened = [label.span.start for d in parsed.diagnostics for label in d.secondary]
    assert [parsed.source.position(start) for start in opened] == [(6, 18), (12, 14), (14, 9)]
    assert [s.message for d in parsed.diagnostics for s in d.suggestions] == [
        "close it with `)`",
        "did you mean `var`?",
        "write `2 * w`",
        "did you mean `minimize`?",
        "close it with `)`",
        "close it with `}`",
    ]


def test_what_parses_is_kept() -> None:
    file = parse(SEEDED, "test.mlo").file
    assert file is not None
    levels = [item for item in file.items if isinstance(item, ast.Level)]

    assert [level.name.text for level in levels] == ["a", "b", "c"]
    assert [[type(s).__name__ for s in level.body] for level in levels] == [
        ["Var", "Setting", "Setting", "Objective", "Var", "Let", "Objective", "Setting"],
        ["Objective", "Setting"],
        ["Objective"],
    ]


# A text with ¦ before its one error, what the error points at, what is said, and the text that the
# first suggestion makes of it.
MISTAKES = [
    ("metric m = a ¦÷ b", "÷", "MLO0101", "unexpected character `÷`", "metric m = a / b"),
    ("metric m = a ¦− b", "−", "MLO0101", "unexpected character `−`", "metric m = a - b"),
    ("metric m = a¦\u00a0+ b", "\u00a0", "MLO0101", "unexpected character `U+00A0`",
     "metric m = a + b"),
    ("dim n¦\0", "\0", "MLO0101", "unexpected character `U+0000`", None),
    ("metric m = x¦'", "'", "MLO0101", "unexpected character `'`", None),
    ("import ¦“a.mlo”", "“", "MLO0101", "unexpected character `“`", 'import "a.mlo"'),
    ('import ¦"a.mlo', '"a.mlo', "MLO0102", "string does not end on its line", 'import "a.mlo"'),
    ("import ¦'a.mlo'", "'a.mlo'", "MLO0109", "`'…'` is not part of mlo", 'import "a.mlo"'),
    ("run { steps ¦:= 1 }", ":=", "MLO0109", "`:=` is not part of mlo", "run { steps = 1 }"),
    ("run { steps ¦+= 1 }", "+=", "MLO0109", "`+=` is not part of mlo", "run { steps = 1 }"),
    ("metric m = a ¦&& b", "&&", "MLO0109", "`&&` is not part of mlo", "metric m = a and b"),
    ("metric m = a ¦|| b", "||", "MLO0109", "`||` is not part of mlo", "metric m = a or b"),
    ("dim n ¦// rows", "//", "MLO0109", "`//` is not part of mlo", "dim n # rows"),
    ("metric m = a ¦// rows", "//", "MLO0109", "`//` is not part of mlo", "metric m = a # rows"),
    ("metric m = ¦.5", ".5", "MLO0108", "number needs a leading digit", "metric m = 0.5"),
    ("metric m = a*¦.5", ".5", "MLO0108", "number needs a leading digit", "metric m = a* 0.5"),
    ("metric m = ¦.0.25", ".", "MLO0107", "expected an expression after `=`, found `.`", None),
    ("metric m = a*.¦0.25", "0.25", "MLO0107", "expected a name after `*.`, found `0.25`", None),
    ("metric m = ¦1.", "1.", "MLO0108", "number needs a trailing digit", "metric m = 1.0"),
    ("run { lr = ¦1.\n steps = 2 }", "1.", "MLO0108", "number needs a trailing digit",
     "run { lr = 1.0\n steps = 2 }"),
    ("¦}", "}", "MLO0100", "unexpected `}`", None),
    ("metric m = a¦)", ")", "MLO0100", "unexpected `)`", None),
    ("metric m = f(a¦", "", "MLO0104", "expected `,` or `)`, found the end of the file",
     "metric m = f(a)"),
    ("metric m = [a¦", "", "MLO0104", "expected `,` or `]`, found the end of the file",
     "metric m = [a]"),
    ("metric m = f(a¦]", "]", "MLO0104", "expected `,` or `)`, found `]`", "metric m = f(a)"),
    ("metric m = f(a\n¦dim n", "dim", "MLO0104", "expected `,` or `)`, found `dim`",
     "metric m = f(a)\ndim n"),
    ("run { lr = f(a = 1 ¦b = 2) }", "b", "MLO0104", "expected `,` or `)`, found `b`",
     "run { lr = f(a = 1, b = 2) }"),
    ("def f(a ¦b) = a", "b", "MLO0104", "expected `,` or `)`, found `b`", "def f(a, b) = a"),
    ("param x : real[d ¦= 3", "=", "MLO0104", "expected `,` or `]`, found `=`",
     "param x : real[d] = 3"),
    ("data a : { x: real ¦from f(x)", "from", "MLO0104", "expected `,` or `}`, found `from`",
     "data a : { x: real} from f(x)"),
    ("run {\n  steps = 1\n¦dim n", "dim", "MLO0103", "missing `}` before `dim`",
     "run {\n  steps = 1\n}\ndim n"),
    ("profile p {\n  steps = 1\n¦run {}", "run", "MLO0103", "missing `}` before `run`",
     "profile p {\n  steps = 1\n}\nrun {}"),
    ("level a {¦", "", "MLO0103", "missing `}` before the end of the file", "level a {\n}"),
    ("¦levle a {}", "levle", "MLO0105", "unknown statement `levle`", "level a {}"),
    ("level a {\n  ¦minimise x\n}", "minimise", "MLO0105", "unknown statement `minimise`",
     "level a {\n  minimize x\n}"),
    ("level a {\n  ¦vra x : real\n}", "vra", "MLO0105", "unknown statement `vra`",
     "level a {\n  var x : real\n}"),
    ("level a { ¦network x = f() }", "network", "MLO0105", "unknown statement `network`",
     "level a { module x = f() }"),
    ("¦steps = 3", "steps", "MLO0105", "unknown statement `steps`", None),
    ("¦let x = 3", "let", "MLO0100", "unexpected `let`", None),
    ("level a { ¦param x : real }", "param", "MLO0100", "unexpected `param`", None),
    ("metric m = 2 ¦a", "a", "MLO0106", "missing operator before `a`", "metric m = 2 * a"),
    ("metric m = f(2 ¦a)", "a", "MLO0106", "missing operator before `a`", "metric m = f(2 * a)"),
    ("level a {\n  let x = 2 ¦y + 3\n}", "y", "MLO0106", "missing operator before `y`",
     "level a {\n  let x = 2 * y + 3\n}"),
    ("metric m = a < b ¦< c", "<", "MLO0100", "unexpected `<`", None),
    ("metric m = (a ¦= b)", "=", "MLO0100", "unexpected `=`", "metric m = (a == b)"),
    ("run { steps¦: 1 }", ":", "MLO0107", "expected `=` after `steps`, found `:`",
     "run { steps= 1 }"),
    ("run { steps = 1¦, seed = 0 }", ",", "MLO0100", "unexpected `,`",
     "run { steps = 1 seed = 0 }"),
    ("dim n ¦d", "d", "MLO0107", "expected `,` after `n`, found `d`", "dim n, d"),
    ("split a into b = 1 ¦c = 2", "c", "MLO0107", "expected `,` after `1`, found `c`",
     "split a into b = 1, c = 2"),
    ("draw b ¦form x", "form", "MLO0107", "expected `from` after `b`, found `form`",
     "draw b from x"),
    ("split a ¦inot b = 1", "inot", "MLO0107", "expected `into` after `a`, found `inot`",
     "split a into b = 1"),
    ("param x ¦real", "real", "MLO0107", "expected `:` after `x`, found `real`", None),
    ("param x : ¦3", "3", "MLO0107", "expected a type after `:`, found `3`", None),
    ("extern ¦f", "f", "MLO0107", "expected `fn`, `module` or `source` after `extern`, found `f`",
     None),
    ("level ¦{}", "{", "MLO0107", "expected a name after `level`, found `{`", None),
    ("level a\n  ¦minimize x", "minimize", "MLO0107",
     "expected `foreach` or `{` after `a`, found `minimize`", None),
    ("metric m =¦", "", "MLO0107", "expected an expression after `=`, found the end of the file",
     None),
    ("metric m = a + ¦* b", "*", "MLO0107", "expected an expression after `+`, found `*`", None),
    ("import ¦a", "a", "MLO0107", "expected a string after `import`, found `a`", None),
    ("mlo¦", "", "MLO0107", "expected a number after `mlo`, found the end of the file", None),
]  # fmt: skip


@pytest.mark.parametrize(("marked", "place", "code", "message", "cured"), MISTAKES)
def test_one_mistake_is_one_diagnostic_at_its_place(
    marked: str, place: str, code: str, message: str, cured: str | None
) -> None:
    text = marked.replace("¦", "")
    parsed = parse(text, "test.mlo")
    (diagnostic,) = parsed.diagnostics
    assert diagnostic.span is not None

    assert (diagnostic.code, diagnostic.message) == (code, message)
    assert diagnostic.span.start == marked.index("¦")
    assert parsed.source.slice(diagnostic.span) == place
    if cured is None:
        assert not diagnostic.suggestions
        return
    assert apply_edits(text, diagnostic.suggestions[0].edits) == cured
    assert parse(cured, "test.mlo").diagnostics == []


def test_every_syntax_code_is_reported_by_some_text() -> None:
    texts = [row[0].replace("¦", "") for row in MISTAKES] + [
        "mlo 9.9",
        "metric m = " + "-" * 900 + "1",
        "x" * 600_000,
    ]
    reported = {d.code for text in texts for d in parse(text, "").diagnostics}

    assert reported == {code for code in CODES if code.startswith("MLO01")}


def test_only_the_first_error_of_a_line_is_reported() -> None:
    assert [row[:2] for row in found("dim $ ÷ n § m\nmetric = = 3\nmetric x = 1 $ 2")] == [
        (1, 5), (2, 8), (3, 14)
    ]  # fmt: skip


def test_diagnostics_are_in_order_and_bounded() -> None:
    text = "\n".join(f"dim = {i}" for i in range(1000))
    lines = [row[0] for row in found(text)]

    assert lines == sorted(lines)
    assert 100 <= len(lines) <= 200


def test_a_statement_that_belongs_elsewhere_costs_only_itself() -> None:
    text = "level a {\n  steps = 3\n  dim n\n  minimize y\n}\nlet x = 3\ndim n $\nmetric m = 1"
    file = parse(text, "").file
    assert file is not None

    assert [row[:3] for row in found(text)] == [
        (3, 3, "MLO0100"), (6, 1, "MLO0100"), (7, 7, "MLO0101")
    ]  # fmt: skip
    assert [type(item).__name__ for item in file.items] == ["Level", "Dim", "Metric"]
    assert len(list(ast.children(file.items[0]))) == 3


def test_a_block_without_a_proper_head_is_skipped_whole() -> None:
    text = "lvl a b {\n  metric m = 1\n  minimize (x)\n}\ndim n\nrun r { steps = 1 }\ndim d"
    file = parse(text, "").file
    assert file is not None

    assert [row[:2] for row in found(text)] == [(1, 1), (6, 5)]
    assert [type(item).__name__ for item in file.items] == ["Dim", "Dim"]


def test_levels_after_an_error_are_still_there() -> None:
    text = "level a {\n  minimize (x\n}\n\nlevel b {\n  minimize }\n\nlevel c { minimize z }"
    file = parse(text, "").file
    assert file is not None

    assert [item.name.text for item in file.items if isinstance(item, ast.Level)] == ["a", "b", "c"]


def check(text: str) -> Parsed:
    """Parse, and check what holds for every text."""
    start = time.process_time()
    parsed = parse(text, "test.mlo")
    assert time.process_time() - start < 1
    spans = [d.span for d in parsed.diagnostics]
    for diagnostic in parsed.diagnostics:
        spans += [label.span for label in diagnostic.secondary]
        spans += [edit.span for s in diagnostic.suggestions for edit in s.edits]
    assert all(s is not None and 0 <= s.start <= s.end <= len(text) for s in spans)
    assert len({(d.code, d.span) for d in parsed.diagnostics}) == len(parsed.diagnostics)
    assert parsed.file is not None
    return parsed


def test_every_prefix_of_a_program_parses_or_says_why_not(program: str) -> None:
    whole = parse(program, "").file
    assert whole is not None
    complete = {0, *(item.span.end for item in whole.items)}
    tokens, _ = lex(program, "")
    for token in tokens:
        parsed = check(program[: token.end])
        if not parsed.diagnostics:
            continue
        assert token.end not in complete
        # What came before the item in error is there.
        assert parsed.file is not None
        before = [item for item in whole.items if item.span.end <= token.start]
        assert [ast.plain(item) for item in parsed.file.items[: len(before)]] == [
            ast.plain(item) for item in before
        ]


def mutate(text: str, random: random.Random) -> str:
    """Delete, swap, repeat, replace or misspell a token, or put a character somewhere."""
    tokens = lex(text, "")[0][:-1]
    if len(tokens) < 2:
        return text
    at = random.randrange(len(tokens) - 1)
    token, second = tokens[at], tokens[at + 1]
    before, after = text[: token.start], text[token.end :]
    between, rest = text[token.end : second.start], text[second.end :]
    place = random.randrange(len(text))
    swapped = token.text[1:2] + token.text[:1] + token.text[2:]
    return random.choice(
        [
            before + after,
            before + second.text + between + token.text + rest,
            f"{before}{token.text} {token.text}{after}",
            before + random.choice(tokens).text + after,
            before + swapped + after,
            text[:place] + random.choice("$'\"{}()[]#\\\0\n\r;.,*=é÷&|!") + text[place:],
        ]
    )


def fuzz(seed: int, rounds: int | None, seconds: float) -> int:
    """Mutate programs `rounds` times, or for some seconds; how many had errors."""
    source = random.Random(seed)
    texts = [path.read_text(encoding="utf-8") for path in NINE]
    broken = done = 0
    start = time.process_time()
    while done != rounds and (rounds or time.process_time() - start < seconds):
        text = source.choice(texts)
        for _ in range(source.choice([1, 1, 1, 2, 5])):
            text = mutate(text, source)
        broken += bool(check(text).diagnostics)
        done += 1
    return broken


def test_mutated_programs_never_crash_the_parser() -> None:
    assert fuzz(0, None, 5.0) > 10


@pytest.mark.slow
def test_ten_thousand_mutated_programs_never_crash_the_parser() -> None:
    assert fuzz(1, 10_000, 0) > 5_000
