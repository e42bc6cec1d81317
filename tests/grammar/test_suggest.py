"""Did you mean: what is near, and what is not."""

from __future__ import annotations

from functools import cache
from itertools import product

import pytest

from bettyc.diagnostics.suggest import closest, distance


@pytest.mark.parametrize(
    ("word", "candidates", "expected"),
    [
        ("vra", ["let", "var", "draw"], ["var"]),
        ("adma", ["sgd", "adam", "adamw"], ["adam"]),
        ("stpes", ["stop", "steps", "start"], ["steps"]),
        ("minimise", ["maximize", "minimize"], ["minimize"]),
        ("Minimize", ["minimize"], ["minimize"]),
        ("learning_rate", ["lr"], []),
        ("elephant", ["level", "let"], []),
        ("b", ["a", "bb"], []),
        ("abcdef", ["abcxyz"], []),
        ("abcdef", ["abcdxy"], ["abcdxy"]),
        ("fit", ["fit"], []),
        ("fit", [], []),
        ("at", ["as", "it", "a"], ["as"]),
    ],
)
def test_closest(word: str, candidates: list[str], expected: list[str]) -> None:
    assert closest(word, candidates) == expected


def test_nearest_first_and_no_more_than_asked_for() -> None:
    words = ["traim", "brain", "rain", "train", "grain", "val"]

    assert closest("trains", words, n=3) == ["train", "traim", "brain"]
    assert closest("trains", words, n=9) == ["train", "traim", "brain", "rain", "grain"]


def reference(a: str, b: str) -> int:
    """Optimal string alignment, straight from its definition."""

    @cache
    def edits(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        ways = [
            edits(i - 1, j) + 1,
            edits(i, j - 1) + 1,
            edits(i - 1, j - 1) + (a[i - 1] != b[j - 1]),
        ]
        if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
            ways.append(edits(i - 2, j - 2) + 1)
        return min(ways)

    return edits(len(a), len(b))


def test_distance() -> None:
    words = ["".join(letters) for size in range(5) for letters in product("abc", repeat=size)]

    for a in words[::2]:
        for b in words[::3]:
            assert distance(a, b) == reference(a, b)
