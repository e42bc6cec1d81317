"""Sizes and compile-time values inside formulas, and what one mistake does not drag along."""

from __future__ import annotations

import pytest
from reading import codes, read

from bettyc.types import Tensor

PROGRAM = """
dim n, d, C
param k : int = 2
data s : {{ x: real[n, d], y: int<C>[n], l: real[C] }} from npz("s.npz")
def twice(v) = 2 * v
level fit {{
  var W : real[d, C] = zeros
  var u : real[d, 3] = zeros
  let value = {let}
  minimize sumsq(W) + sumsq(u) + {term}
  optimizer = sgd(lr = 0.1)
}}
"""


def found(term: str, let: str = "0") -> list[str]:
    return codes(PROGRAM.format(term=term, let=let))


@pytest.mark.parametrize(
    "term",
    [
        "sumsq(one_hot(s.y, C) - s.x @ W)",
        "sumsq(one_hot(s.y, classes = C) - s.x @ W)",
        "sumsq(zeros(d, C) - W)",
        "sumsq(clip(W, -1.0 / 2, 0.5 * k))",
        "sumsq(sum(W, axis = k - 1) - sum(W, axis = -1))",
        "sumsq(u[:, k]) + sumsq(u[0:d, 1:3])",
        "sumsq(W[:, new, :] - W[:, new, 0:C])",
        "mean(s.x @ W) * n / d",
        "(if k > 1 then sumsq(W) else sumsq(u))",
    ],
)
def test_formulas_that_fit(term):
    assert found(term) == []


@pytest.mark.parametrize(
    ("term", "code"),
    [
        ("sumsq(one_hot(s.y, d) - s.x @ W)", "MLO0405"),
        ("sumsq(sum(W, axis = C))", "MLO0411"),
        ("sumsq(sum(W, axis = 1.5))", "MLO0404"),
        ("sumsq(sum(W, axis = 2))", "MLO0417"),
        ('sumsq(clip(W, "a", 1))', "MLO0404"),
        ("sumsq(u[:, 3])", "MLO0406"),
        ("sumsq(W[0, 0, 0])", "MLO0407"),
        ("sumsq(W - u)", "MLO0402"),
        ("sumsq(s.x @ u @ W)", "MLO0401"),
        ("sumsq(if k > 1 then W else u)", "MLO0414"),
    ],
)
def test_formulas_that_do_not(term, code):
    assert found(term) == [code]


@pytest.mark.parametrize(
    "let",
    [
        "nowhere + 1",
        "s.z",
        "W @ W",
        "twice(W, W)",
        "sumsq(W, W, W)",
        "fit.nothing",
        "mean(nowhere)",
    ],
)
def test_what_is_wrong_is_said_once_and_what_uses_it_is_silent(let):
    """Uses in arithmetic, calls, subscripts, `def`s and conditions."""
    uses = "sum(value) + twice(value) + value[0] + value @ value + (if value > 0 then 1 else 2)"

    assert len(found(f"mean({uses}) + abs(value)", let)) == 1


def test_types_keep_the_names_of_dims():
    checked = read(PROGRAM.format(term="mean(value)", let="s.x @ W"))
    objective = checked.model.level("fit").objective
    types = {str(checked.graph[i].type) for i in checked.graph.reachable([objective])}

    assert "real[n, C]" in types
    assert all(isinstance(checked.graph[i].type, Tensor)
               for i in checked.graph.reachable([objective]))  # fmt: skip


def test_dims_that_are_given_are_numbers():
    assert codes(PROGRAM.format(term="mean(s.x @ W)", let="0"), mock=(("d", 4), ("C", 2))) == []
    assert codes(PROGRAM.format(term="sumsq(W - u)", let="0"), mock=(("C", 3),)) == []
