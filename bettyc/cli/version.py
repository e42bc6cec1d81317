"""`bettyc version`: what is installed."""

from __future__ import annotations

import json
from typing import Any

import click

from bettyc.cli.common import global_options, settings
from bettyc.environment import environment


@click.command("version")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@global_options("text", "json")
def command(as_json: bool, **parameters: Any) -> None:
    """Show the versions of bettyc, of the language and of what it runs on."""
    s = settings(parameters)
    content = environment()
    if as_json or s.format == "json":
        click.echo(json.dumps(content, indent=2))
        return
    click.echo(
        f"bettyc {content['bettyc']} (language {content['language']}, Python {content['python']})"
    )
    if s.verbose:
        for name, number in content["packages"].items():
            click.echo(f"  {name} {number or 'not installed'}")
