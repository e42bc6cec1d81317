"""`bettyc report`: one page about one run, or about several next to each other."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from bettyc.cli.common import Failed, global_options, report, settings, write
from bettyc.cli.folder import listed

if TYPE_CHECKING:
    from bettyc.diagnostics.model import Diagnostic
    from bettyc.report.curves import Group
    from bettyc.report.record import Record

PAGE = "report.html"


@click.command("report")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    type=click.Path(dir_okay=False),
    help=f"The page; default {PAGE} in the run, or here for several; - prints it.",
)
@global_options("text", "json")
def command(runs: Sequence[str], output: str | None, **parameters: Any) -> None:
    """Write one self-contained HTML page about runs: curves, residuals, schedule, settings.

    A RUN is a folder that `bettyc run` wrote; of a run that is going on, what there is so far is
    shown. Several runs are drawn into the same plots, those of a sweep as a mean per setting.
    """
    from bettyc.report.page import page

    s = settings(parameters)
    groups, found = _read(runs)
    if report(found, {}, s):
        raise Failed(1)
    records = [record for group in groups for record in group.runs]
    text = page(_title(runs, groups), groups, found)
    if output == "-":
        click.echo(text, nl=False)
        return
    path = output or (os.path.join(runs[0], PAGE) if len(runs) == 1 else PAGE)
    if output is None:
        _ours(path)
    write(path, text)
    _told(path, records, s.format)


def _read(paths: Sequence[str]) -> tuple[list[Group], list[Diagnostic]]:
    """A group per run, and those of the sweeps, in the order in which they were named."""
    from bettyc.report.curves import Group
    from bettyc.report.record import labels, read
    from bettyc.report.sweep import is_sweep, read_sweep

    groups: list[Group] = []
    found: list[Diagnostic] = []
    for path, label in zip(paths, labels(paths), strict=True):
        if is_sweep(path):
            swept, problems = read_sweep(path)
            groups += swept
        else:
            record, problems = read(path, label)
            groups += [Group(label, (record,))] if record is not None else []
        found += problems
    return groups, found


def _title(paths: Sequence[str], groups: Sequence[Group]) -> str:
    if len(paths) == 1:
        return os.path.basename(os.path.abspath(paths[0]))
    names = ", ".join(group.label for group in groups)
    return names if len(names) < 80 else f"{sum(len(g.runs) for g in groups)} runs"


def _ours(path: str) -> None:
    """Refuse to write over a page, found under the default name, that is not ours."""
    if os.path.exists(path):
        with open(path, encoding="utf-8", errors="replace") as file:
            if '<meta name="generator" content="bettyc ' not in file.read(1000):
                raise click.UsageError(f"`{path}` was not written by bettyc; give -o")


def _told(path: str, records: Sequence[Record], format_: str) -> None:
    """The last numbers of every run, and where the page is."""
    if format_ == "json":
        runs = [
            {"path": r.path, "updates": r.steps, "finished": bool(r.result),
             "loss": r.last("loss"), "metrics": r.last("metrics")}
            for r in records
        ]  # fmt: skip
        click.echo(json.dumps({"schema": 1, "type": "report", "page": path, "runs": runs}))
        return
    for record in records:
        numbers = ", ".join(filter(None, (listed(record.last(g)) for g in ("loss", "metrics"))))
        click.echo(f"{record.label}  {record.steps} updates  {numbers}".rstrip())
    click.echo(f"page  {path}")
