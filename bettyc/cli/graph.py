"""`bettyc graph`: the levels and what depends on what."""

from __future__ import annotations

from typing import Any

import click

from bettyc.cli.common import (
    Failed,
    global_options,
    linked,
    program_options,
    read_program,
    said,
    settings,
    sound,
    write,
)


@click.command("graph")
@click.argument("file", metavar="FILE|-")
@click.option("--why", metavar="A:B", help="Name the place that made the edge between two levels.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False),
    metavar="PATH",
    help="Write to a file, not to the standard output.",
)
@program_options
@global_options("text", "dot", "mermaid", "json", "svg")
def command(file: str, why: str | None, output: str | None, **parameters: Any) -> None:
    """Show the levels of a program, the edges between them and the paths of its hypergradients.

    Every edge names the mention in the program that made it.
    """
    s = settings(parameters)
    checked = linked(sound(read_program(file, s), s), s)
    model, hierarchy = checked.model, checked.hierarchy
    assert model is not None
    assert hierarchy is not None
    if why is not None:
        click.echo(_why(why, model, hierarchy, checked.sources))
        return
    from bettyc.graph import build
    from bettyc.pictures import FORMATS, draw

    format_ = s.format if s.format in FORMATS else "text"
    picture = draw(build(model, hierarchy, checked.sources), format_)
    if output is None:
        click.echo(picture, nl=False)
    else:
        write(output, picture)


def _why(question: str, model: Any, hierarchy: Any, sources: Any) -> str:
    """The answer to `--why fit:tune`; leaves with exit code 2 for levels that are not there."""
    from bettyc.diagnostics.suggest import closest
    from bettyc.graph import between, edges
    from bettyc.pictures.text import why

    first, colon, second = (part.strip() for part in question.partition(":"))
    if not colon:
        raise click.UsageError(f"--why wants two levels, A:B, not `{question}`")
    for name in (first, second):
        if name not in hierarchy.levels:
            near = closest(name, hierarchy.levels)
            hint = (
                f"did you mean `{near[0]}`?" if near else f"levels: {', '.join(hierarchy.levels)}"
            )
            said(f"error: no level `{name}`; {hint}")
            raise Failed(2)
    return why(between(edges(model, hierarchy, sources), first, second), first, second)
