"""`bettyc run`: execute a program or a compiled plan."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from bettyc.cli.common import (
    Failed,
    Settings,
    global_options,
    optimization_option,
    program_options,
    read_program,
    report,
    said,
    settings,
    sound,
    verbose,
)
from bettyc.cli.planning import start
from bettyc.failures import InputError, RunError

if TYPE_CHECKING:
    from bettyc.api import CompiledPlan
    from bettyc.cli.folder import Folder
    from bettyc.cli.progress import Watcher
    from bettyc.diagnostics.span import Source
    from bettyc.runtime.run import Output, Run


@click.command("run")
@click.argument("file", metavar="FILE|-")
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Folder of the run; default runs/PROGRAM-N.",
)
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Seed, in place of run.seed.")
@click.option("--device", metavar="DEVICE", help="cpu, cuda or auto, in place of run.device.")
@optimization_option
@click.option(
    "--resume",
    metavar="CHECKPOINT|DIR",
    type=click.Path(),
    help="Go on from a checkpoint of the same program; of a run's folder, in it, from the last.",
)
@click.option(
    "--dry-run", is_flag=True, help="Do everything up to the first step, and show the plan."
)
@click.option("--json-stream", is_flag=True, help="Print one JSON object per update on stdout.")
@click.option("--no-python", is_flag=True, help="Refuse programs that name Python.")
@click.option(
    "--sweep",
    "sweeps",
    multiple=True,
    metavar="PATH=VALUES",
    help="Run once for each of log(a..b, n), linear(a..b, n) or [a, b, ...]. Repeatable: a grid.",
)
@click.option("--seeds", type=click.IntRange(min=1), metavar="N", help="Run N seeds of each.")
@click.option(
    "--jobs", type=click.IntRange(min=1), metavar="N", help="Runs of a sweep side by side; 1."
)
@program_options
@global_options("text", "json")
def command(
    file: str,
    output: str | None,
    seed: int | None,
    device: str | None,
    opt: int,
    resume: str | None,
    dry_run: bool,
    json_stream: bool,
    no_python: bool,
    sweeps: tuple[str, ...],
    seeds: int | None,
    jobs: int | None,
    **parameters: Any,
) -> None:
    """Run a program (.mlo) or a compiled plan (.mlop).

    The folder of the run holds the resolved program, the plan, the metrics of every update, the
    checkpoints, the final variables and a page about it all. Ctrl-C writes a checkpoint to resume
    from. `--sweep` and `--seeds` make many runs and a page that compares them; said again with the
    same -o, they go on where they were stopped.
    """
    s = settings(parameters)
    if sweeps or seeds is not None:
        from bettyc.cli.sweep import sweep

        sweep(click.get_current_context(), s)
        return
    if jobs is not None:
        raise click.UsageError("--jobs is about --sweep and --seeds")
    compiled, sources = _compiled(file, s, seed, device, opt, no_python)
    if compiled is None:
        return
    began = time.perf_counter()
    try:
        run = start(compiled, s, seed=seed, device=device)
        checkpoint = None if resume is None else _last_of(resume)
        if checkpoint is not None:
            run.load(checkpoint)
        verbose(s, "made ready to run", began)
    except InputError as error:
        report(error.diagnostics, sources, s)
        raise Failed(1) from None
    if dry_run:
        from bettyc.planner.text import text

        click.echo(text(compiled.plan))
        return
    from bettyc.cli.folder import Folder
    from bettyc.cli.progress import watcher

    watch = watcher(json_stream, s.quiet, s.color)
    inside = resume if output is None and resume is not None and os.path.isdir(resume) else None
    done = run.step_count if inside is not None else None
    with Folder(inside or output, compiled.plan.model.name, done) as folder:
        folder.begin(compiled.plan, str(run.device))
        _execute(run, folder, watch, s, sources, json_stream)


def _compiled(
    file: str, s: Settings, seed: int | None, device: str | None, opt: int, no_python: bool
) -> tuple[CompiledPlan | None, Mapping[str, Source]]:
    """The plan to run; None when `--emit` printed something instead."""
    from bettyc.api import MloError, Program

    if file.endswith(".mlop"):
        compiled = _read_plan(file, s)
        _refuse(no_python, compiled.plan.model.externs)
        return compiled, {}
    checked = sound(read_program(file, s), s)
    if s.emit:
        from bettyc.cli.planning import bound
        from bettyc.cli.stages import emit

        emit(bound(checked, s), s, opt=opt)
        return None, {}
    assert checked.model is not None
    _refuse(no_python, checked.model.externs)
    try:
        compiled = Program(checked).compile(device=device, opt=opt, seed=seed)
    except MloError as error:
        report(error.diagnostics, checked.sources, s)
        raise Failed(1) from None
    if not s.quiet:
        for warning in compiled.plan.warnings:
            said(f"warning: {warning}")
    return compiled, checked.sources


def _read_plan(file: str, s: Settings) -> CompiledPlan:
    from bettyc.api import load_plan

    o = s.options
    if o.set or o.profile or o.config or o.data or o.mock is not None:
        raise click.UsageError(
            "a compiled plan is run as it is; give --set, --data ... to `compile`"
        )
    try:
        return load_plan(file)
    except (ValueError, KeyError, TypeError) as error:
        said(f"error: `{file}` is not a plan that this bettyc can run: {error}")
        raise Failed(2) from None


def _refuse(no_python: bool, externs: Any) -> None:
    if no_python and externs:
        first = externs[0]
        said(f'error: --no-python refuses `extern {first.kind} {first.name} from "{first.origin}"`')
        raise Failed(2)


def _last_of(path: str) -> str:
    """A checkpoint by its path, or the last one of a run by its folder."""
    from bettyc.cli.folder import checkpoints

    if os.path.isdir(path):
        found = checkpoints(path)
        if not found:
            said(f"error: `{path}` has no checkpoint to go on from")
            raise Failed(2)
        return found[-1][1]
    if not os.path.isfile(path):
        said(f"error: cannot read `{path}`: No such file or directory")
        raise Failed(2)
    return path


def _execute(
    run: Run,
    folder: Folder,
    watch: Watcher,
    s: Settings,
    sources: Mapping[str, Source],
    stream: bool,
) -> None:
    """Run to the end, or to whatever ends it, with the exit code that belongs to that."""
    from bettyc.runtime.execute import Stopped
    from bettyc.runtime.report import SolveError

    began = time.monotonic()
    last: Output | None = None
    try:
        with watch, _interrupts(run):
            watch.begin(run.plan.model.name, run.total, run.step_count, folder.path)
            for output in _outputs(run, folder, watch, s):
                last = output
    except Stopped:
        folder.checkpoint(run, run.step_count)
        said(f"interrupted; resume with: bettyc run ... --resume {folder.path}")
        raise Failed(130) from None
    except InputError as error:
        report(error.diagnostics, sources, s)
        raise Failed(1) from None
    except SolveError as error:
        said(f"error: step {run.step_count}: {error}")
        raise Failed(3) from None
    except RunError as error:
        said(f"error: {error}")
        raise Failed(3) from None
    except MemoryError as error:
        said(f"error: out of memory{f': {error}' if str(error) else ''}")
        raise Failed(3) from None
    seconds = time.monotonic() - began
    folder.end(run, run.plan, last, seconds)
    _result(run, folder, last, seconds, stream)


def _outputs(run: Run, folder: Folder, watch: Watcher, s: Settings) -> Iterator[Output]:
    """Every output, logged, shown, and checkpointed where the program asks for it."""
    from bettyc.cli.folder import line_of
    from bettyc.cli.loggers import interval, numbers
    from bettyc.model import Call

    setting, every = run.plan.model.setting("checkpoint"), interval(run.plan)
    told: set[str] = set()
    for output in run:
        step = output.step + 1
        if step % every == 0 or step == run.total or output.metrics or output.stopped:
            folder.log(line_of(output))
            for logger in folder.loggers:
                logger.log(output.step, numbers(output))
        watch.update(output)
        if isinstance(setting, Call):
            folder.regular(run, output, setting)
        for solve in output.reports:
            if solve.severe and not s.quiet and solve.level not in told:
                told.add(solve.level)
                said(f"warning: step {output.step}, through `{solve.level}`: {solve.note}")
        yield output


@contextmanager
def _interrupts(run: Run) -> Iterator[None]:
    """The first Ctrl-C stops the run where it can be resumed, the second stops it at once."""

    def handle(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run.interrupt()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _result(run: Run, folder: Folder, last: Output | None, seconds: float, stream: bool) -> None:
    """What came out, on stdout."""
    from bettyc.cli.folder import line_of, listed
    from bettyc.cli.progress import tell

    if stream:
        content = line_of(last) if last is not None else {}
        tell({"type": "end", **content, "seconds": round(seconds, 3), "folder": folder.path})
        return
    if last is None:
        click.echo("nothing was left to do")
        return
    click.echo(f"program  {run.plan.model.name}")
    click.echo(f"steps    {last.step + 1} of {run.total}, {seconds:.1f} s")
    if last.stopped:
        click.echo(f"stopped  {last.stopped}")
    click.echo(f"loss     {listed(last.loss)}")
    if last.metrics:
        click.echo(f"metrics  {listed(last.metrics)}")
    click.echo(f"folder   {folder.path}")
    sys.stdout.flush()
