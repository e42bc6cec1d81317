"""`bettyc explain`: the long explanation of a code."""

from __future__ import annotations

import json
from typing import Any

import click

from bettyc.cli.common import global_options, settings


@click.command("explain")
@click.argument("code", required=False)
@click.option("--list", "all_", is_flag=True, help="List all codes.")
@global_options("text", "json")
def command(code: str | None, all_: bool, **parameters: Any) -> None:
    """Explain a code, by number or name: MLO0319, 319, undirected-read.

    The page shows a program that has the problem, and the program without it.
    """
    s = settings(parameters)
    from bettyc.diagnostics.explain import explain, find, listing

    if all_ == (code is not None):
        raise click.UsageError("give a code, or --list")
    if all_:
        rows = listing()
        if s.format == "json":
            keys = ("code", "name", "severity", "message")
            click.echo(json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=2))
            return
        for number, name, severity, message in rows:
            click.echo(f"{number}  {severity:<8}  {name:<28}  {message}")
        return
    assert code is not None
    try:
        found, page = find(code), explain(code)
    except KeyError:
        raise click.UsageError(f"no such code `{code}`{_near(code)}") from None
    if s.format == "json":
        click.echo(json.dumps({"code": found, "page": page}, ensure_ascii=False))
    else:
        click.echo(page.rstrip("\n"))


def _near(code: str) -> str:
    from bettyc.diagnostics.explain import listing
    from bettyc.diagnostics.suggest import closest

    names = [word for row in listing() for word in row[:2]]
    near = closest(code.upper(), names) or closest(code.lower(), names)
    return f", did you mean `{near[0]}`?" if near else "; `bettyc explain --list` lists all"
