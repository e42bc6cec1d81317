"""Flags and comments that decide what is shown."""

import re

import pytest

from bettyc.diagnostics.apply import apply_edits
from bettyc.diagnostics.model import Diagnostic
from bettyc.diagnostics.registry import row
from bettyc.diagnostics.span import Span
from bettyc.diagnostics.suppress import Levels, suppress

WARNING, PEDANTIC, ERROR = "MLO0416", "MLO0902", "MLO0403"


def found(code, span=None):
    return Diagnostic(code, "m", span, severity=row(code).severity)


def comments(source):
    """The comments of a program whose strings hold no `#`."""
    return {
        source.name: [
            (Span(source.name, match.start(), match.end()), match[0])
            for match in re.finditer("#[^\n]*", source.text)
        ]
    }


def codes(source, diagnostics, statements=(), levels=None):
    levels = levels or Levels(pedantic=True)
    shown = suppress(diagnostics, comments(source), {source.name: source}, statements, levels)
    return [(d.code, source.position(d.span.start)[0]) for d in shown]


@pytest.mark.parametrize(
    ("levels", "warning", "pedantic", "error"),
    [
        (Levels(), "warning", None, "error"),
        (Levels(pedantic=True), "warning", "pedantic", "error"),
        (Levels(allow=frozenset({WARNING, PEDANTIC}), pedantic=True), None, None, "error"),
        (Levels(warn=frozenset({PEDANTIC})), "warning", "warning", "error"),
        (Levels(error=frozenset({WARNING, PEDANTIC})), "error", "error", "error"),
        (Levels(error_on_warning=True), "error", None, "error"),
        (Levels(error_on_warning=True, pedantic=True), "error", "error", "error"),
        (Levels(error_on_warning=True, allow=frozenset({WARNING})), None, None, "error"),
        (Levels(warn=frozenset({WARNING}), allow=frozenset({WARNING})), "warning", None, "error"),
        (Levels(error=frozenset({WARNING}), allow=frozenset({WARNING})), "error", None, "error"),
    ],
)
def test_levels(levels, warning, pedantic, error):
    assert levels.severity(found(WARNING)) == warning
    assert levels.severity(found(PEDANTIC)) == pedantic
    assert levels.severity(found(ERROR)) == error


def test_a_warning_code_reported_as_an_error_stays_one():
    strict = Diagnostic(WARNING, "m", None, severity="error")

    assert Levels(allow=frozenset({WARNING})).severity(strict) == "error"


def test_levels_refuse_codes_that_cannot_be_changed():
    with pytest.raises(ValueError, match="unknown code MLO0299"):
        Levels(warn=frozenset({"MLO0299"}))
    with pytest.raises(ValueError, match="unknown code nonsense"):
        Levels(error=frozenset({"nonsense"}))
    with pytest.raises(ValueError, match="MLO0403 is an error"):
        Levels(allow=frozenset({ERROR}))
    with pytest.raises(ValueError, match="MLO0403 is an error"):
        Levels(warn=frozenset({ERROR}))
    Levels(error=frozenset({ERROR}))


def test_a_comment_covers_the_line_it_ends(program):
    source = program("a.mlo", f"one\ntwo  # mlo: allow({WARNING})\nthree\n")
    diagnostics = [found(WARNING, source.at(word)) for word in ("one", "two", "three")]

    assert codes(source, diagnostics) == [(WARNING, 1), (WARNING, 3)]


def test_a_comment_alone_covers_the_next_line_of_code(program):
    source = program(
        "a.mlo", f"one\n# mlo: allow({WARNING}, {PEDANTIC}): because\n\n# more\ntwo\nthree\n"
    )
    diagnostics = [found(WARNING, source.at("two")), found(PEDANTIC, source.at("two"))]
    diagnostics += [found(WARNING, source.at("one")), found(WARNING, source.at("three"))]

    assert codes(source, diagnostics) == [(WARNING, 1), (WARNING, 6)]


def test_a_comment_above_all_code_covers_the_file(program):
    source = program("a.mlo", f"# about\n## mlo: allow({WARNING})\none\ntwo\n")
    other = found(WARNING, Span("b.mlo", 0, 1))

    assert codes(source, [found(WARNING, source.at("two"))]) == []
    assert suppress([other], comments(source), {source.name: source}) == [other]


def test_a_comment_covers_the_whole_statement_it_stands_at(program):
    source = program("a.mlo", f"level\n# mlo: allow({WARNING})\nminimize a\n  + b\nc\n")
    diagnostics = [found(WARNING, source.at("+ b")), found(WARNING, source.at("c\n"))]
    statement = Span("a.mlo", source.at("minimize").start, source.at("+ b").end)
    level = Span("a.mlo", 0, len(source.text))

    assert codes(source, diagnostics, [level, statement]) == [(WARNING, 5)]
    assert codes(source, diagnostics) == [(WARNING, 4), (WARNING, 5), ("MLO0906", 2)]


def test_another_code_is_not_covered(program):
    source = program("a.mlo", f"one\ntwo # mlo: allow({PEDANTIC})\n")

    assert codes(source, [found(WARNING, source.at("two"))]) == [(WARNING, 2), ("MLO0906", 2)]


def test_an_error_is_not_suppressed_and_the_comment_says_why(program):
    source = program("a.mlo", f"one\ntwo # mlo: allow({ERROR})\n")

    error, unused = suppress(
        [found(ERROR, source.at("two"))],
        comments(source),
        {source.name: source},
        levels=Levels(pedantic=True),
    )

    assert error.code == ERROR
    assert (unused.code, unused.severity) == ("MLO0906", "pedantic")
    assert unused.message == f"`allow({ERROR})` suppresses nothing"
    assert unused.label == "an error cannot be allowed"
    assert source.slice(unused.span) == ERROR


def test_unused_comments_are_pedantic(program):
    source = program("a.mlo", f"one\n# mlo: allow({WARNING})\ntwo\n")

    assert codes(source, [], levels=Levels()) == []
    assert codes(source, []) == [("MLO0906", 2)]


def test_unused_comments_can_themselves_be_allowed(program):
    source = program("a.mlo", f"# mlo: allow(MLO0906)\none\n# mlo: allow({WARNING})\ntwo\n")

    assert codes(source, []) == []


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("one\n  # mlo: allow(MLO0416)\ntwo\n", "one\ntwo\n"),
        ("one\ntwo  # mlo: allow(MLO0416)\n", "one\ntwo\n"),
        ("one\n# mlo: allow(MLO0416)", "one\n"),
    ],
)
def test_an_unused_comment_can_be_removed(program, text, after):
    source = program("a.mlo", text)

    (unused,) = suppress([], comments(source), {"a.mlo": source}, levels=Levels(pedantic=True))

    assert apply_edits(text, unused.suggestions[0].edits) == after


def test_a_comment_with_several_codes_is_not_removed_for_one(program):
    source = program("a.mlo", f"one\n# mlo: allow({WARNING}, {PEDANTIC}, MLO0999)\ntwo\n")

    unused = suppress(
        [found(WARNING, source.at("two"))],
        comments(source),
        {"a.mlo": source},
        levels=Levels(pedantic=True),
    )

    assert [(source.slice(d.span), d.label) for d in unused] == [
        (PEDANTIC, ""),
        ("MLO0999", "no such code"),
    ]
    assert all(not d.suggestions for d in unused)


def test_other_comments_mean_nothing(program):
    source = program(
        "a.mlo", f"one\n# we could allow({WARNING}) here, mlo: allow({WARNING})\ntwo\n"
    )

    assert codes(source, [found(WARNING, source.at("two"))]) == [(WARNING, 3)]


def test_a_comment_that_ends_the_first_line_of_code_covers_that_line_only(program):
    source = program("a.mlo", f"one # mlo: allow({WARNING})\ntwo\n")
    diagnostics = [found(WARNING, source.at(word)) for word in ("one", "two")]

    assert codes(source, diagnostics) == [(WARNING, 2)]


def test_a_comment_below_all_code_covers_nothing(program):
    source = program("a.mlo", f"one\n# mlo: allow({WARNING})\n")

    assert codes(source, [found(WARNING, source.at("one"))]) == [(WARNING, 1), ("MLO0906", 2)]
