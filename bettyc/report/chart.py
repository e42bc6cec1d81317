"""Curves as one SVG drawing, fit for a page in light and dark; the colours are those of the page.

A curve is a list of points with a gap where a number is not finite, and a band around it where it
is a mean of several runs. Long curves are thinned: of each stretch of points the lowest and the
highest stay, so that no spike is lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 260
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 12, 36  # margins around the plot
POINTS = 400  # that a curve keeps
MARKED = 24  # points up to which each gets a dot
COLOURS, DASHES = 8, 4


@dataclass(frozen=True)
class Curve:
    """label; group: number of the run or group, which decides colour and dash. steps rise; values
    are as many, None where there is no finite number. error: half the width of the band, or none.
    """

    label: str
    group: int
    steps: tuple[int, ...]
    values: tuple[float | None, ...]
    error: tuple[float, ...] = ()


@dataclass(frozen=True)
class Scale:
    """From numbers to pixels along one axis; `low` is drawn at `start`, `high` at `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (map(math.log10, (self.low, self.high, value)) if self.log
                            else (self.low, self.high, value))  # fmt: skip
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def draw(
    title: str, curves: Sequence[Curve], log: bool, steps: tuple[int, int]
) -> tuple[str, Scale]:
    """The drawing, and the scale of the steps, which are the first and last to show.

    log is a wish: it is granted where a positive number is there, and what is not is a gap.
    """
    curves = [thinned(c) for c in curves]
    first, last = steps
    x = Scale(first, last if last > first else first + 1, LEFT, WIDTH - RIGHT)
    y = heights(curves, log)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(describe(title, curves))}">',
        *_axes(x, y),
        *(part for curve in curves for part in _curve(curve, x, y)),
        f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}" x1="0" x2="0" hidden="hidden"/>',
        "</svg>",
    ]  # fmt: skip
    return "\n".join(parts), x


def describe(title: str, curves: Sequence[Curve]) -> str:
    """The drawing in words: where each curve begins, ends and is lowest."""
    words = []
    for curve in curves:
        known = [(s, v) for s, v in zip(curve.steps, curve.values, strict=True) if v is not None]
        if known:
            low = min(known, key=lambda point: point[1])
            words.append(
                f"{curve.label}: from {known[0][1]:.4g} to {known[-1][1]:.4g}, "
                f"lowest {low[1]:.4g} in step {low[0]}"
            )
        else:
            words.append(f"{curve.label}: no finite number")
    return f"{title}. {'. '.join(words)}."


def thinned(curve: Curve) -> Curve:
    """At most about `POINTS` points: first, last, and the extremes of stretches between them."""
    count = len(curve.steps)
    if count <= POINTS:
        return curve
    kept = {0, count - 1}
    stretches = POINTS // 2 - 1
    for k in range(stretches):
        stretch = range(k * count // stretches, (k + 1) * count // stretches)
        known = [(curve.values[i], i) for i in stretch if curve.values[i] is not None]
        kept |= {min(known)[1], max(known)[1]} if known else {stretch[0]}
    order = sorted(kept)
    return Curve(
        curve.label,
        curve.group,
        tuple(curve.steps[i] for i in order),
        tuple(curve.values[i] for i in order),
        tuple(curve.error[i] for i in order) if curve.error else (),
    )


def heights(curves: Sequence[Curve], log: bool) -> Scale:
    """The axis that holds all points and bands, with some air above and below."""
    values = [v for c in curves for v in _reach(c)]
    positive = [v for v in values if v > 0]
    if log and positive:
        low, high = min(positive), max(positive)
        air = max((high / low) ** 0.05, 1.2)
        return Scale(low / air, high * air, HEIGHT - BOTTOM, TOP, True)
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    air = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    return Scale(low - air, high + air, HEIGHT - BOTTOM, TOP)


def _reach(curve: Curve) -> Iterator[float]:
    for k, value in enumerate(curve.values):
        if value is not None:
            error = curve.error[k] if curve.error else 0.0
            yield from (value, value - error, value + error)


def ticks(scale: Scale) -> list[float]:
    """Round numbers along an axis: steps of 1, 2 or 5, or whole powers of ten."""
    if scale.log:
        first, last = math.ceil(math.log10(scale.low)), math.floor(math.log10(scale.high))
        if last > first:
            stride = 1 + (last - first) // 6
            return [10.0**k for k in range(first, last + 1, stride)]
    raw = (scale.high - scale.low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= raw * 0.999)
    first = math.ceil(scale.low / step - 1e-9)
    return [k * step for k in range(first, math.floor(scale.high / step + 1e-9) + 1)]


def _axes(x: Scale, y: Scale) -> Iterator[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for value in ticks(y):
        at = y(value)
        yield f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>'
        yield _tick(LEFT - 6, at + 4, "end", f"{value:.4g}")
    for value in ticks(x):
        if value == int(value):
            yield _tick(x(value), bottom + 16, "middle", f"{value:.0f}")
    yield f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>'
    yield _tick(right, bottom + 31, "end", "update of the top level")


def _tick(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _curve(curve: Curve, x: Scale, y: Scale) -> Iterator[str]:
    look = f"c{curve.group % COLOURS} d{curve.group // COLOURS % DASHES}"
    yield f'<g class="curve {look}" data-group="{curve.group}">'
    for points in _pieces(curve, y):
        if curve.error:
            edge = [(s, v + e) for s, v, e in points]
            edge += [(s, _above(v - e, y)) for s, v, e in reversed(points)]
            yield f'<path class="band" d="{_path(edge, x, y)}Z"/>'
        yield f'<path class="line" d="{_path([(s, v) for s, v, _ in points], x, y)}"/>'
        if len(points) == 1 or len(curve.steps) <= MARKED:
            yield from (f'<circle cx="{x(s):.1f}" cy="{y(v):.1f}" r="2.5"/>' for s, v, _ in points)
    yield "</g>"


def _above(value: float, y: Scale) -> float:
    """The lower edge of a band, inside a logarithmic axis."""
    return max(value, y.low) if y.log else value


def _pieces(curve: Curve, y: Scale) -> list[list[tuple[int, float, float]]]:
    """Runs of points (step, value, error) between the gaps."""
    pieces: list[list[tuple[int, float, float]]] = [[]]
    for k, (step, value) in enumerate(zip(curve.steps, curve.values, strict=True)):
        if value is None or (y.log and value <= 0):
            pieces.append([])
        else:
            pieces[-1].append((step, value, curve.error[k] if curve.error else 0.0))
    return [piece for piece in pieces if piece]


def _path(points: Sequence[tuple[float, float]], x: Scale, y: Scale) -> str:
    return "M" + "L".join(f"{x(step):.1f} {y(value):.1f}" for step, value in points)
