"""The page: what its sections say, as one HTML text that loads nothing from anywhere.

Without its script it shows everything; the script adds a cursor and the choice of runs. All plots
can be reached and read with the keyboard, and each has its numbers as a table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import bettyc
from bettyc.diagnostics.model import Diagnostic
from bettyc.plan import Plan
from bettyc.report.chart import WIDTH, Curve, draw, thinned
from bettyc.report.curves import SECTIONS, Chart, Group, charts
from bettyc.report.record import Record
from bettyc.report.tables import (
    environment_table,
    groups_table,
    notes_table,
    runs_table,
    settings_table,
    table,
)

GENERATOR = f"bettyc {bettyc.__version__}"
ROWS = 40  # of the table of numbers under a plot
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(title: str, groups: Sequence[Group], found: Sequence[Diagnostic] = ()) -> str:
    """The HTML text. `found`: what could not be read, said on the page as well."""
    runs = [run for group in groups for run in group.runs]
    drawn: dict[str, Any] = {}
    sections = [
        ("runs", "Runs", _runs(groups, runs, found)),
        *_curves(groups, drawn),
        ("program", "Levels and schedule", list(_programs(runs))),
        ("settings", "Settings", settings_table(runs)),
        ("environment", "Environment", environment_table(runs)),
    ]
    sections = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{name}">{heading}</a>' for name, heading, _ in sections)
    return "\n".join([
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta name="generator" content="{GENERATOR}">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{_part('page.css')}</style>",
        "</head>",
        "<body>",
        '<a class="skip" href="#main">To the content</a>',
        f"<header><h1>{escape(title)}</h1>",
        f'<p class="soft">Written by {GENERATOR}. In a plot, the arrow keys move a cursor.</p>',
        f'<nav aria-label="Sections">{links}</nav></header>',
        '<main id="main" tabindex="-1">',
        *(line for name, heading, lines in sections for line in (
            f'<section id="{name}" aria-labelledby="{name}-heading">',
            f'<h2 id="{name}-heading">{heading}</h2>', *lines, "</section>")),
        "</main>",
        f'<script type="application/json" id="data">{_json(drawn)}</script>',
        f"<script>\n{_part('page.js')}</script>",
        "</body>",
        "</html>",
        "",
    ])  # fmt: skip


def _part(name: str) -> str:
    return files("bettyc.report").joinpath(name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """JSON that cannot end the script element that it stands in."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


# Runs


def _runs(
    groups: Sequence[Group], runs: Sequence[Record], found: Sequence[Diagnostic]
) -> list[str]:
    problems = [f"<li>{escape(d.message)} ({d.code})</li>" for d in found]
    lines = ["<ul>", *problems, "</ul>"] if problems else []
    if any(len(group.runs) > 1 for group in groups):
        lines += groups_table(groups)
    return [*lines, *runs_table(runs), *notes_table(runs), *_legend(groups)]


def _legend(groups: Sequence[Group]) -> list[str]:
    """Samples of the lines, each with a box that hides its curves."""
    if len(groups) < 2:
        return []
    items = [
        f'<li><label><input type="checkbox" checked data-group="{k}">'
        f'<svg viewBox="0 0 34 10" aria-hidden="true" class="c{k % 8} d{k // 8 % 4}">'
        f'<path class="line" d="M0 5H34"/></svg>{escape(group.label)}</label></li>'
        for k, group in enumerate(groups)
    ]
    return ['<ul class="legend" aria-label="Curves that are shown">', *items, "</ul>"]


# Curves


def _curves(groups: Sequence[Group], drawn: dict[str, Any]) -> Iterator[tuple[str, str, list[str]]]:
    """The sections of plots; what the script needs about each plot goes to `drawn`."""
    steps = [line["step"] for g in groups for run in g.runs for line in run.lines]
    reach = (min(steps), max(steps)) if steps else (0, 1)
    for key, heading, remark, log in SECTIONS:
        found = charts(groups, key, log)
        if found:
            lines = [f'<p class="soft">{remark}</p>', '<div class="charts">']
            for number, chart in enumerate(found):
                lines += _figure(f"{key}-{number}", chart, reach, drawn)
            yield key, heading, [*lines, "</div>"]


def _figure(name: str, chart: Chart, reach: tuple[int, int], drawn: dict[str, Any]) -> list[str]:
    picture, x = draw(chart.title, chart.curves, chart.log, reach)
    curves = [thinned(curve) for curve in chart.curves]
    steps = sorted({step for curve in curves for step in curve.steps})
    values = [_values(curve, steps) for curve in curves]
    drawn[name] = {
        "width": WIDTH,
        "x": [x.low, x.high, x.start, x.end],
        "steps": steps,
        "curves": [
            {"label": c.label, "group": c.group, "values": v}
            for c, v in zip(curves, values, strict=True)
        ],
    }
    title = escape(chart.title)
    return [
        f'<figure><figcaption>{title}</figcaption>',
        f'<div class="plot" id="{name}" tabindex="0" role="group" '
        f'aria-label="Plot of {title}; arrow keys move along the updates" '
        f'aria-describedby="{name}-readout">',
        picture,
        "</div>",
        f'<output class="readout" id="{name}-readout" aria-live="polite"></output>',
        f"<details><summary>Numbers of {title}</summary>",
        *_numbers(chart.title, curves, steps, values),
        "</details></figure>",
    ]  # fmt: skip


def _values(curve: Curve, steps: Sequence[int]) -> list[float | None]:
    known = dict(zip(curve.steps, curve.values, strict=True))
    return [known.get(step) for step in steps]


def _numbers(
    title: str, curves: Sequence[Curve], steps: Sequence[int], values: Sequence[Sequence[Any]]
) -> list[str]:
    """At most about `ROWS` rows, evenly spread, the last among them."""
    stride = 1 + (len(steps) - 1) // ROWS
    chosen = sorted({*range(0, len(steps), stride), len(steps) - 1})
    rows = [(steps[i], *(column[i] for column in values)) for i in chosen]
    return table(["step", *(c.label for c in curves)], rows, caption=title)


# Programs


def _programs(runs: Sequence[Record]) -> Iterator[str]:
    """Graphs, schedules, plans and programs, each once for the runs that have the same."""
    from bettyc.planner.text import text
    from bettyc.report.schedule import draw as draw_schedule

    planned = [(run.label, run.plan) for run in runs if run.plan is not None]
    for picture, names in _alike(planned, _graph):
        yield f"<h3>Levels{names}</h3>\n<p>{picture}</p>"
    for schedule, names in _alike(planned, draw_schedule):
        yield f"<h3>Schedule{names}</h3>\n{schedule}"
    folded: tuple[tuple[str, Callable[[Plan], str]], ...] = (
        ("The plan, with reasons", lambda plan: text(plan, why=True)),
        ("The program, with all values filled in", lambda plan: plan.source),
    )
    for title, what in folded:
        for found, names in _alike(planned, what):
            yield f"<details><summary>{title}{names}</summary>"
            yield f"<pre tabindex='0'>{escape(found)}</pre></details>"


def _alike(
    plans: Sequence[tuple[str, Plan]], what: Callable[[Plan], str]
) -> Iterator[tuple[str, str]]:
    """Each different text, and of which runs it is, where there are several."""
    seen: dict[str, list[str]] = {}
    for label, plan in plans:
        seen.setdefault(what(plan), []).append(label)
    for text, labels in seen.items():
        yield text, f" of {escape(', '.join(labels))}" if len(seen) > 1 else ""


def _graph(plan: Plan) -> str:
    """The drawing as an image, so that its styles and ids stay its own."""
    from base64 import b64encode

    from bettyc.graph import from_plan, graph_edges
    from bettyc.pictures import draw as draw_graph
    from bettyc.pictures.svg import describe

    graph = from_plan(plan)
    source = b64encode(draw_graph(graph, "svg").encode()).decode()
    words = escape(describe(graph, graph_edges(graph)))
    return f'<img class="graph" alt="{words}" src="data:image/svg+xml;base64,{source}">'
