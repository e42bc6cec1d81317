"""From records to curves: what is drawn, in which section, over which runs or groups of runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bettyc.report.chart import Curve
from bettyc.report.record import Json, Record


@dataclass(frozen=True)
class Group:
    """Runs that are drawn as one curve, their mean: the seeds of one setting, or a single run."""

    label: str
    runs: tuple[Record, ...]


@dataclass(frozen=True)
class Chart:
    """A drawing to be: its title, its curves, and whether a logarithmic axis suits it."""

    title: str
    curves: tuple[Curve, ...]
    log: bool


# Key in a line of metrics, heading of the section, what is said about it, logarithmic axis.
SECTIONS = (
    ("loss", "Losses", "Each level's objective as the program writes it.", False),
    ("metrics", "Metrics", "Evaluated without gradient, as `eval` says.", False),
    ("grad_norm", "Norms of hypergradients", "Of what each level steps along.", True),
    (
        "residual",
        "Residuals of solves",
        "Of the linear system behind each hypergradient, relative to its right-hand side.",
        True,
    ),
)  # fmt: skip


def charts(groups: Sequence[Group], key: str, log: bool) -> list[Chart]:
    """One chart per quantity of a section, with a curve per group that has it."""
    names = dict.fromkeys(
        name for g in groups for run in g.runs for line in run.lines for name in _values(line, key)
    )
    found = []
    for name in names:
        drawn = [_curve(g, k, key, name) for k, g in enumerate(groups)]
        curves = tuple(c for c in drawn if c.steps)
        found.append(Chart(name, curves, log or _wide(curves)))
    return found


def _values(line: Json, key: str) -> dict[str, float | None]:
    """The numbers of a line in one section, by name; the worst of several solves of one pull."""
    if key != "residual":
        values: dict[str, float | None] = line.get(key, {})
        return values
    worst: dict[str, float | None] = {}
    for solve in line.get("solves", ()):
        name, value = f"through {solve['level']} to {solve['root']}", solve.get("relative_residual")
        if value is not None:
            before = worst.get(name)
            worst[name] = value if before is None else max(before, value)
    return worst


def _curve(group: Group, number: int, key: str, name: str) -> Curve:
    """The mean over the runs of a group, with the standard error of that mean as a band.

    Runs of one setting may end early; a step counts where every run that logged it is finite.
    """
    at: dict[int, list[float | None]] = {}
    for run in group.runs:
        for line in run.lines:
            values = _values(line, key)
            if name in values:
                at.setdefault(line["step"], []).append(values[name])
    steps = tuple(sorted(at))
    points = [_mean(at[step]) for step in steps]
    several = any(len(at[step]) > 1 for step in steps)
    return Curve(
        group.label,
        number,
        steps,
        tuple(mean for mean, _ in points),
        tuple(error for _, error in points) if several else (),
    )


def _mean(values: Sequence[float | None]) -> tuple[float | None, float]:
    finite = [v for v in values if v is not None]
    if len(finite) < len(values):
        return None, 0.0
    return mean_and_error(finite)


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and its standard error s / sqrt(n) with s from n - 1; 0 for a single value."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return mean, 0.0
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)


def _wide(curves: Sequence[Curve]) -> bool:
    """Positive numbers over more than two powers of ten are read off a logarithmic axis."""
    known = [v for c in curves for v in c.values if v is not None]
    return bool(known) and min(known) > 0 and max(known) > 100 * min(known)


def notes(record: Record) -> Iterator[tuple[str, str, str, int]]:
    """What the solves of a run had to say: strategy, pull, note, how often."""
    counted: dict[tuple[str, str, str], int] = {}
    for line in record.lines:
        for solve in line.get("solves", ()):
            if solve.get("note"):
                pull = f"{solve['level']} to {solve['root']}"
                key = (solve["strategy"], pull, str(solve["note"]))
                counted[key] = counted.get(key, 0) + 1
    yield from ((*key, times) for key, times in counted.items())
