"""The command `bettyc`: runs a verb, and gives what goes wrong a message and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

# Verb -> what it is for. Its file of the same name is imported only when it is asked for.
VERBS = {
    "check": "Find every mistake that can be found without running.",
    "compile": "Write the plan to a file that `run` executes.",
    "completions": "Print the completion script of a shell.",
    "explain": "Explain a code such as MLO0319.",
    "fmt": "Format programs.",
    "gradcheck": "Compare hypergradients with independent references.",
    "graph": "Show the levels and what depends on what.",
    "info": "Show what a program declares and where each value came from.",
    "list": "List functions, optimizers, strategies, settings or domains.",
    "new": "Write a program to start from.",
    "plan": "Show the schedule and how each level is differentiated.",
    "report": "Write a page about runs: curves, residuals, schedule, settings.",
    "run": "Run a program or a compiled plan.",
    "version": "Show the versions of bettyc and what it runs on.",
}


# Set by the shell's completion script, to what it wants to know.
COMPLETE = "_BETTYC_COMPLETE"


class Verbs(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        # Verbs that are Python words live in files with an underscore.
        name = {"compile": "compile_", "list": "list_"}.get(cmd_name, cmd_name)
        command: click.Command = import_module(f"bettyc.cli.{name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of verbs in the help, without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0]
        if word not in VERBS and not word.startswith("-"):
            from bettyc.diagnostics.suggest import closest

            near = closest(word, VERBS)
            hint = f", did you mean `{near[0]}`?" if near else ""
            if word.endswith((".mlo", ".mlop")):
                hint = f": to run it, write `bettyc run {word}`"
            raise click.UsageError(f"no such command `{word}`{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 ok, 1 errors found, 2 usage or files, 3 a run failed,"
    " 101 a fault of bettyc, 130 interrupted.",
)
def bettyc() -> None:
    """A compiler for multilevel optimization.

    FILE is a program (.mlo); `-` is the standard input.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code."""
    code = run(list(sys.argv[1:] if arguments is None else arguments))
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """The exit code of a command line; messages go to stderr."""
    try:
        if COMPLETE in os.environ:
            from click.shell_completion import shell_complete

            return shell_complete(bettyc, {}, "bettyc", COMPLETE, os.environ[COMPLETE])
        with bettyc.make_context("bettyc", arguments) as context:
            bettyc.invoke(context)
        sys.stdout.flush()  # where failure still has an exit code
        return 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show(sys.stderr)
        return 2
    except (click.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has read enough; what is still buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"error: {_os_error(error)}", file=sys.stderr)
        return 2
    except Exception:  # the last resort: our own fault, reported as such
        from bettyc.cli.crash import report

        print(report(arguments), file=sys.stderr)
        return 101


def _os_error(error: OSError) -> str:
    name = f"`{error.filename}`: " if error.filename is not None else ""
    return f"{name}{error.strerror or error}"
