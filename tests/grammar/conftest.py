"""What the tests of the grammar share."""

from __future__ import annotations

from pathlib import Path

import pytest
from lark import Lark

from bettyc.grammar.tables import GRAMMAR, STARTS

NINE = sorted(Path(__file__).parents[1].joinpath("programs", "nine").glob("*.mlo"))


@pytest.fixture(params=NINE, ids=lambda path: path.stem)
def program(request: pytest.FixtureRequest) -> str:
    """The text of each of the nine programs."""
    path: Path = request.param
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def lark() -> Lark:
    """Lark's own parser of the language; strict, so that a conflict is an error."""
    grammar = Path(GRAMMAR).read_text(encoding="utf-8")
    return Lark(
        grammar,
        parser="lalr",
        lexer="contextual",
        maybe_placeholders=True,
        strict=True,
        start=list(STARTS),
    )
