"""`bettyc report`: one page about one run, or about several next to each other."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import click

from bettyc.cli.common import Failed, global_options, report, settings, write
from bettyc.cli.folder import listed

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
    shown. Several runs are drawn into the same plots.
    """
    from bettyc.report.curves import Group
    from bettyc.report.page import page
    from bettyc.report.record import read_all

    s = settings(parameters)
    records, found = read_all(runs)
    if report(found, {}, s):
        raise Failed(1)
    text = page(_title(records), [Group(r.label, (r,)) for r in records], found)
    if output == "-":
        click.echo(text, nl=False)
        return
    path = output or (os.path.join(runs[0], PAGE) if len(runs) == 1 else PAGE)
    if output is None:
        _ours(path)
    write(path, text)
    _told(path, records, s.format)


def _title(records: Sequence[Any]) -> str:
    names = ", ".join(record.label for record in records)
    return names if len(names) < 80 else f"{len(records)} runs"


def _ours(path: str) -> None:
    """Refuse to write over a page, found under the default name, that is not ours."""
    if os.path.exists(path):
        with open(path, encoding="utf-8", errors="replace") as file:
            if '<meta name="generator" content="bettyc ' not in file.read(1000):
                raise click.UsageError(f"`{path}` was not written by bettyc; give -o")


def _told(path: str, records: Sequence[Any], format_: str) -> None:
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
