"""Values of `--sweep`: what they are, and where a mistake in them is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bettyc.driver import check
from bettyc.options import Options
from bettyc.sweep import Axis, axes, grid

PROGRAM = """
level fit {
  var w : real = 0
  minimize (w - 1)^2
  optimizer = sgd(lr = 0.1)
}
"""


def values(text: str) -> tuple[str, ...]:
    found, diagnostics, _ = axes([f"a.b={text}"])
    assert diagnostics == []
    return found[0].values


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("log(1e-3..1e-1, 5)", ("0.001", "0.00316228", "0.01", "0.0316228", "0.1")),
        ("log(1..8, 4)", ("1.0", "2.0", "4.0", "8.0")),
        ("log(1e-1..1e-3, 3)", ("0.1", "0.01", "0.001")),
        ("linear(0..1, 5)", ("0.0", "0.25", "0.5", "0.75", "1.0")),
        ("linear(10..50, 5)", ("10", "20", "30", "40", "50")),
        ("linear(-1..1, 3)", ("-1", "0", "1")),
        ("linear(1..2, 3)", ("1.0", "1.5", "2.0")),
        ("linear(1.0..3, 3)", ("1.0", "2.0", "3.0")),
        (" linear ( 1 .. 3 , 3 ) ", ("1", "2", "3")),
        ("[0.1]", ("0.1",)),
        ("[sgd(lr = 0.1, momentum = 0.9), adam]", ("sgd(lr = 0.1, momentum = 0.9)", "adam")),
        ('["a, b", "c]"]', ('"a, b"', '"c]"')),
        ("[[every(2), csv], [csv]]", ("[every(2), csv]", "[csv]")),
    ],
)
def test_values(text: str, expected: tuple[str, ...]) -> None:
    assert values(text) == expected


def test_ends_that_are_close_keep_their_digits() -> None:
    found = [float(v) for v in values("linear(1..1.0000001, 3)")]

    assert found == pytest.approx([1, 1.00000005, 1.0000001], rel=1e-15)


@given(
    st.floats(1e-12, 1e12),
    st.floats(1e-12, 1e12),
    st.integers(2, 30),
    st.sampled_from(["log", "linear"]),
)
def test_ranges_keep_their_ends_and_their_order(a: float, b: float, n: int, kind: str) -> None:
    if abs(a - b) <= 1e-9 * a:
        return
    found = [float(v) for v in values(f"{kind}({a!r}..{b!r}, {n})")]

    assert len(found) == n
    assert (found[0], found[-1]) == (pytest.approx(a, rel=1e-5), pytest.approx(b, rel=1e-5))
    assert found == sorted(found, reverse=a > b)
    assert len(set(found)) == n


@pytest.mark.parametrize(
    ("option", "wrong", "problem"),
    [
        ("tune.lr", "tune.lr", "has no `=`"),
        ("=[1]", "=", "has no path"),
        ("tune..lr=[1]", "tune..lr", "cannot set `tune..lr`"),
        ("3=[1]", "3", "cannot set `3`"),
        ("a=", "=", "has no values"),
        ("a=0.1, 0.2", "0.1, 0.2", "has no such values"),
        ("a=lgo(1..2, 3)", "lgo", "knows no range `lgo`"),
        ("a=log(1..2)", "(1..2)", "wants the ends and the count"),
        ("a=log(1..2, 3, 4)", "(1..2, 3, 4)", "wants the ends and the count"),
        ("a=log(1, 3)", "1", "has no `..`"),
        ("a=log(.5..2, 3)", ".5", "expects a number, not `.5`"),
        ("a=log(1..x, 3)", "x", "expects a number, not `x`"),
        ("a=log(1.., 3)", "", "expects a number, not nothing"),
        ("a=log(1..2, 2.5)", "2.5", "wants a whole number of values"),
        ("a=log(1..2, 1)", "1", "wants a whole number of values"),
        ("a=log(1..2, )", " ", "wants a whole number of values"),
        ("a=log(0..2, 3)", "0..2", "is not positive"),
        ("a=linear(2..2, 3)", "2..2", "ends are the same"),
        ("a=log(1..2, 3", "(", "never closes `(`"),
        ("a=log(1..2, 3]", "]", "has `]` without its opening"),
        ("a=log(1..2, 3) + 1", " + 1", "goes on after `)`"),
        ("a=[1, 2", "[", "never closes `[`"),
        ("a=[1, , 2]", " ,", "has an empty value"),
        ("a=[]", "]", "has an empty value"),
        ("a=[1, 2, 1]", "1", "lists `1` twice"),
        ('a=["x]', "[", "never closes `[`"),
    ],
)
def test_mistakes_have_a_place(option: str, wrong: str, problem: str) -> None:
    found, diagnostics, sources = axes(["b=[1]", option])

    assert found == [Axis("b", ("1",))]
    assert [d.code for d in diagnostics] == ["MLO0808"]
    assert problem in diagnostics[0].message
    span = diagnostics[0].span
    assert span is not None
    assert span.file == sources[1].name
    assert sources[1].slice(span) == wrong


def test_a_range_that_is_nearly_known() -> None:
    _, diagnostics, _ = axes(["a=lgo(1..2, 3)"])
    assert [s.message for s in diagnostics[0].suggestions] == ["did you mean `log`?"]


def test_a_path_is_swept_once() -> None:
    _, diagnostics, sources = axes(["a.b=[1]", "a.b=[2]"])

    assert "a second time" in diagnostics[0].message
    assert diagnostics[0].span is not None
    assert sources[1].slice(diagnostics[0].span) == "a.b"


@given(st.text(alphabet='a.=log([{)]},"1 -e_x', max_size=24))
def test_no_option_is_a_crash(text: str) -> None:
    found, diagnostics, sources = axes([text])

    assert len(found) + len(diagnostics) == 1
    for d in diagnostics:
        assert d.span is not None
        assert 0 <= d.span.start <= d.span.end <= len(sources[0].text)


def test_the_grid_has_every_combination() -> None:
    found = [Axis("a", ("1", "2")), Axis("b", ("x", "y", "z"))]

    assert list(grid([])) == [()]
    assert [tuple(v for _, v in point) for point in grid(found)] == [
        ("1", "x"), ("1", "y"), ("1", "z"), ("2", "x"), ("2", "y"), ("2", "z")]  # fmt: skip


@pytest.mark.parametrize(
    "option",
    ["fit.optimizer.lr=log(1e-7..1e7, 15)", "run.steps=linear(1..9, 5)", "run.steps=[1, 2]",
     "fit.optimizer=[adam, sgd(lr = 1e-5)]"],
)  # fmt: skip
def test_values_are_values_of_the_language(option: str) -> None:
    found, _, _ = axes([option])
    for point in grid(found):
        assert check(PROGRAM, "x.mlo", Options(set=point)).shown() == [], point
