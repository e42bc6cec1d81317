"""`bettyc plan`: what a run will do, and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from bettyc.cli.common import (
    Failed,
    global_options,
    optimization_option,
    program_options,
    read_program,
    report,
    settings,
    sound,
)
from bettyc.cli.planning import bound, planned


@click.command("plan")
@click.argument("file", metavar="FILE|-")
@click.option(
    "--why", is_flag=True, help="Give the reason for every choice, and against the others."
)
@optimization_option
@click.option(
    "--memory", is_flag=True, help="Compare what differentiating needs with the device's memory."
)
@click.option("--device", metavar="DEVICE", help="cpu, cuda or auto.")
@click.option("--seed", type=int, metavar="N", help="Seed of the run.")
@program_options
@global_options("text", "json", "dot")
def command(
    file: str,
    why: bool,
    memory: bool,
    opt: int,
    device: str | None,
    seed: int | None,
    **parameters: Any,
) -> None:
    """Show the schedule of a program and how each level is differentiated.

    Nothing is run and torch is not needed. Sizes come from the data where it is at hand, or from
    `--mock`. The same program gives the same plan, byte for byte.
    """
    s = settings(parameters)
    checked = sound(read_program(file, s), s)
    if s.emit:
        from bettyc.cli.stages import emit

        emit(bound(checked, s), s, opt=opt)
        return
    plan = planned(bound(checked, s), s, opt=opt, device=device, seed=seed)
    if memory:
        from bettyc.planner.memory import check

        found = replace(checked, diagnostics=tuple(check(plan))).shown(s.levels)
        if report(found, checked.sources, s):
            raise Failed(1)
    if s.format == "json":
        click.echo(plan.to_json())
    elif s.format == "dot":
        from bettyc.graph import build
        from bettyc.pictures import draw

        assert checked.model is not None
        assert checked.hierarchy is not None
        click.echo(draw(build(checked.model, checked.hierarchy, checked.sources), "dot"), nl=False)
    else:
        from bettyc.planner.text import text

        click.echo(text(plan, why))
