"""Scales, ticks, thinning, gaps: what is drawn stands where it belongs."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bettyc.report.chart import (
    BOTTOM,
    HEIGHT,
    LEFT,
    POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Curve,
    Scale,
    draw,
    heights,
    thinned,
    ticks,
)


def curve(values: list[float | None], error: tuple[float, ...] = (), group: int = 0) -> Curve:
    return Curve("run", group, tuple(range(len(values))), tuple(values), error)


def test_a_scale_is_linear_or_logarithmic() -> None:
    assert Scale(0, 10, 100, 200)(5) == pytest.approx(150)
    assert Scale(1e-4, 1e4, 0, 8, log=True)(1e-1) == pytest.approx(3)


@given(
    st.floats(-1e6, 1e6),
    st.floats(1e-9, 1e6),
    st.booleans(),
)
def test_ticks_are_round_few_and_inside(low: float, width: float, log: bool) -> None:
    low = abs(low) + 1e-9 if log else low
    high = low + width * max(1.0, abs(low) * 1e-6)
    found = ticks(Scale(low, high, 0, 100, log))

    slack = 1e-6 * max(abs(low), abs(high))
    assert 1 <= len(found) <= 12
    assert all(low - slack <= t <= high + slack for t in found)


def test_points_stand_where_their_numbers_are() -> None:
    text, x = draw("loss", [curve([0.0, 1.0, 0.5])], False, (0, 2))
    svg = ElementTree.fromstring(text)
    circles = [(float(c.get("cx", "")), float(c.get("cy", ""))) for c in svg.iter("circle")]
    y = heights([curve([0.0, 1.0, 0.5])], False)

    assert [c[0] for c in circles] == pytest.approx(
        [LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT]
    )
    assert (x(0), x(2)) == (LEFT, WIDTH - RIGHT)
    assert (y(-0.05), y(1.05)) == pytest.approx((HEIGHT - BOTTOM, TOP))
    # higher numbers are drawn further up, in proportion
    assert (circles[0][1] - circles[2][1]) == pytest.approx(
        (circles[2][1] - circles[1][1]), abs=0.2
    )


def test_numbers_that_are_not_finite_are_gaps() -> None:
    text, _ = draw("loss", [curve([1.0, 2.0, None, 3.0, 4.0, None, 5.0])], False, (0, 6))
    lines = re.findall(r'class="line" d="([^"]*)"', text)

    assert [d.count("L") + 1 for d in lines] == [2, 2, 1]


def test_a_logarithmic_axis_leaves_out_what_is_not_positive() -> None:
    text, _ = draw("residual", [curve([1e-3, 0.0, 1e-6])], True, (0, 2))

    assert len(re.findall('class="line"', text)) == 2
    assert heights([curve([0.0, -1.0])], True).log is False  # nothing to take the logarithm of


def test_a_band_is_the_error_around_the_mean() -> None:
    text, _ = draw("loss", [curve([1.0, 1.0], (0.5, 0.5))], False, (0, 1))
    band = re.findall(r'class="band" d="M(.*)Z"', text)[0]
    ys = [float(pair.split()[1]) for pair in band.split("L")]
    y = heights([curve([1.0, 1.0], (0.5, 0.5))], False)

    assert ys == pytest.approx([y(1.5), y(1.5), y(0.5), y(0.5)], abs=0.06)


def test_thinning_keeps_ends_and_every_spike() -> None:
    values: list[float | None] = [math.sin(k / 50) for k in range(20_000)]
    values[7_777], values[12_345] = 50.0, -60.0
    thin = thinned(curve(values))

    assert len(thin.steps) <= POINTS
    assert (thin.steps[0], thin.steps[-1]) == (0, 19_999)
    assert 7_777 in thin.steps
    assert 12_345 in thin.steps
    assert all(thin.values[k] == values[step] for k, step in enumerate(thin.steps))
    assert thinned(curve(values[:100])) == curve(values[:100])


@pytest.mark.parametrize("values", [[], [None], [0.0], [3.0] * 5, [1e308, -1e308 / 2], [1e-320]])
@pytest.mark.parametrize("log", [False, True])
def test_odd_curves_are_drawn(values: list[float | None], log: bool) -> None:
    text, _ = draw("odd", [curve(values)], log, (0, 0))

    ElementTree.fromstring(text)
    assert "nan" not in text
    assert "inf" not in text


def test_the_drawing_in_words() -> None:
    text, _ = draw("a < b", [curve([2.0, 0.5, 1.0])], False, (0, 2))

    assert ElementTree.fromstring(text).get("aria-label") == (
        "a < b. run: from 2 to 1, lowest 0.5 in step 1."
    )
