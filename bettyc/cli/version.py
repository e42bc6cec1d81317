"""`bettyc version`: what is installed."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

import bettyc
from bettyc.cli.common import global_options, settings

PACKAGES = (
    "torch",
    "triton",
    "lark",
    "networkx",
    "numpy",
    "safetensors",
    "scikit-learn",
    "click",
    "rich",
)


@click.command("version")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@global_options("text", "json")
def command(as_json: bool, **parameters: Any) -> None:
    """Show the versions of bettyc, of the language and of what it runs on."""
    from bettyc.grammar.parse import LANGUAGE
    from bettyc.plan import FORMAT

    s = settings(parameters)
    content = {
        "bettyc": bettyc.__version__,
        "language": ".".join(map(str, LANGUAGE)),
        "plan_format": FORMAT,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _installed(name) for name in PACKAGES},
    }
    if as_json or s.format == "json":
        click.echo(json.dumps(content, indent=2))
        return
    click.echo(
        f"bettyc {content['bettyc']} (language {content['language']}, Python {content['python']})"
    )
    if s.verbose:
        for name in PACKAGES:
            click.echo(f"  {name} {_installed(name) or 'not installed'}")


def _installed(name: str) -> str | None:
    """The version, read off the package's metadata: importing it would take seconds."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
