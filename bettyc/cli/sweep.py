"""`bettyc run --sweep … --seeds N`: a grid of runs in processes of their own, and one comparison.

The folder of a sweep holds `sweep.json`, what is to be run, and a folder and a log for each run.
Said again, a sweep skips the runs that are finished, goes on with those that have a checkpoint and
starts the others anew; a run that fails takes no other with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from typing import IO, Any

import click

from bettyc.cli.common import Failed, Settings, read_program, report, said, settings, sound, write
from bettyc.cli.folder import claim_next
from bettyc.cli.pool import Done, Task, lock, run_all
from bettyc.report.sweep import SWEEP, Planned, read_sweep, shown, summary, sweep_of
from bettyc.sweep import axes, grid

FINISHED, RESUMED, FRESH = "finished", "resumed", "fresh"


def sweep(context: click.Context, s: Settings) -> None:
    """Run them all. Leaves with 1 for a mistake before anything runs, 3 where a run failed, 130
    where it was interrupted.
    """
    p = context.params
    _refuse(p)
    points = _points(p["sweeps"], s)
    name, seed, program = _checked(p, points)
    path = p["output"] or claim_next(f"{name}-sweep")
    words = _words(context)
    with _hold(path) as held:
        pairs = [(point, k) for point in points for k in range(seed, seed + (p["seeds"] or 1))]
        plans = _kept(path, {"program": name, "sha256": program, "arguments": words}, pairs)
        waiting = [(plan, _state(path, plan)) for plan in plans]
        skipped = sum(state == FINISHED for _, state in waiting)
        if skipped and not s.quiet:
            said(f"{skipped} of {len(plans)} runs are finished already")
        tasks = [_task(path, plan, state, words) for plan, state in waiting if state != FINISHED]
        told = _Teller(s.quiet, p["json_stream"], skipped, len(plans))
        failed, interrupted = run_all(tasks, p["jobs"] or 1, held, told)
    _compare(path, s, p["json_stream"])
    if interrupted:
        said(f"interrupted; go on with the same command and -o {path}")
        raise Failed(130)
    if failed:
        raise Failed(3)


def _refuse(p: Mapping[str, Any]) -> None:
    for option in ("resume", "dry_run", "emit"):
        if p[option]:
            raise click.UsageError(f"--{option.replace('_', '-')} is about one run, not a sweep")
    if p["file"] == "-":
        raise click.UsageError("a sweep reads its program many times: give it as a file")
    if p["file"].endswith(".mlop") and p["sweeps"]:
        raise click.UsageError("a compiled plan is run as it is; sweep over its program")


def _points(options: Sequence[str], s: Settings) -> list[tuple[tuple[str, str], ...]]:
    found, diagnostics, sources = axes(options)
    if report(diagnostics, {source.name: source for source in sources}, s):
        raise Failed(1)
    return list(grid(found))


def _checked(
    p: Mapping[str, Any], points: Sequence[tuple[tuple[str, str], ...]]
) -> tuple[str, int, str]:
    """Check the program at every point, so that no mistake shows after hours: its name, the first
    seed, a hash of its text and what it imports.
    """
    if p["file"].endswith(".mlop"):
        from bettyc.api import load_plan

        plan = load_plan(p["file"]).plan
        return plan.model.name, plan.seed if p["seed"] is None else p["seed"], plan.hash
    name, seed, text = "", 0, ""
    for point in points:
        sets = (*p["sets"], *(f"{path}={value}" for path, value in point))
        s = settings({**p, "sets": sets})
        checked = sound(read_program(p["file"], s), s)
        assert checked.model is not None
        own = checked.model.setting("seed")
        name, seed = checked.model.name, own if isinstance(own, int) else 0
        read = (checked.sources[k].text for k in sorted(checked.sources) if k[:1] != "<")
        text = "\0".join(read)
    program = hashlib.sha256(text.encode()).hexdigest()
    return name, seed if p["seed"] is None else p["seed"], program


def _slug(point: Sequence[tuple[str, str]], seed: int) -> str:
    """`lr=0.1,seed=3`, of letters that every file system takes."""
    words = [f"{path.rpartition('.')[2]}={value}" for path, value in point]
    text = ",".join([*words, f"seed={seed}"])
    return "".join(c if c.isalnum() or c in "=,.+-_" else "_" for c in text)[:60]


def _words(context: click.Context) -> list[str]:
    """The options that every run gets as they were given."""
    p = context.params
    words = [p["file"]]
    for option in context.command.params:
        value = p.get(str(option.name))
        if not isinstance(option, click.Option) or option.name in OWN:
            continue
        if value is None or value is False or value == ():
            continue
        flag = option.opts[0]
        for item in value if isinstance(value, tuple) else (value,):
            words += [flag] if item is True else [flag, str(item)]
    return words


# Options of the sweep itself, and those that each run gets in another way.
OWN = {"sweeps", "seeds", "jobs", "output", "seed", "resume", "dry_run", "json_stream", "emit",
       "format_", "color", "quiet", "verbose", "stdin_filename"}  # fmt: skip


def _hold(path: str) -> IO[str]:
    """Make the folder, or take up that of a sweep; the open file that keeps others out of it."""
    os.makedirs(path, exist_ok=True)
    file = os.path.join(path, SWEEP)
    if not os.path.isfile(file):
        if os.listdir(path):
            raise click.UsageError(f"`{path}` has files in it; a run never overwrites another")
        open(file, "x").close()
    held = lock(file)
    if held is None:
        raise click.UsageError(f"the sweep in `{path}` is going on in another process")
    return held


def _kept(
    path: str, content: Mapping[str, Any], pairs: Sequence[tuple[tuple[tuple[str, str], ...], int]]
) -> list[Planned]:
    """The runs that the folder has already and those of `pairs` that are new, written down.

    Refuses a folder whose runs came from another program or with other options.
    """
    file = os.path.join(path, SWEEP)
    plans: list[Planned] = []
    if os.path.getsize(file):
        try:
            before, plans = sweep_of(path)
        except ValueError as error:
            raise click.UsageError(f"`{file}` is not the list of a sweep: {error}") from None
        for key, value in content.items():
            if before.get(key) != value:
                what = {"sha256": "text of the program"}.get(key, key)
                raise click.UsageError(f"`{path}` is of a sweep with another {what}; give -o")
    known = {(plan.settings, plan.seed) for plan in plans}
    for point, seed in pairs:
        if (point, seed) not in known:
            folder = f"{len(plans) + 1:03}-{_slug(point, seed)}"
            plans.append(Planned(folder, point, seed))
    runs = [
        {"folder": plan.folder, "settings": [list(pair) for pair in plan.settings],
         "seed": plan.seed}
        for plan in plans
    ]  # fmt: skip
    text = json.dumps({"schema": 1, "type": "sweep", **content, "runs": runs}, indent=1) + "\n"
    # In place and not by another file of its name: the lock is on this one.
    with open(file, "w", encoding="utf-8") as written:
        written.write(text)
    return plans


def _state(path: str, plan: Planned) -> str:
    from bettyc.cli.folder import checkpoints

    folder = os.path.join(path, plan.folder)
    if os.path.isfile(os.path.join(folder, "result.json")):
        return FINISHED
    return RESUMED if checkpoints(folder) else FRESH


def _task(path: str, plan: Planned, state: str, words: Sequence[str]) -> Task:
    folder = os.path.join(path, plan.folder)
    if state == FRESH and os.path.isdir(folder):
        shutil.rmtree(folder)  # what is left of a run that has to start anew
    sets = [word for pair in plan.settings for word in ("--set", "=".join(pair))]
    where = ["--resume" if state == RESUMED else "-o", folder]
    label = ", ".join(filter(None, (plan.label, f"seed {plan.seed}")))
    arguments = ["run", *words, *sets, "--seed", str(plan.seed), *where, "--color", "never"]
    return Task(label, arguments, f"{folder}.log")


class _Teller:
    """Says of every run how it ended."""

    def __init__(self, quiet: bool, stream: bool, done: int, total: int) -> None:
        self._quiet, self._stream, self._done, self._total = quiet, stream, done, total

    def __call__(self, done: Done) -> None:
        self._done += 1
        if self._stream:
            from bettyc.cli.progress import tell

            folder = done.task.log.removesuffix(".log")
            tell({"type": "run", "folder": folder, "state": done.state, "code": done.code})
        elif not self._quiet or done.state == "failed":
            cause = f": {done.message}; see {done.task.log}" if done.state == "failed" else ""
            said(f"[{self._done}/{self._total}] {done.task.label}: {done.state}{cause}")


def _compare(path: str, s: Settings, stream: bool) -> None:
    """Write the page; print the table of means, or the same as JSON."""
    from bettyc.report.page import page

    groups, found = read_sweep(path)
    file = os.path.join(path, "report.html")
    write(file, page(os.path.basename(os.path.abspath(path)), groups, found))
    rows = summary(groups)
    if stream or s.format == "json":
        content = {"type": "sweep", "schema": 1, "folder": path, "page": file, "settings": rows}
        click.echo(json.dumps(content, indent=None if stream else 2))
        return
    click.echo("\n".join(_table(rows)))
    click.echo(f"folder  {path}")
    click.echo(f"page    {file}")


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Mean ± standard error of every number, a row per setting."""
    columns = list(dict.fromkeys(
        (kind, name) for row in rows for kind in ("loss", "metrics") for name in row[kind]
    ))  # fmt: skip
    cells = [["setting", "finished", *(f"loss {n}" if k == "loss" else n for k, n in columns)]]
    for row in rows:
        numbers = [shown(row[k][n], row["runs"]) if n in row[k] else "" for k, n in columns]
        cells.append([row["setting"], f"{row['finished']} of {row['runs']}", *numbers])
    widths = [max(len(line[k]) for line in cells) for k in range(len(cells[0]))]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
