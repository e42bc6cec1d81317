"""Columns and colour."""

import pytest

from bettyc.diagnostics.text import Row, cells, paint, wants_color


@pytest.mark.parametrize(
    ("line", "starts"),
    [
        ("", [0]),
        ("ab", [0, 1, 2]),
        ("\tb", [0, 4, 5]),
        ("abc\td", [0, 1, 2, 3, 4, 5]),
        ("重b", [0, 2, 3]),
        ("e\u0301b", [0, 1, 1, 2]),
        ("重\u0301b", [0, 2, 2, 3]),
    ],
)
def test_starts_of_code_points(line, starts):
    columns, found = cells(line)

    assert found == starts
    assert len(columns) == starts[-1]


def test_a_row_is_written_over_and_ends_without_spaces():
    row = Row().put(2, "abc", "error").put(3, "X", "note").put(6, "  ")

    assert row.render(False) == "  aXc"
    assert row.render(True) == "  \x1b[1;31ma\x1b[0m\x1b[1;32mX\x1b[0m\x1b[1;31mc\x1b[0m"


def test_a_row_that_ends_in_a_wide_character():
    assert Row().put(0, "a重").render(False) == "a重"


def test_paint_leaves_plain_text_alone():
    assert paint("x", "error", False) == "x"
    assert paint("", "error", True) == ""
    assert paint("x", "error", True) == "\x1b[1;31mx\x1b[0m"


@pytest.mark.parametrize(
    ("mode", "terminal", "environ", "expected"),
    [
        ("auto", True, {}, True),
        ("auto", False, {}, False),
        ("auto", True, {"NO_COLOR": "1"}, False),
        ("auto", True, {"NO_COLOR": ""}, True),
        ("auto", True, {"TERM": "dumb"}, False),
        ("always", False, {"NO_COLOR": "1"}, True),
        ("never", True, {}, False),
    ],
)
def test_when_to_colour(mode, terminal, environ, expected):
    assert wants_color(mode, terminal, environ) is expected
