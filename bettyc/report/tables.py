"""The tables of the page: runs, groups of runs, settings, environment, remarks of the solves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from bettyc.plan import Plan
from bettyc.report.curves import Group, notes
from bettyc.report.record import Record
from bettyc.report.sweep import names, shown, summary
from bettyc.settings import show

_DIFFERS = "<th scope='col'>differs</th>"
_MARK = " class='differs'"


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    caption: str,
    differs: Sequence[bool] | None = None,
) -> list[str]:
    """Numbers to the right, nothing for None; the first column names the row. `differs` marks
    rows, and says so in a column of its own.
    """
    rows = list(rows)
    marked = differs is not None and any(differs)
    numeric = [all(_is_number(row[k]) for row in rows) for k in range(len(head))]
    titles = "".join(f"<th scope='col'{_right(n)}>{escape(t)}</th>"
                     for t, n in zip(head, numeric, strict=True))  # fmt: skip
    lines = [
        f'<div class="wide" tabindex="0" role="group" aria-label="Table: {escape(caption)}">',
        "<table>",
        f"<caption>{escape(caption)}</caption>",
        f"<thead><tr>{titles}{_DIFFERS if marked else ''}</tr></thead>",
        "<tbody>",
    ]  # fmt: skip
    for k, row in enumerate(rows):
        other = marked and differs is not None and differs[k]
        cells = "".join(
            f"<td{_right(n)}>{escape(_cell(v))}</td>"
            for v, n in zip(row[1:], numeric[1:], strict=True)
        )
        mark = ("<td>yes</td>" if other else "<td></td>") if marked else ""
        lines.append(
            f"<tr{_MARK if other else ''}>"
            f"<th scope='row'{_right(numeric[0])}>{escape(_cell(row[0]))}</th>{cells}{mark}</tr>"
        )
    return [*lines, "</tbody></table></div>"]


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _right(numeric: bool) -> str:
    return " class='n'" if numeric else ""


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def runs_table(runs: Sequence[Record]) -> list[str]:
    """A row per run: how far it got, and its last numbers."""
    names = _names(runs)
    head = ["run", "program", "updates", "seconds", "end", *(title for _, _, title in names)]
    rows = [
        (
            run.label,
            run.plan.model.name if run.plan else None,
            run.steps,
            run.result.get("seconds"),
            _end(run),
            *(run.last(group).get(name) for group, name, _ in names),
        )
        for run in runs
    ]
    return table(head, rows, caption="Runs and their last numbers")


def _end(run: Record) -> str:
    if not run.result:
        return "not finished"
    return str(run.result.get("stopped") or "finished")


def _names(runs: Sequence[Record]) -> list[tuple[str, str, str]]:
    """Group, name and title of every loss and metric that a run ends with."""
    groups = (("loss", "loss of "), ("metrics", ""))
    return [
        (group, name, f"{words}{name}")
        for group, words in groups
        for name in dict.fromkeys(name for run in runs for name in run.last(group))
    ]


def groups_table(groups: Sequence[Group]) -> list[str]:
    """A row per group: mean and standard error of its finished runs' last numbers."""
    found = summary(groups)
    finished = [run for group in groups for run in group.runs if run.result]
    columns = [(kind, name) for kind in ("loss", "metrics") for name in names(finished, kind)]
    head = ["setting", "finished", *(f"loss of {n}" if k == "loss" else n for k, n in columns)]
    rows = [
        (
            row["setting"],
            f"{row['finished']} of {row['runs']}",
            *(shown(row[k][n], row["runs"]) if n in row[k] else "" for k, n in columns),
        )
        for row in found
    ]
    return table(head, rows, caption="Mean ± standard error over the runs of a setting")


def notes_table(runs: Sequence[Record]) -> list[str]:
    """Warnings of the plans, and what solves had to say."""
    rows: list[tuple[Any, ...]] = [
        (run.label, strategy, pull, note, times)
        for run in runs
        for strategy, pull, note, times in notes(run)
    ]
    rows += [
        (run.label, "plan", "", warning, None) for run in runs if run.plan
        for warning in run.plan.warnings
    ]  # fmt: skip
    head = ["run", "from", "through", "remark", "times"]
    return table(head, rows, caption="Warnings and remarks of solves") if rows else []


def settings_table(runs: Sequence[Record]) -> list[str]:
    """Every param and setting that has a value, with where it came from; what differs is marked."""
    found = {run.label: settings(run.plan) for run in runs if run.plan is not None}
    return _compared("setting", found, "Params and settings, and where each value came from")


def settings(plan: Plan) -> dict[str, str]:
    """`path -> value (origin)`."""
    m = plan.model
    every = [*m.params, *(s for level in m.levels for s in level.settings), *m.run]
    values = {s.path: f"{show(s.value)} ({s.origin})" for s in every if s.value is not None}
    return {**values, "run.seed": str(plan.seed), "-O": str(plan.opt)}


def environment_table(runs: Sequence[Record]) -> list[str]:
    found = {run.label: _flat(run.environment) for run in runs if run.environment}
    return _compared("", found, "What the runs ran on")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key} "))
        elif value is not None:
            flat[prefix + key] = str(value)
    return flat


def _compared(first: str, found: Mapping[str, Mapping[str, str]], caption: str) -> list[str]:
    """A row per key, a column per run; one column where all runs agree on everything."""
    if not found:
        return []
    keys = list(dict.fromkeys(key for values in found.values() for key in values))
    differs = [len({values.get(key) for values in found.values()}) > 1 for key in keys]
    if len(found) > 1 and not any(differs):
        found = {"all runs": next(iter(found.values()))}
    rows = [(key, *(values.get(key) for values in found.values())) for key in keys]
    return table([first or "what", *found], rows, caption=caption, differs=differs)
