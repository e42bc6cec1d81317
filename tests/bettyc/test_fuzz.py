"""Broken texts of every kind: an answer within a second, places inside the file, never a crash.

Tokens of good programs are deleted, doubled, swapped, replaced and misspelt; every prefix of every
program is read, as an editor does all day.
"""

from __future__ import annotations

import random
import string
import time

import pytest
from reading import GOOD, PROGRAMS, read

from bettyc.diagnostics.render import render
from bettyc.grammar.parse import parse, tokens

TEXTS = {
    **GOOD,
    **{f"bad {p.stem}": p.read_text(encoding="utf-8") for p in (PROGRAMS / "bad").glob("*.mlo")},
}
SIGNS = "( ) { } [ ] , ; . *. * @ = : .. 0 1e-3 1e999 - ^ $ é < > int<"
WORDS = "level var minimize detach for in if new inf real mean foreach import as true"
PIECES = [*SIGNS.split(), *WORDS.split(), '"', "\x00"]
SLOWEST = 1.0


def mutate(rng: random.Random, text: str) -> str:
    """The text with one to three of its tokens disturbed."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        found = tokens(text)
        if not found:
            return text
        k = rng.randrange(len(found))
        token = found[k]
        other = rng.choice(found)
        before, inside, after = (
            text[: token.start],
            text[token.start : token.end],
            text[token.end :],
        )
        choice = rng.randrange(7)
        if choice == 0:
            inside = ""
        elif choice == 1:
            inside = f"{inside} {inside}"
        elif choice == 2:
            inside = other.text
        elif choice == 3 and k + 1 < len(found):
            following = found[k + 1]
            inside = following.text + text[token.end : following.start] + token.text
            after = text[following.end :]
        elif choice == 4:
            inside = rng.choice(PIECES)
        elif choice == 5:
            at = rng.randrange(len(inside) + 1)
            inside = inside[:at] + rng.choice(string.ascii_lowercase + "_9") + inside[at:]
        else:
            inside = f"{inside} {rng.choice(PIECES)} "
        text = before + inside + after
    return text


def examine(text: str) -> None:
    """What holds of every answer to every text."""
    began = time.process_time()
    found = read(text)
    shown = found.shown()
    taken = time.process_time() - began
    if taken > SLOWEST:  # once more: a first call may import modules
        began = time.process_time()
        read(text)
        taken = time.process_time() - began
    assert taken <= SLOWEST

    for d in shown:
        spans = [d.span, *(label.span for label in d.secondary), *(n.span for n in d.notes)]
        spans += [e.span for s in d.suggestions for e in s.edits]
        for span in spans:
            if span is not None:
                size = len(found.sources[span.file].text)
                assert 0 <= span.start <= span.end <= size, (d.code, span, size)
    places = [(d.code, d.span, d.message) for d in shown]
    assert len(places) == len(set(places)), places
    if parse(text, "p.mlo").diagnostics:
        assert any(d.severity == "error" for d in shown)
    if not found.errors:
        assert found.model is not None
        assert found.resolved
    render(shown, found.sources, "full", False)


def sample(name: str, seed: int, count: int) -> None:
    rng = random.Random(f"{name} {seed}")
    for _ in range(count):
        text = mutate(rng, TEXTS[name])
        try:
            examine(text)
        except Exception as error:
            error.add_note(f"the text was:\n{text}")
            raise


@pytest.mark.parametrize("name", TEXTS)
def test_a_few_hundred_token_mutations(name):
    sample(name, 0, 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXTS)
def test_ten_thousand_token_mutations(name):
    sample(name, 1, 10_000 // len(TEXTS) + 1)


def prefixes(name: str) -> list[str]:
    text = TEXTS[name]
    return ["", *(text[: token.end] for token in tokens(text))]


@pytest.mark.parametrize("name", TEXTS)
def test_some_prefixes_of_every_program(name):
    for text in prefixes(name)[:: 1 if len(TEXTS[name]) < 300 else 50]:
        examine(text)


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXTS)
def test_every_prefix_of_every_program(name):
    for text in prefixes(name):
        examine(text)


@pytest.mark.parametrize(
    "text",
    ["", "\n", "#", "\ufeff", "\x00", "(" * 500, "level", '"', "-" * 3000, "a" * 100_000,
     "level l { minimize " + "(" * 300 + "x" + ")" * 300 + " }", "dim n = " + "9" * 5000,
     "\r\n\r\nlevel\r\n", "level ä { var β : real = 0 minimize β^2 }",
     "param p : real = 10^10^10^10", "level l { var x : real = 0 minimize x^(2^1000) }",
     "dim n = 10^30\nlevel l { var x : real[n] = zeros minimize sumsq(x) }",
     "def f(x) = f(x)\nlevel l { var x : real = 0 minimize f(f(f(x))) }",
     'data d : { x: real[n] } from npz("x")', "split a into b = 0.5", "run { steps = run }",
     "profile p { p.q.r.s.t = 1 }", "level l foreach l in l { minimize l }"],
)  # fmt: skip
def test_strange_texts(text):
    examine(text)
