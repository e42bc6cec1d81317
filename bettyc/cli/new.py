"""`bettyc new`: a small program to start from, complete and runnable."""

from __future__ import annotations

import os
from importlib.resources import files
from typing import Any

import click

from bettyc.cli.common import Failed, global_options, said, settings, write

KINDS = {
    "hpo": "hyperparameter optimization",
    "reweight": "weights for training examples",
    "nas": "architecture search",
    "maml": "meta-learning over tasks",
    "minmax": "a zero-sum game",
    "rl": "actor and critic",
}
# Programs that come with Python: template -> the file's name beside the program.
PYTHON = {"maml": "maml_tasks.py", "rl": "rl_world.py"}


@click.command("new")
@click.argument("kind", type=click.Choice(tuple(KINDS)))
@click.option(
    "-o", "--output", metavar="PATH", help="The program's file; default KIND.mlo, - prints it."
)
@global_options()
def command(kind: str, output: str | None, **parameters: Any) -> None:
    """Write a program to start from: hpo, reweight, nas, maml, minmax or rl.

    It runs as it is, on data bundled with scikit-learn or made by a Python file beside it. A file
    that is there already is never overwritten.
    """
    s = settings(parameters)
    if output == "-":
        click.echo(template(f"{kind}.mlo"), nl=False)
        return
    path = output or f"{kind}.mlo"
    contents = {path: template(f"{kind}.mlo")}
    if kind in PYTHON:
        beside = os.path.join(os.path.dirname(path), PYTHON[kind])
        contents[beside] = template(f"{PYTHON[kind]}.txt")
    for there in filter(os.path.exists, contents):
        said(f"error: `{there}` is already there; give another name with -o")
        raise Failed(2)
    for name, text in contents.items():
        write(name, text)
        if not s.quiet:
            said(f"wrote {name}")
    if not s.quiet:
        said(f"next: bettyc run {path}")


def template(name: str) -> str:
    """The text of a file of `templates/`."""
    return files("bettyc.cli").joinpath("templates", name).read_text(encoding="utf-8")
