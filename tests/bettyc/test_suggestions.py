"""What a diagnostic offers to write can be written: every edit leaves a text that parses, and so
does what its suggestions and notes quote, where that is more than a word or a sign.

The diagnostics are those of the bad programs, of the pages of all codes, and of the mutants of
every good program.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pytest
from reading import PROGRAMS, codes, shown
from test_mutants import OPERATORS, answered, rename_a_use

from bettyc.diagnostics.apply import apply_edits
from bettyc.diagnostics.model import Diagnostic
from bettyc.diagnostics.page import page
from bettyc.diagnostics.registry import FAMILIES, family
from bettyc.driver import check
from bettyc.grammar.parse import parse

CODES = [code for digits in FAMILIES for code in family(digits)]
BAD = {p.stem: p.read_text(encoding="utf-8") for p in sorted((PROGRAMS / "bad").glob("*.mlo"))}
# For a name that is misspelt another name is offered, in all of its hundreds of mutants.
ELSE = [operator for operator in OPERATORS if operator is not rename_a_use]
COPIED = """
level adapt {
  module net = mlp([2, 1])
  minimize sumsq(net([[1, 2]])) * exp(meta.l)
  optimizer = sgd(lr = 0.1)
  start     = copy(meta.net)
}

level meta {
  module net = mlp([2, 1])
  var l : real = 0
  minimize sumsq(adapt.net([[1, 2]])) + l^2
  optimizer = sgd(lr = 0.1)
}
"""


def mistakes(text: str) -> int:
    return len(parse(text, "p.mlo").diagnostics)


def broken(text: str, found: Sequence[Diagnostic]) -> Iterator[str]:
    """The suggestions that leave more syntax errors than there were."""
    for d in found:
        for suggestion in d.suggestions:
            cured = apply_edits(text, list(suggestion.edits))
            if mistakes(cured) > mistakes(text):
                yield f"{d.code}: {suggestion.message}\n{cured}"


# Where a quoted piece may stand, and what is none of the language: places left open, commands,
# names of parameters.
PLACES = (
    "{}", "metric m = {}", "level l {{ {} }}", "run {{ {} }}", "run {{ x = {} }}",
    "data d : {} from npz(\"a.npz\")", "level l {{ var w : {} }}",
)  # fmt: skip
OPEN = re.compile(r"\.\.\.|^\W|^bettyc |^--|^\w+$|^\d+\.")


def unwritable(found: Sequence[Diagnostic]) -> Iterator[str]:
    """Quoted pieces of suggestions and notes that parse nowhere."""
    for d in found:
        for text in (*(s.message for s in d.suggestions), *(n.text for n in d.notes)):
            for piece in re.findall("`([^`]+)`", text):
                somewhere = any(not mistakes(place.format(piece)) for place in PLACES)
                if not OPEN.search(piece) and not somewhere:
                    yield f"{d.code}: {text}"


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_edits_for_bad_programs_parse(text: str) -> None:
    assert [*broken(text, shown(text)), *unwritable(shown(text))] == []


@pytest.mark.parametrize("code", CODES)
def test_edits_for_the_programs_of_the_pages_parse(code: str) -> None:
    text = page(code).failing

    assert [*broken(text, shown(text)), *unwritable(shown(text))] == []


@pytest.mark.parametrize("operator", ELSE, ids=lambda o: o.__name__)
def test_edits_for_mutants_parse(operator) -> None:
    assert [b for mutant, found in answered(operator) for b in broken(mutant.text, found)] == []


def test_a_copied_start_takes_neither_star_nor_detach() -> None:
    (found,) = shown(COPIED)

    assert found.code == "MLO0319"
    (cure,) = found.suggestions  # that `meta` be the lower one, or both play at once, cannot be
    assert codes(apply_edits(COPIED, list(cure.edits))) == []


def test_a_copied_start_alone_asks_for_a_star_above() -> None:
    (found,) = shown(COPIED.replace("exp(meta.l)", "2").replace("adapt.net", "net"))

    assert found.code == "MLO0319"
    assert [(s.message[:9], s.edits) for s in found.suggestions] == [("if `meta`", ())]


def test_a_level_judged_by_its_own_part_of_a_split_is_offered_the_other() -> None:
    text = """mlo 0.1
dim n = 20, d = 3
data all : { x: real[n, d], y: real[n] } from npz("train.npz")
split all into train = 0.5, val = 0.5
level fit {
  var w : real[d] = zeros
  minimize mean((train.x @ w - train.y)^2) + sum(exp(tune.a) * w^2)
}
level tune {
  var a : real[d] = zeros
  minimize mean((train.x @ fit*.w - train.y)^2)
  optimizer = adam(lr = 0.1)
}
"""
    (found,) = [d for d in check(text, "p.mlo").diagnostics if d.code == "MLO0502"]
    (offered,) = found.suggestions

    assert [edit.text for edit in offered.edits] == ["val", "val"]
    assert "mean((val.x @ fit*.w - val.y)^2)" in apply_edits(text, offered.edits)
