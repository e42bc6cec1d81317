"""`bettyc check`: find mistakes, and with `--watch` keep finding them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bettyc.cli.common import (
    Failed,
    Settings,
    global_options,
    linked,
    program_options,
    read_program,
    report,
    said,
    settings,
)

if TYPE_CHECKING:
    from bettyc.diagnostics.model import Diagnostic
    from bettyc.diagnostics.span import Source


@click.command("check")
@click.argument("files", nargs=-1, required=True, metavar="FILE...|-")
@click.option(
    "--import", "imports", is_flag=True, help="Import and check the Python that is named."
)
@click.option("--watch", is_flag=True, help="Check again whenever a file changes.")
@program_options
@global_options()
def command(files: tuple[str, ...], imports: bool, watch: bool, **parameters: Any) -> None:
    """Find every mistake in programs that can be found without running them.

    torch and the data are not needed. Sizes are checked as far as they are known: `--data` and
    `--mock` bind them. Findings go to stderr, in the formats json, github and sarif to stdout.
    """
    s = settings(parameters, imports=imports)
    if watch:
        from bettyc.cli.watch import watch as follow

        follow(files, lambda: _check(files, s))
    code = _check(files, s)[0]
    if code:
        raise Failed(code)


def _check(files: tuple[str, ...], s: Settings) -> tuple[int, set[str]]:
    """Check all files; the exit code, and every file that was read."""
    if s.emit:
        return _emit(files, s), set(files)
    found: list[Diagnostic] = []
    sources: dict[str, Source] = {}
    unreadable = 0
    for path in files:
        try:
            checked = read_program(path, s)
        except OSError as error:
            unreadable += 1
            said(f"error: cannot read `{path}`: {error.strerror}")
            continue
        checked = linked(checked, s)
        found += checked.shown(s.levels)
        sources.update(checked.sources)
    data = s.diagnostics in ("json", "github", "sarif")
    errors = report(found, sources, s, to_stdout=data)
    if not (data or s.quiet or unreadable == len(files)):
        _summarise(found, len(files) - unreadable, s)
    return (2 if unreadable else 1 if errors else 0), {*sources, *files}


def _summarise(found: list[Diagnostic], count: int, s: Settings) -> None:
    from bettyc.diagnostics.render import summary

    programs = f"{count} program{'s' if count != 1 else ''} checked"
    gap = "\n" if found and s.format == "full" else ""
    said(f"{gap}{programs}: {summary(found) or 'ok'}")


def _emit(files: tuple[str, ...], s: Settings) -> int:
    from bettyc.cli.stages import emit

    for path in files:
        emit(linked(read_program(path, s), s), s)
    return 0
