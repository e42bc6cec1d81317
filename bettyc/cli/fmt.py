"""`bettyc fmt`: format programs in place, or tell which are not formatted."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from bettyc.cli.common import (
    STDIN,
    Failed,
    Settings,
    global_options,
    read_text,
    report,
    said,
    settings,
    write,
)

if TYPE_CHECKING:
    from bettyc.grammar.parse import Parsed


@click.command("fmt")
@click.argument("files", nargs=-1, required=True, metavar="FILE...|-")
@click.option("--check", is_flag=True, help="Change nothing; exit with 1 if a file would change.")
@click.option("--diff", is_flag=True, help="Change nothing; print what would change.")
@click.option(
    "--line-length",
    type=click.IntRange(min=40),
    default=100,
    show_default=True,
    metavar="N",
    help="Width that lines are broken at.",
)
@click.option("--migrate", is_flag=True, help="Also rewrite old and foreign syntax.")
@click.option("--stdin-filename", metavar="NAME", help="What messages call the standard input.")
@global_options()
def command(
    files: tuple[str, ...],
    check: bool,
    diff: bool,
    line_length: int,
    migrate: bool,
    **parameters: Any,
) -> None:
    """Format programs in place; `-` formats the standard input to the standard output.

    Comments are kept, and formatting twice changes nothing. A file that does not parse is left as
    it is and reported.
    """
    s = settings(parameters)
    code = 0
    for path in files:
        code = max(code, _format(path, s, check, diff, line_length, migrate))
    if code:
        raise Failed(code)


def _format(path: str, s: Settings, check: bool, diff: bool, width: int, migrate: bool) -> int:
    """Format one file; its exit code."""
    stdin = path == "-"
    name = s.stdin_filename if stdin else path
    try:
        before = _stdin() if stdin else read_text(path)
    except OSError as error:
        said(f"error: cannot read `{path}`: {error.strerror}")
        return 2
    after = formatted(before, name, s, width, migrate)
    if after is None:
        return 1
    if diff:
        click.echo(_diff(before, after, name), nl=False)
    if check:
        if after != before and not diff:
            said(f"would reformat {name}")
        return int(after != before)
    if diff:
        return 0
    if stdin:
        click.echo(after, nl=False)
    elif after != before:
        write(path, after)
        if not s.quiet:
            said(f"formatted {path}")
    return 0


def _stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise click.UsageError(f"{STDIN} is not UTF-8 text") from None


def formatted(text: str, name: str, s: Settings, width: int, migrate: bool) -> str | None:
    """The text in canonical form; None, after a report, when it does not parse."""
    from bettyc.grammar.parse import parse
    from bettyc.grammar.printer import format as print_file

    parsed = parse(text, name)
    if migrate:
        from bettyc.cli.migrate import migrate as rewrite

        parsed = rewrite(parsed)
    if _broken(parsed, s) or parsed.file is None:
        return None
    return print_file(parsed.file, parsed.source, width)


def _broken(parsed: Parsed, s: Settings) -> bool:
    """Report what prevents formatting. Other findings are for `check`."""
    errors = [d for d in parsed.diagnostics if d.severity == "error"]
    return report(errors, {parsed.source.name: parsed.source}, s)


def _diff(before: str, after: str, name: str) -> str:
    import difflib

    lines = difflib.unified_diff(
        before.splitlines(keepends=True),
        after.splitlines(keepends=True),
        name,
        f"{name} (formatted)",
    )
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )
