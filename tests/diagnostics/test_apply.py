"""Applying edits to a text."""

import pytest

from bettyc.diagnostics.apply import apply_edits, apply_suggestions
from bettyc.diagnostics.model import Edit, Suggestion
from bettyc.diagnostics.span import Span


def edit(start, end, text):
    return Edit(Span("a.mlo", start, end), text)


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        ([], "abcdef"),
        ([edit(0, 0, "X")], "Xabcdef"),
        ([edit(6, 6, "X")], "abcdefX"),
        ([edit(1, 3, "")], "adef"),
        ([edit(3, 5, "YY!"), edit(0, 1, "")], "bcYY!f"),
        ([edit(2, 2, "1"), edit(2, 2, "2")], "ab12cdef"),
        ([edit(0, 3, "X"), edit(3, 6, "Y")], "XY"),
        ([edit(2, 4, "X"), edit(2, 2, "Y")], "abYXef"),
    ],
)
def test_edits_refer_to_the_text_before_any_of_them(edits, expected):
    assert apply_edits("abcdef", edits) == expected


@pytest.mark.parametrize(
    "edits", [[edit(0, 3, ""), edit(2, 4, "")], [edit(5, 7, "")], [edit(3, 2, "")]]
)
def test_edits_that_do_not_fit_are_refused(edits):
    with pytest.raises(ValueError, match="overlaps another or lies outside"):
        apply_edits("abcdef", edits)


def test_a_part_of_a_file_has_an_origin():
    assert apply_edits("cde", [edit(3, 4, "X")], origin=2) == "cXe"


def test_suggestions_that_touch_wait_for_the_next_round():
    first = Suggestion("", (edit(0, 1, "A"), edit(4, 5, "E")))
    touching = Suggestion("", (edit(2, 3, "C"), edit(5, 6, "F")))
    apart = Suggestion("", (edit(2, 3, "3"),))
    words = Suggestion("only words")

    assert apply_suggestions("abcdef", [first, touching, words, apart]) == ("Ab3dEf", 2)
