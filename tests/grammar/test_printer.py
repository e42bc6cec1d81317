"""The formatter: it changes nothing that is said, settles at once, and looks as it should."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.lark import from_lark
from lark import Lark

from bettyc.grammar import ast, printer
from bettyc.grammar.lex import lex
from bettyc.grammar.parse import parse, parse_expression
from bettyc.grammar.tables import GRAMMAR, tables

NINE = sorted(Path(__file__).parents[1].joinpath("programs", "nine").glob("*.mlo"))


def formatted(text: str, width: int = 100) -> str:
    """`text` formatted, after checking what holds for every text."""
    parsed = parse(text, "test.mlo")
    assert parsed.file is not None
    assert parsed.diagnostics == []
    after = printer.format(parsed.file, parsed.source, width)
    again = parse(after, "test.mlo")
    assert again.file is not None

    assert again.diagnostics == []
    assert ast.plain(again.file) == ast.plain(parsed.file)
    assert [c.text for c in again.file.comments] == [c.text.rstrip() for c in parsed.file.comments]
    assert printer.format(again.file, again.source, width) == after
    lines = after.replace("\r\n", "\n").split("\n")
    assert all(line == line.rstrip() for line in lines)
    assert "\n\n\n" not in after.replace("\r\n", "\n")
    return after


@pytest.mark.parametrize("width", [100, 60, 20])
def test_the_nine_programs(program: str, width: int) -> None:
    formatted(program, width)


def test_lines_are_not_wider_than_they_must_be(program: str) -> None:
    for width in (100, 60):
        for line in formatted(program, width).splitlines():
            code = line.partition("#")[0].rstrip()
            assert len(code) <= width or '"' in code


@pytest.mark.parametrize("name", ["d_darts", "e_imaml", "f_learning_by_ignoring", "h_actor_critic"])
def test_programs_in_canonical_form_stay(name: str) -> None:
    text = next(path for path in NINE if path.stem == name).read_text(encoding="utf-8")

    assert formatted(text) == text


SAME = """\
mlo 0.1
# a comment

## rows and columns
dim n, d = 2 * n + 1
import "losses.mlo" as losses
param lr    : real in positive = 0.05
param width : int = 3

extern fn focal(logits: real[B, C], y: int<C>[B]) -> real[B] nondiff(y) from "losses:focal"
data train : { x: real[n, d], y: int<2>[n] } from npz("a.npz")  # behind
split train into a = 0.5, b = 0.5 with (seed = 0)
draw b from train(batch = 3)

def f(a, b: real) -> real = if a > b and not c then -a^2 else losses.g(a)[1:, :b, new][0].x

level inner foreach t in tasks(batch = 2) {
  # the weights
  var w    : real[d] in ball(2, 1.0) = zeros
  var bias : real                    = 0
  module net = mlp([d, 1])
  let a     : real = 1  # one
  let other : real = 2  # two
  minimize (a + b) * c - (d - e) / 2^-n

  optimizer = adam(lr = 1e-3..1e-1)
  steps     = 10
  stop      = grad_norm < 1e-6

  metric q = mean(x*.net(s) for x in inner)
  # the end
}

level empty {}
run { steps = 3  seed = 0 }
profile smoke {
  run.steps          = 3
  inner.optimizer.lr = 0.1
}
"""


def test_what_is_in_canonical_form_stays() -> None:
    assert formatted(SAME) == SAME


CHANGED = [
    ("", ""),
    ("\n\n\n", ""),
    ("\ufeffdim n", "dim n\n"),
    ("# only\n\n\n\n# comments", "# only\n\n# comments\n"),
    ("dim n;dim d ;", "dim n\ndim d\n"),
    ("dim n\r\ndim d", "dim n\r\ndim d\r\n"),
    ("mlo 0.1 ; dim n", "mlo 0.1\ndim n\n"),
    ("metric m = a**b", "metric m = a^b\n"),
    ("metric m = a  *.b", "metric m = a*.b\n"),
    ("metric m = a *.\nb", "metric m = a*.b\n"),
    ("metric m=((a+b))*c", "metric m = (a + b) * c\n"),
    ("metric m = (a * b) + c", "metric m = (a * b) + c\n"),
    ("metric m = [a,b,]", "metric m = [a, b]\n"),
    ("data a : {x : real[ ] y:int<C>[n],} from b", "data a : { x: real, y: int<C>[n] } from b\n"),
    ("run{steps=1;seed=2}", "run { steps = 1  seed = 2 }\n"),
    ("run{\nsteps=1;seed=2}", "run {\n  steps = 1\n  seed  = 2\n}\n"),
    ("run{}profile p{}level l{}", "run {}\nprofile p {}\nlevel l {}\n"),
    ("level l{minimize x}", "level l {\n  minimize x\n}\n"),
    ("level l{ # why\n\n\n minimize x # what\n\n}", "level l {  # why\n  minimize x  # what\n}\n"),
    (
        "level l {\n  a = 1\n  bcd = 2\n\n  e = 3\n  # new run\n  fghij = 4\n  k = 5\n}",
        "level l {\n  a   = 1\n  bcd = 2\n\n  e = 3\n  # new run\n  fghij = 4\n  k     = 5\n}\n",
    ),
    (
        "metric m = f(a, # first\n b)",
        "metric m = f(\n  a,  # first\n  b\n)\n",
    ),
    (
        "metric m = a # one\n + b # two\n",
        "metric m = a  # one\n         + b  # two\n",
    ),
    ("metric m = (a) # one\n + b", "metric m = (a)  # one\n         + b\n"),
    ("param x : real # why\n = 3", "param x : real =  # why\n3\n"),
    ("dim m\n## doc\n;dim n", "dim m\n## doc\n\ndim n\n"),
]


@pytest.mark.parametrize(("before", "after"), CHANGED)
def test_what_is_not_is_brought_into_it(before: str, after: str) -> None:
    assert formatted(before) == after


LONG = [
    (
        "metric m = first(a, b) + second(c, d)",
        24,
        "metric m = first(a, b)\n         + second(c, d)\n",
    ),
    ("metric m = f(aaaa, bbbb)", 20, "metric m = f(\n  aaaa,\n  bbbb\n)\n"),
    ("metric m = f(aaaa + bbbb)", 20, "metric m = f(\n  aaaa + bbbb\n)\n"),
    ("metric m = f(aaaa + bbbb)", 12, "metric m = f(\n  aaaa\n  + bbbb\n)\n"),
    ("metric m = [1, 2, 3, 4, 5]", 20, "metric m = [\n  1, 2, 3, 4, 5\n]\n"),
    ("metric m = [111, 222, 333]", 14, "metric m = [\n  111, 222,\n  333\n]\n"),
    ("dim aaaa, bbbb, cccc", 16, "dim aaaa, bbbb,\n  cccc\n"),
    (
        'extern module m(a: int) : real[n] -> real from "x:y"',
        45,
        'extern module m(a: int) : real[n] -> real\n  from "x:y"\n',
    ),
    (
        'extern module m(a: int) : real[n] -> real from "x:y"',
        30,
        'extern module m(a: int)\n  : real[n] -> real\n  from "x:y"\n',
    ),
    (
        "data a : { x: real, y: real } from f(x)",
        30,
        "data a : { x: real, y: real }\n  from f(x)\n",
    ),
    (
        "data a : { x: real, y: real } from f(x)",
        24,
        "data a : {\n  x: real, y: real\n} from f(x)\n",
    ),
    (
        "data a : { x: { z: real }, yy: real } from f(x)",
        30,
        "data a : {\n  x:  { z: real },\n  yy: real\n} from f(x)\n",
    ),
    ("run { steps = 3  seed = 0 }", 20, "run {\n  steps = 3\n  seed  = 0\n}\n"),
]


@pytest.mark.parametrize(("before", "width", "after"), LONG)
def test_long_lines_are_broken(before: str, width: int, after: str) -> None:
    assert formatted(before, width) == after


@pytest.mark.parametrize(
    "text",
    [
        "a + b * c",
        "(a + b) * c",
        "a - (b - c)",
        "a + (b + c)",
        "a * (b * c)",
        "a and (b and c)",
        "a or (b or c)",
        "(a..b)..c",
        "a == (b == c)",
        "(not a) + b",
        "not not a",
        "--a",
        "f(a(b))",
        "a - b - c",
        "(a^b)^c",
        "a^b^c",
        "(-a)^b",
        "-a^b",
        "a^-b",
        "-(a + b)",
        "not (a and b)",
        "not a and b",
        "(a or b) and c",
        "(a == b) == c",
        "(if a then b else c) + d",
        "if (if a then b else c) then d else e",
        "f(if a then b else c, x = 1..2)",
        "(a + b).c",
        "(a + b)*.c",
        "(-a)[0]",
        "a*.b.c(d)[e, :, new]",
        "(1..2)[0]",
        "[1e-3, 2.50, 1_000]",
        'f("x", true, false)',
        "mean(a*.w for a in b)",
    ],
)
def test_expressions_have_the_parentheses_they_need(text: str) -> None:
    expression, diagnostics = parse_expression(text, "x")
    assert expression is not None
    assert diagnostics == []

    assert printer.expr(expression) == text


def test_redundant_parentheses_are_not_in_the_tree() -> None:
    expression, _ = parse_expression("((a)) + (b * (c))", "x")
    assert expression is not None

    assert printer.expr(expression) == "a + b * c"


def disturb(text: str, source: random.Random) -> str:
    """The same program with other white space, and comments where there may be some."""
    rate = source.choice([0.0, 0.02, 0.1, 0.5])
    out: list[str] = []
    done = 0
    for count, token in enumerate(lex(text, "")[0]):
        gap = text[done : token.start]
        done = token.end
        spaces = ["\n", "\n\n\n", "\r\n", "   ", "\n\t"]
        notes = [
            " # {}\n",
            "\n# {}\n",
            "\n\n  # {}\n\n",
            "\n## {}\n",
            " ## {}\n\n\n",
            "\n#{0}\n# {0}\n",
        ]
        if "#" not in gap and source.random() < rate:
            gap = source.choice(spaces + notes).format(f"c{count}")
        out += [gap, token.text]
    return "".join(out) + source.choice(["", "\n", "\n# end", "  # end\n"])


@pytest.mark.parametrize("seed", range(10))
def test_comments_and_spaces_anywhere(seed: int) -> None:
    source = random.Random(seed)
    texts = [SAME, *(path.read_text(encoding="utf-8") for path in NINE)]

    for text in source.sample(texts, 3):
        formatted(disturb(text, source), source.choice([20, 40, 80, 100]))


def programs() -> st.SearchStrategy[str]:
    """Programs made from the grammar; spaces around terminals keep them apart."""
    fixed = {
        kind: text for table in (tables().words, tables().operators) for text, kind in table.items()
    }
    explicit: dict[str, st.SearchStrategy[str]] = {
        kind: st.just(f" {text} ") for kind, text in fixed.items()
    }
    explicit["NAME"] = st.sampled_from([" a ", " été ", " w2 ", " fit ", " data "])
    explicit["NUMBER"] = st.sampled_from([" 0 ", " 1e-3 ", " 1_000 ", " 2.50 "])
    explicit["STRING"] = st.sampled_from([' "" ', ' "a b" '])
    explicit["COMMENT"] = st.sampled_from([" # note\n", "\n## doc\n"])
    explicit["WS"] = st.sampled_from([" ", "\n", "\n\n", "\r\n"])
    grammar = Path(GRAMMAR).read_text(encoding="utf-8")
    language = Lark(grammar, parser="lalr", lexer="contextual", start=["file"])
    texts = from_lark(language, start="file", explicit=explicit)
    return texts.filter(lambda text: " mlo " not in text)  # most versions are not spoken


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(text=programs(), width=st.sampled_from([30, 100]))
def test_generated_programs(text: str, width: int) -> None:
    formatted(text, width)
