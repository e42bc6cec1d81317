"""`bettyc gradcheck`: are the planned hypergradients those of the nested problem?"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from bettyc.cli.common import (
    Failed,
    Settings,
    global_options,
    program_options,
    read_program,
    report,
    said,
    settings,
    sound,
)
from bettyc.cli.planning import start
from bettyc.failures import InputError, RunError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bettyc.runtime.gradcheck import Comparison, Missing
    from bettyc.runtime.run import Run

REFERENCES = ("unroll", "differences", "O0")


@click.command("gradcheck")
@click.argument("file", metavar="FILE|-")
@click.option(
    "--level", "levels", multiple=True, metavar="LEVEL", help="Check this level only. Repeatable."
)
@click.option(
    "--against",
    default=",".join(REFERENCES),
    show_default=True,
    metavar="REF,...",
    help="unroll: descent to convergence, run backwards; differences: everything solved anew;"
    " O0: the same strategy by plain autograd.",
)
@click.option(
    "--rtol",
    type=click.FloatRange(min=0),
    default=1e-3,
    show_default=True,
    help="Largest relative error that passes.",
)
@click.option(
    "--floor",
    type=click.FloatRange(min=0, min_open=True),
    default=1e-7,
    show_default=True,
    help="Gradients of a smaller norm are measured by this one.",
)
@click.option(
    "--after",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Run N updates of the top level first.",
)
@click.option(
    "--most",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    metavar="N",
    help="Compare at most N coordinates of a variable.",
)
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Seed, in place of run.seed.")
@program_options
@global_options("text", "json")
def command(
    file: str,
    levels: tuple[str, ...],
    against: str,
    rtol: float,
    floor: float,
    after: int,
    most: int,
    seed: int | None,
    **parameters: Any,
) -> None:
    """Compare every hypergradient of a program with independent references.

    The levels below first do their steps. `unroll` and `differences` share no code with the
    strategies: they tell how far the plan's hypergradient is from that of the nested problem. `O0`
    shares no code with the derivatives that the compiler wrote: it tells whether those are right.
    Everything is computed in fp64 unless `--set run.precision=...` says otherwise. The exit code is
    1 when an error is larger than --rtol: where the plan's strategy is an approximation, this is
    how good it is. The error of a variable is relative to the norm of its gradient, which counts as
    at least 1e-4 of its level's and as at least --floor: a gradient that is zero has no relative
    error, and rounding in it is none. `unroll` and `differences` need the solutions of the levels
    below: where there are none, as of most networks, a warning says so and the other references
    decide; without any the exit code is 3.
    """
    s = settings(parameters)
    names = tuple(word.strip() for word in against.split(",") if word.strip())
    for name in names:
        if name not in REFERENCES:
            raise click.UsageError(f"--against knows {', '.join(REFERENCES)}, not `{name}`")
    s = replace(s, options=replace(s.options, set=(("run.precision", "fp64"), *s.options.set)))
    run, plain = _started(file, s, seed, "O0" in names)
    wanted = [n for n in reversed(run.plan.order) if run.plan.sweep(n)]
    for level in levels:
        if level not in wanted:
            said(f"error: `{level}` has no hypergradient; levels that have: {', '.join(wanted)}")
            raise Failed(2)
    chosen = [n for n in wanted if not levels or n in levels]
    rows, missing = _found(run, plain, chosen, names, most, after, floor)
    _print(rows, missing, rtol, floor, s)
    compared = {row.root for row in rows}
    alone = [gone for gone in missing if gone.root not in compared]
    for gone in missing:
        what = "error" if gone in alone else "warning"
        said(f"{what}: `{gone.root}` has no reference `{gone.reference}`: {gone.reason}")
    if alone:
        raise Failed(3)
    if any(not row.relative_error <= rtol for row in rows):
        raise Failed(1)


def _started(file: str, s: Settings, seed: int | None, plain: bool) -> tuple[Run, Run | None]:
    """The run, and where `plain` one of the same program by plain autograd."""
    from bettyc.api import MloError, Program

    checked = sound(read_program(file, s), s)
    try:
        program = Program(checked)
        run = start(program.compile(seed=seed), s)
        return run, start(program.compile(seed=seed, opt=0), s) if plain else None
    except MloError as error:
        found = error.diagnostics
    except InputError as error:
        found = error.diagnostics
    report(found, checked.sources, s)
    raise Failed(1)


def _found(
    run: Run,
    plain: Run | None,
    levels: list[str],
    against: tuple[str, ...],
    most: int,
    after: int,
    floor: float,
) -> tuple[list[Comparison], list[Missing]]:
    from bettyc.runtime.report import SolveError

    try:
        for _ in range(after):
            run.step()
        found = [compare(run, level, against, most, plain, floor) for level in levels]
    except (RunError, SolveError) as error:
        said(f"error: {error}")
        raise Failed(3) from None
    return [row for rows, _ in found for row in rows], [m for _, gone in found for m in gone]


def compare(
    run: Run,
    level: str,
    against: tuple[str, ...],
    most: int,
    plain: Run | None = None,
    floor: float = 1e-7,
) -> tuple[tuple[Comparison, ...], tuple[Missing, ...]]:
    """The comparisons of one level, at the run's present variables with those below at their
    responses, and the references that cannot be had. The run is left as it was, so that a level is
    not checked where another check has solved it and its derivative vanishes.

    plain: a run of the same program at -O0, for the reference of that name; it becomes a copy.
    floor: as of `bettyc.runtime.gradcheck.gradcheck`.
    """
    from bettyc.runtime import checkpoint

    kept = checkpoint.capture(run)
    try:
        run.executor.respond(level)
        return _compared(run, level, against, most, plain, floor)
    finally:
        checkpoint.restore(run, kept)


def _compared(
    run: Run, level: str, against: tuple[str, ...], most: int, plain: Run | None, floor: float
) -> tuple[tuple[Comparison, ...], tuple[Missing, ...]]:
    import torch

    from bettyc.runtime import checkpoint
    from bettyc.runtime.gradcheck import Hyper, Piece, compared
    from bettyc.runtime.nesting import Nest
    from bettyc.runtime.response import Point

    stage = run.stages[level]
    kept = checkpoint.capture(run)
    frames = {n: other.feed.current() for n, other in run.stages.items() if n != level}
    frames[level] = stage.feed.next()
    if plain is not None:
        checkpoint.mirror(run, plain)
    checkpoint.restore(run, kept)
    objectives = {n: other.objective for n, other in run.stages.items()}
    nest = Nest({n: objective.reads for n, objective in objectives.items()}, run.plan.order)
    point = Point(nest, objectives, frames, dict(run.state.theta))
    pieces = [Piece(p.name, p.start, p.stop) for p in stage.layout.slots if p.trainable]

    def by(which: Run) -> Hyper:
        def hyper(theta: Mapping[str, torch.Tensor]) -> torch.Tensor:
            which.state.theta.update({n: t.detach().clone() for n, t in theta.items()})
            return which.hypergrad(level, respond=False).flat * stage.sign

        return hyper

    plainly = None if plain is None else by(plain)
    return compared(level, by(run), point, pieces, against, most, plainly, floor)


def _print(
    rows: list[Comparison], missing: list[Missing], rtol: float, floor: float, s: Settings
) -> None:
    if s.format == "json":
        content = [asdict(row) | {"passed": row.relative_error <= rtol} for row in rows]
        content += [asdict(gone) | {"passed": None} for gone in missing]
        click.echo(json.dumps(content, indent=2))
        return
    table = [("variable", "against", "relative error", "absolute", "cosine", "ratio", "")]
    for row in rows:
        table.append((
            f"{row.root}.{row.variable}", row.reference, f"{row.relative_error:.2e}",
            f"{row.absolute_error:.2e}", _six(row.cosine), _six(row.norm_ratio),
            _verdict(row, rtol, floor),
        ))  # fmt: skip
    widths = [max(len(line[i]) for line in table) for i in range(7)]
    for line in table:
        click.echo("  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip())


def _six(number: float | None) -> str:
    return "-" if number is None else f"{number:.6f}"


def _verdict(row: Comparison, rtol: float, floor: float) -> str:
    """Whether it passes, and whether the floor stood in for the norm of the reference."""
    said = "ok" if row.relative_error <= rtol else f"more than {rtol:g}"
    return f"{said}, of the floor {floor:g}" if row.scale == floor else said
