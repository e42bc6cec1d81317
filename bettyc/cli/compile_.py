"""`bettyc compile`: write a plan to a file, or the code that it runs to the standard output."""

from __future__ import annotations

from typing import Any

import click

from bettyc.cli.common import (
    Failed,
    global_options,
    optimization_option,
    program_options,
    read_program,
    report,
    said,
    settings,
    sound,
    write,
)


@click.command("compile")
@click.argument("file", metavar="FILE|-")
@click.option(
    "-o",
    "--output",
    metavar="PLAN.mlop",
    type=click.Path(dir_okay=False),
    help="Where the plan goes; default PROGRAM.mlop, - prints it.",
)
@optimization_option
@click.option("--device", metavar="DEVICE", help="cpu, cuda or auto, in place of run.device.")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Seed, in place of run.seed.")
@program_options
@global_options()
def command(
    file: str, output: str | None, opt: int, device: str | None, seed: int | None, **parameters: Any
) -> None:
    """Bind the data's sizes, plan, and write the plan; `bettyc run PLAN.mlop` executes it.

    A plan is JSON and holds no code; the data are read again when it runs. `--emit python` prints
    the torch code that runs instead: objectives, their derivatives, metrics.
    """
    from bettyc.api import MloError, Program

    s = settings(parameters)
    checked = sound(read_program(file, s), s)
    if s.emit:
        from bettyc.cli.planning import bound
        from bettyc.cli.stages import emit

        emit(bound(checked, s), s, opt=opt)
        return
    try:
        compiled = Program(checked).compile(device=device, opt=opt, seed=seed)
    except MloError as error:
        report(error.diagnostics, checked.sources, s)
        raise Failed(1) from None
    text = compiled.to_json() + "\n"
    if output == "-":
        click.echo(text, nl=False)
        return
    path = output or f"{compiled.plan.model.name}.mlop"
    write(path, text)
    if not s.quiet:
        said(f"wrote {path}")
