"""The page of first mistakes: each program gets its code, and its first help cures it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from reading import shown

from bettyc.diagnostics.apply import apply_edits

PAGE = (Path(__file__).parents[2] / "docs" / "mistakes.md").read_text(encoding="utf-8")
MISTAKES = re.findall(r"^```mlo fail=(MLO\d{4})\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_there_are_ten():
    assert len(MISTAKES) == 10


@pytest.mark.parametrize(("code", "text"), MISTAKES)
def test_following_the_first_help_alone_cures_it(code, text):
    (found,) = shown(text)

    assert found.code == code
    assert shown(apply_edits(text, list(found.suggestions[0].edits))) == []
