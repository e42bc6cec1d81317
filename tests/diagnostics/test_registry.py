"""The registry is complete, and every code has its page."""

import re
import string
import subprocess
import sys

import pytest

from bettyc.diagnostics import registry
from bettyc.diagnostics.explain import explain, find, listing
from bettyc.diagnostics.model import Label, Note
from bettyc.diagnostics.page import FOLDER, page, parse_page
from bettyc.diagnostics.registry import FAMILIES, family, report, row
from bettyc.diagnostics.span import Span

# The codes of the design, with 0309, 0417, 0418, 0510, 0511, 0616 to 0619 and 0805 to 0809 that
# building it added; syntax may grow.
DESIGN = {
    "01": [1, 3, 4, 5, 6, 8, 9, 10],
    "02": range(1, 14),
    "03": [*range(1, 8), *range(9, 24)],
    "04": range(1, 19),
    "05": range(1, 12),
    "06": range(1, 21),
    "07": range(1, 11),
    "08": range(1, 10),
    "09": range(1, 8),
}
WARNINGS = {
    *("MLO0317", "MLO0318", "MLO0322", "MLO0416", "MLO0503", "MLO0505", "MLO0609", "MLO0610"),
    *("MLO0613", "MLO0619", "MLO0706", "MLO0707", "MLO0710", "MLO0806", "MLO0807"),
    "MLO0809",
}
CODES = [code for digits in FAMILIES for code in family(digits)]
# Parameters of `report`, which a field of a message cannot be called.
RESERVED = {"code", "span", "label", "secondary", "notes", "suggestions", "severity"}


@pytest.mark.parametrize("digits", DESIGN)
def test_the_numbers_are_those_of_the_design(digits):
    expected = {f"MLO{digits}{number:02}" for number in DESIGN[digits]}

    if digits == "01":
        assert expected <= set(family(digits))
    else:
        assert set(family(digits)) == expected


def test_severities_are_those_of_the_design():
    pedantic = {code for code in CODES if code.startswith("MLO09")} | {"MLO0804"}

    by_severity = {severity: set() for severity in ("error", "warning", "pedantic")}
    for code in CODES:
        by_severity[row(code).severity].add(code)
    assert by_severity["warning"] - family("01").keys() == WARNINGS
    assert by_severity["pedantic"] == pedantic


def test_codes_and_names_are_unique():
    for digits in FAMILIES:
        rows = registry.import_module(f"bettyc.diagnostics.codes.{FAMILIES[digits]}").CODES
        assert len(rows) == len(family(digits))
        assert all(row.code[3:5] == digits for row in rows)
    names = [row(code).name for code in CODES]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", name) for name in names)


@pytest.mark.parametrize("code", CODES)
def test_messages_say_what_is_wrong_in_house_style(code):
    message = row(code).message
    fields = {name for _, name, _, _ in string.Formatter().parse(message) if name is not None}

    assert message == message.strip()
    assert not message.endswith(".")
    assert message[0] in "`{" or message[0].islower()
    assert message.count("`") % 2 == 0
    assert not {"illegal", "did you mean"} & set(message.split())
    assert all(name.isidentifier() for name in fields)
    assert not fields & RESERVED
    filled = report(code, None, **dict.fromkeys(fields, "x"))
    assert "{" not in filled.message


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_a_page_with_both_programs(code):
    found = page(code)

    assert found.text.startswith(f"# {code}: {row(code).name.replace('-', ' ')}\n")
    headings = re.findall("^## (.*)$", found.text, re.MULTILINE)
    assert headings == ["A program that fails", "Why", "The corrected program"]
    failing = (found.failing, found.failing_files, (found.command, found.on, *found.arguments))
    assert failing != (found.fixed, found.fixed_files, found.cure)
    assert found.command in ("check", "plan", "report", "run")
    assert all(len(line) <= 100 for line in found.text.split("\n"))
    assert len(found.text.split("##")[0]) > 80


def test_every_page_has_a_code():
    import os

    assert sorted(os.listdir(FOLDER)) == sorted(f"{code}.md" for code in CODES)


def test_pedantic_pages_ask_for_pedantic_findings():
    for code in CODES:
        asked = "--pedantic" in page(code).arguments
        assert asked == (row(code).severity == "pedantic"), code


def test_a_page_in_parts():
    text = (
        "# t\n```csv file=a.csv\n1\n```\n"
        "```mlo fail=MLO0503 command=run args=\"--data a='x y'\"\nbad\n```\n"
        "```csv file=b.csv\n2\n```\n```mlo\ngood\n```\n"
    )

    found = parse_page(text, "MLO0503")

    assert (found.failing, found.fixed) == ("bad\n", "good\n")
    assert (found.command, found.arguments) == ("run", ("--data", "a=x y"))
    assert found.cure == ("run", "program.mlo", "--data", "a=x y")
    assert found.failing_files == {"a.csv": "1\n"}
    assert found.fixed_files == {"a.csv": "1\n", "b.csv": "2\n"}


@pytest.mark.parametrize(
    "text",
    [
        "no program",
        "```mlo fail=MLO0503\nbad\n```\n",
        "```mlo\ngood\n```\n",
        "```mlo fail=MLO0501\nbad\n```\n```mlo\ngood\n```\n",
        "```mlo fail=MLO0503\nbad\n```\n```mlo\ngood\n```\n```mlo\nmore\n```\n",
    ],
)
def test_a_page_must_have_one_failing_and_one_corrected_program(text):
    with pytest.raises(ValueError, match="the page of MLO0503"):
        parse_page(text, "MLO0503")


def test_report_fills_the_message():
    span = Span("a.mlo", 0, 1)

    found = report("MLO0204", span, label="l", secondary=[Label(span, "s")], notes=["n"], name="w")

    assert found.message == "`w` is already declared"
    assert (found.severity, found.span, found.label) == ("error", span, "l")
    assert found.secondary == (Label(span, "s"),)
    assert found.notes == (Note("n"),)
    assert report("MLO0204", None, name="w", severity="warning").severity == "warning"


@pytest.mark.parametrize("code", ["MLO0299", "MLO1234", "E1", ""])
def test_an_unregistered_code_is_our_bug(code):
    with pytest.raises(KeyError):
        report(code, None)


def test_a_missing_field_is_our_bug():
    with pytest.raises(KeyError, match="name"):
        report("MLO0204", None)


@pytest.mark.parametrize("word", ["MLO0319", "mlo0319", "0319", "319", " undirected-read "])
def test_a_code_is_found_by_what_people_type(word):
    assert find(word) == "MLO0319"
    assert explain(word).startswith("# MLO0319: undirected read\n")


@pytest.mark.parametrize("word", ["MLO0399", "nonsense", "", "..", "../MLO0319", "99999"])
def test_an_unknown_code_is_not_explained(word):
    with pytest.raises(KeyError):
        explain(word)


def test_listing_has_every_code_in_order():
    codes = [code for code, *_ in listing()]

    assert codes == sorted(CODES)
    assert ("MLO0302", "own-star", "error", "level `{level}` stars itself") in listing()


def test_reporting_and_printing_import_little():
    """A check reads no page, and nothing heavy is imported to print a diagnostic."""
    program = (
        "import sys\n"
        "from bettyc.diagnostics.registry import report\n"
        "from bettyc.diagnostics.render import render\n"
        "from bettyc.diagnostics.suppress import suppress, Levels\n"
        "render(suppress([report('MLO0302', None, level='a')], {}, {}, (), Levels()), {})\n"
        "print(*sys.modules)\n"
    )

    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    loaded = set(run.stdout.split())
    assert not loaded & {"torch", "numpy", "networkx", "rich", "json", "lark"}
    assert {name for name in loaded if name.startswith("bettyc.diagnostics.codes.")} == {
        "bettyc.diagnostics.codes.row",
        "bettyc.diagnostics.codes.hierarchy",
    }
    assert "bettyc.diagnostics.page" not in loaded
