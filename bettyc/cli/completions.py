"""`bettyc completions`: the script that completes words in a shell."""

from __future__ import annotations

from typing import Any

import click

from bettyc.cli.common import global_options, settings

SHELLS = ("bash", "zsh", "fish")


@click.command("completions")
@click.argument("shell", type=click.Choice(SHELLS))
@global_options()
def command(shell: str, **parameters: Any) -> None:
    """Print the completion script of a shell.

    For bash, write `eval "$(bettyc completions bash)"` into ~/.bashrc.
    """
    from click.shell_completion import get_completion_class

    from bettyc.cli.main import COMPLETE, bettyc

    settings(parameters)
    found = get_completion_class(shell)
    assert found is not None
    # click's bash class asks the installed bash for its version; the script does not need it.
    source = found.source_template % found(bettyc, {}, "bettyc", COMPLETE).source_vars()
    click.echo(source)
