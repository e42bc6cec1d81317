"""Text to tree: what each construct becomes, and where it is."""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bettyc.diagnostics.span import Source, Span
from bettyc.grammar import ast
from bettyc.grammar.machine import DEEPEST
from bettyc.grammar.parse import LARGEST, parse, parse_expression, tokens

NINE = sorted(Path(__file__).parents[1].joinpath("programs", "nine").glob("*.mlo"))


def read(text: str) -> ast.File:
    parsed = parse(text, "test.mlo")
    assert parsed.diagnostics == []
    assert parsed.file is not None
    return parsed.file


def value(text: str) -> Any:
    """An expression, without its places."""
    expression, diagnostics = parse_expression(text, "test")
    assert diagnostics == []
    assert expression is not None
    return ast.plain(expression)


def name(text: str) -> dict[str, Any]:
    return {"node": "Name", "id": text}


def number(text: str) -> dict[str, Any]:
    return {"node": "Number", "value": float(text) if "." in text else int(text), "text": text}


def binary(left: Any, op: str, right: Any) -> dict[str, Any]:
    return {"node": "Binary", "op": op, "left": left, "right": right}


A, B, C, D = map(name, "abcd")


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a - b - c", binary(binary(A, "-", B), "-", C)),
        ("a + b * c", binary(A, "+", binary(B, "*", C))),
        ("a / b @ c", binary(binary(A, "/", B), "@", C)),
        ("(a + b) * c", binary(binary(A, "+", B), "*", C)),
        ("a ^ b ** c", binary(A, "^", binary(B, "^", C))),
        (
            "-a^b",
            {"node": "Unary", "op": "-", "operand": binary(A, "^", B)},
        ),
        ("a^-b", binary(A, "^", {"node": "Unary", "op": "-", "operand": B})),
        ("a or b and c", binary(A, "or", binary(B, "and", C))),
        (
            "not a == b",
            {
                "node": "Unary",
                "op": "not",
                "operand": {"node": "Compare", "op": "==", "left": A, "right": B},
            },
        ),
        (
            "a < 1..2",
            {
                "node": "Compare",
                "op": "<",
                "left": A,
                "right": {"node": "Range", "low": number("1"), "high": number("2")},
            },
        ),
        (
            "if a then b else c",
            {"node": "If", "condition": A, "then": B, "otherwise": C},
        ),
        ("[a, b,]", {"node": "List", "items": [A, B]}),
        ("[]", {"node": "List", "items": []}),
        ("a.b", {"node": "Field", "base": A, "name": "b"}),
        ("a*.b", {"node": "Response", "base": A, "name": "b"}),
        ("a()", {"node": "Call", "function": A, "args": []}),
        (
            "a(b, c = d)",
            {
                "node": "Call",
                "function": A,
                "args": [
                    {"node": "Arg", "name": None, "value": B},
                    {"node": "Arg", "name": "c", "value": D},
                ],
            },
        ),
        (
            "a(b for c in d)",
            {
                "node": "Call",
                "function": A,
                "args": [{"node": "Generator", "element": B, "variable": "c", "iterable": D}],
            },
        ),
        (
            "a[:, new, b:, :c, d]",
            {
                "node": "Subscript",
                "base": A,
                "indices": [
                    {"node": "Slice", "low": None, "high": None},
                    name("new"),
                    {"node": "Slice", "low": B, "high": None},
                    {"node": "Slice", "low": None, "high": C},
                    D,
                ],
            },
        ),
        ("true", {"node": "Bool", "value": True}),
        ("false", {"node": "Bool", "value": False}),
        ('"a b"', {"node": "String", "value": "a b"}),
        ("1_000", {"node": "Number", "value": 1000, "text": "1_000"}),
        ("1e3", {"node": "Number", "value": 1000.0, "text": "1e3"}),
        ("0.5", {"node": "Number", "value": 0.5, "text": "0.5"}),
        ("été", name("été")),
        ("(extern)(data.level, from*.var)", None),
    ],
)
def test_expressions(text: str, tree: Any) -> None:
    if tree is not None:
        assert value(text) == tree
    else:
        assert value(text)["function"] == name("extern")


def test_whole_numbers_are_ints() -> None:
    assert type(value("1_000")["value"]) is int
    assert type(value("1e3")["value"]) is float
    assert value("9" * 5000)["value"] == float("inf")


REAL = {"node": "ScalarType", "base": "real", "labels": None, "dims": []}
INT = {"node": "ScalarType", "base": "int", "labels": C, "dims": [name("n"), number("3")]}


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ('import "a.mlo" as m', {"node": "Import", "path": "a.mlo", "alias": "m"}),
        ('import "a.mlo"', {"node": "Import", "path": "a.mlo", "alias": None}),
        (
            "dim n, d = 3;",
            {
                "node": "Dim",
                "decls": [
                    {"node": "DimDecl", "name": "n", "value": None},
                    {"node": "DimDecl", "name": "d", "value": number("3")},
                ],
            },
        ),
        (
            "param x : real in ball(a, 2) = 1",
            {
                "node": "Param",
                "name": "x",
                "type": REAL,
                "domain": {
                    "node": "Domain",
                    "name": "ball",
                    "args": [
                        {"node": "Arg", "name": None, "value": A},
                        {"node": "Arg", "name": None, "value": number("2")},
                    ],
                },
                "default": number("1"),
            },
        ),
        (
            "param x : int<c>[n, 3]",
            {"node": "Param", "name": "x", "type": INT, "domain": None, "default": None},
        ),
        (
            'extern fn f(x: real, y,) -> real nondiff(x, y) from "m:f"',
            {
                "node": "ExternFn",
                "name": "f",
                "formals": [
                    {"node": "Formal", "name": "x", "type": REAL},
                    {"node": "Formal", "name": "y", "type": None},
                ],
                "returns": REAL,
                "nondiff": ["x", "y"],
                "origin": "m:f",
            },
        ),
        (
            'extern module f() : (real, int<c>[n, 3]) -> real from "m:f"',
            {
                "node": "ExternModule",
                "name": "f",
                "formals": [],
                "inputs": [REAL, INT],
                "output": REAL,
                "origin": "m:f",
            },
        ),
        (
            'extern source f() : { x: real, y: int<c>[n, 3] } from "m:f"',
            {
                "node": "ExternSource",
                "name": "f",
                "formals": [],
                "type": {
                    "node": "RecordType",
                    "fields": [
                        {"node": "FieldType", "name": "x", "type": REAL},
                        {"node": "FieldType", "name": "y", "type": INT},
                    ],
                },
                "origin": "m:f",
            },
        ),
        ("data x : real from a", {"node": "Data", "name": "x", "type": REAL, "source": A}),
        ("data x from a", {"node": "Data", "name": "x", "type": None, "source": A}),
        (
            "split x into a = 0.5, b = 0.5 with (seed = 0)",
            {
                "node": "Split",
                "of": "x",
                "parts": [
                    {"node": "Part", "name": "a", "fraction": number("0.5")},
                    {"node": "Part", "name": "b", "fraction": number("0.5")},
                ],
                "options": [{"node": "Arg", "name": "seed", "value": number("0")}],
            },
        ),
        ("draw b from a", {"node": "Draw", "name": "b", "source": A}),
        (
            "def f(x) -> real = a",
            {
                "node": "Def",
                "name": "f",
                "formals": [{"node": "Formal", "name": "x", "type": None}],
                "returns": REAL,
                "body": A,
            },
        ),
        ("metric m = a", {"node": "Metric", "name": "m", "value": A}),
        (
            "run { steps = 1 }",
            {
                "node": "Run",
                "settings": [{"node": "Setting", "name": "steps", "value": number("1"), "doc": ""}],
            },
        ),
        (
            "profile p { run.steps = 1; lr = a }",
            {
                "node": "Profile",
                "name": "p",
                "overrides": [
                    {
                        "node": "Override",
                        "path": ["run", "steps"],
                        "value": number("1"),
                        "doc": "",
                    },
                    {"node": "Override", "path": ["lr"], "value": A, "doc": ""},
                ],
            },
        ),
        (
            "level l foreach t in a {}",
            {"node": "Level", "name": "l", "task": "t", "tasks": A, "body": []},
        ),
    ],
)
def test_items(text: str, tree: dict[str, Any]) -> None:
    if tree["node"] in ("Import", "ExternFn", "ExternModule", "ExternSource"):
        key = "path" if tree["node"] == "Import" else "origin"
        tree = {**tree, key: {"node": "String", "value": tree[key]}}
    (item,) = read(text).items

    assert ast.plain(item) == {**tree, "doc": ""}


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        (
            "var w : real in unit = a",
            {
                "node": "Var",
                "name": "w",
                "type": REAL,
                "domain": {"node": "Domain", "name": "unit", "args": []},
                "value": A,
            },
        ),
        ("var w : real", {"node": "Var", "name": "w", "type": REAL, "domain": None, "value": None}),
        ("module m = a", {"node": "Module", "name": "m", "value": A}),
        ("draw b from a", {"node": "Draw", "name": "b", "source": A}),
        ("let x : real = a", {"node": "Let", "name": "x", "type": REAL, "value": A}),
        ("let x = a", {"node": "Let", "name": "x", "type": None, "value": A}),
        ("minimize a", {"node": "Objective", "sense": "minimize", "value": A}),
        ("maximize a", {"node": "Objective", "sense": "maximize", "value": A}),
        ("metric m = a", {"node": "Metric", "name": "m", "value": A}),
        (
            "stop = a < 1",
            {
                "node": "Setting",
                "name": "stop",
                "value": {"node": "Compare", "op": "<", "left": A, "right": number("1")},
            },
        ),
        ("data = a", {"node": "Setting", "name": "data", "value": A}),
    ],
)
def test_statements_of_levels(text: str, tree: dict[str, Any]) -> None:
    (level,) = read(f"level l {{ {text}; {text} }}").items
    assert isinstance(level, ast.Level)

    assert [ast.plain(statement) for statement in level.body] == [{**tree, "doc": ""}] * 2


def test_the_nine_programs_parse(program: str) -> None:
    file = read(program)

    assert file.version is not None
    assert file.version.text == "0.1"
    assert any(isinstance(item, ast.Level) for item in file.items)


def test_every_node_lies_inside_its_parent(program: str) -> None:
    for node in ast.walk(read(program)):
        assert node.span.start < node.span.end
        for child in ast.children(node):
            assert node.span.start <= child.span.start
            assert child.span.end <= node.span.end
        for left, right in pairwise(ast.children(node)):
            assert left.span.end <= right.span.start


def test_spans_are_exact() -> None:
    text = "level a {\n  minimize (fit*.w) + f(x = -2);\n}"
    parsed = parse(text, "test.mlo")
    assert parsed.file is not None
    (level,) = parsed.file.items
    words = [parsed.source.slice(node.span) for node in ast.walk(level)]
    response = next(node for node in ast.walk(level) if isinstance(node, ast.Response))

    assert words == [
        text,
        "a",
        "minimize (fit*.w) + f(x = -2)",
        "(fit*.w) + f(x = -2)",
        "fit*.w",
        "fit",
        "w",
        "f(x = -2)",
        "f",
        "x = -2",
        "x",
        "-2",
        "2",
    ]
    assert parsed.source.slice(response.star) == "*."
    assert [parsed.source.slice(s) for s in parsed.file.grouped] == ["fit*.w"]
    assert [parsed.source.slice(s) for s in parsed.file.grouped.values()] == ["(fit*.w)"]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_lines_and_columns(newline: str) -> None:
    text = newline.join(["dim n", "", "\t# naïve 🚀", "level été {", "\tminimize 🚀", "}"])
    parsed = parse(text, "test.mlo")
    (diagnostic,) = parsed.diagnostics

    assert diagnostic.span is not None
    assert parsed.source.position(diagnostic.span.start) == (5, 11)
    assert parsed.source.slice(diagnostic.span) == "🚀"
    assert parsed.source.line(4) == "level été {"
    assert parsed.source.offset(5, 11) == diagnostic.span.start


def test_positions_at_the_ends_of_lines() -> None:
    source = Source("x", "ab\r\ncd\n\re")

    assert [source.position(i) for i in range(9)] == [
        (1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (2, 3), (3, 1), (4, 1)
    ]  # fmt: skip
    assert [source.line(i) for i in (1, 2, 3, 4)] == ["ab", "cd", "", "e"]
    assert source.lines == 4
    with pytest.raises(IndexError):
        source.line(5)


def test_a_byte_order_mark_is_skipped_at_the_start_only() -> None:
    assert read("\ufeffdim n").items[0].span == Span("test.mlo", 1, 6)
    assert [d.code for d in parse("dim n\ufeff", "test").diagnostics] == ["MLO0101"]


def test_keywords_are_names_where_they_cannot_be_keywords() -> None:
    file = read(
        "dim dim data data from from(level = in.for) "
        "level level { minimize minimize(var.let*.run) level = 1 } "
        "profile profile { run.steps = 1 run.run = 2 level.data = 3 } "
        "split split into part = 1, into = 2"
    )

    assert [type(item).__name__ for item in file.items] == [
        "Dim", "Data", "Level", "Profile", "Split"
    ]  # fmt: skip


def test_a_type_may_end_before_an_equals_sign() -> None:
    (param,) = read("param x : int<2>= 1").items
    assert isinstance(param, ast.Param)

    assert param.default is not None
    assert param.type.span == Span("test.mlo", 10, 16)


def test_doc_comments_belong_to_what_is_below() -> None:
    file = read(
        "## no\n\n## one\n# not this\n## two\ndim n  ## behind\n##three\n\nlevel a {\n"
        "  ##   four\r\n  var x : real; ## no\n  minimize x\n}\n## end"
    )
    dim, level = file.items
    assert isinstance(level, ast.Level)

    assert dim.doc == "one\ntwo"
    assert level.doc == ""
    assert [statement.doc for statement in level.body] == ["  four", ""]
    assert [comment.text for comment in file.comments][-2:] == ["## no", "## end"]


@pytest.mark.parametrize("version", ["0.2", "1.0", "1", "1e2"])
def test_the_version_must_be_known(version: str) -> None:
    parsed = parse(f"mlo {version}\ndim n", "test.mlo")

    assert [d.code for d in parsed.diagnostics] == ["MLO0110"]
    assert parsed.source.slice(parsed.diagnostics[0].span or Span("", 0, 0)) == version
    assert read("mlo 0.0").items == ()


HARD = {
    "10,000 parentheses": "metric m = " + "(" * 10_000 + "x" + ")" * 10_000,
    "10,000 open parentheses": "metric m = " + "(" * 10_000,
    "5,000 calls": "metric m = " + "f(" * 5000 + ")" * 5000,
    "a long sum": "metric m = " + "1 + " * 5000 + "1",
    "a long path": "metric m = a" + ".b" * 5000,
    "minus signs": "metric m = " + "-" * 20_000 + "1",
    "powers": "metric m = " + "2^" * 5000 + "2",
    "conditions": "metric m = " + "if a then b else " * 5000 + "c",
    "records": "data a : " + "{a:" * 3000 + "real" + "}" * 3000 + " from x",
    "NUL": "dim n\0",
    "ten million characters": "garbage $ " * 1_000_000,
    "open blocks": "level a {" * 2000,
    "closing braces": "}" * 20_000,
    "quotes": "'" * 20_000,
    "operands": "metric m = f(" + "a b " * 5000,
    "statements": "a b\n" * 5000,
}


@pytest.mark.parametrize("text", HARD.values(), ids=HARD)
def test_hard_input_gets_a_diagnostic_and_in_time(text: str) -> None:
    start = time.process_time()
    parsed = parse(text, "test.mlo")
    seconds = time.process_time() - start

    assert parsed.diagnostics
    assert all(d.span and 0 <= d.span.start <= d.span.end <= len(text) for d in parsed.diagnostics)
    assert seconds < 1


def test_spaces_and_comments_take_linear_time() -> None:
    start = time.process_time()
    for text in (" " * LARGEST, "\n" * LARGEST, "## a\n" * (LARGEST // 5)):
        assert parse(text, "test.mlo").diagnostics == []

    assert time.process_time() - start < 3


def test_the_deepest_tree_can_be_walked_recursively() -> None:
    terms = DEEPEST - 1  # and the number at the bottom
    file = read("level l { metric m = " + "1 + " * terms + "1 }")
    deeper = parse("level l { metric m = " + "1 + " * (terms + 1) + "1 } dim n", "")

    assert ast.plain(file)
    assert [d.code for d in deeper.diagnostics] == ["MLO0111"]
    assert deeper.file is not None
    assert len(deeper.file.items) == 2


def test_expressions_have_diagnostics_too() -> None:
    expression, diagnostics = parse_expression("sgd(lr = .5", "--set")

    assert expression is None
    assert [d.code for d in diagnostics] == ["MLO0108"]
    assert parse_expression("1 2", "")[1] != []
    assert parse_expression("", "")[1] != []
    assert parse_expression("-" * 5000 + "1", "")[1][0].code == "MLO0111"


def test_tokens_for_highlighting_know_keywords_from_names() -> None:
    found = tokens("level level { data = data.var } # c")

    assert [(token.kind, token.text) for token in found] == [
        ("LEVEL", "level"), ("NAME", "level"), ("LBRACE", "{"), ("NAME", "data"), ("ASSIGN", "="),
        ("NAME", "data"), ("DOT", "."), ("NAME", "var"), ("RBRACE", "}"),
    ]  # fmt: skip
    assert [token.kind for token in tokens('x $ "')] == ["NAME", "BAD", "BAD_STRING"]


def test_a_good_program_needs_neither_lark_nor_any_diagnostics(program: str) -> None:
    parse(program, "x")  # so that the tables are in the cache
    code = (
        "import sys; from bettyc.grammar.parse import parse; parse(sys.stdin.read(), 'x');"
        "print(*(m for m in ('lark', 'torch', 'numpy', 'rich', 'networkx', 'pathlib',"
        "'bettyc.grammar.recover', 'bettyc.diagnostics.registry') if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        input=program,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == ""


def test_four_thousand_lines_are_parsed_in_time() -> None:
    texts = [path.read_text(encoding="utf-8").partition("\n")[2] for path in NINE]
    text = "".join(texts) * 13
    assert text.count("\n") > 4000
    seconds = []
    for _ in range(3):
        start = time.process_time()
        assert parse(text, "x").diagnostics == []
        seconds.append(time.process_time() - start)

    assert min(seconds) < 1.2
