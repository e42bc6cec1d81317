"""What the verbs share: options, reading programs, printing diagnostics, writing output."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bettyc.options import OPT, Options

if TYPE_CHECKING:
    from bettyc.diagnostics.model import Diagnostic
    from bettyc.diagnostics.span import Source
    from bettyc.diagnostics.suppress import Levels
    from bettyc.driver import Checked

STDIN = "<stdin>"
FORMATS = ("full", "concise", "json", "github", "sarif")
STAGES = ("tokens", "ast", "typed", "graph", "plan", "python")

F = TypeVar("F", bound=Callable[..., Any])


class Failed(click.exceptions.Exit):
    """Leave with an exit code, everything having been said."""

    def __init__(self, code: int) -> None:
        super().__init__(code)


# Options


def _apply(options: Sequence[Callable[[F], F]]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def optimization_option(function: F) -> F:
    """How much of a run is compiled."""
    return click.option(
        "-O", "opt", type=click.IntRange(0, 2), default=OPT, show_default=True, metavar="0|1|2",
        help="0: plain autograd; 1: derivatives in closed form; 2: steps compiled where that pays.",
    )(function)  # fmt: skip


def global_options(*formats: str) -> Callable[[F], F]:
    """The options that every verb takes. `formats`: those of its own output, first the default."""
    known = tuple(dict.fromkeys((*formats, *FORMATS)))
    words = {f: f"of the output: {', '.join(formats)}; " for f in formats}.get("text", "")
    return _apply([
        click.option("--format", "format_", type=click.Choice(known), default=known[0],
                     metavar="FORMAT", show_default=True,
                     help=f"Format {words}of diagnostics: {', '.join(FORMATS)}."),
        click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto",
                     help="Colour of diagnostics; NO_COLOR is obeyed."),
        click.option("-q", "--quiet", is_flag=True, help="Print errors only."),
        click.option("-v", "--verbose", is_flag=True, help="Say what is done."),
    ])  # fmt: skip


def program_options(function: F) -> F:
    """The options of every verb that reads a program: values from outside, severities, stages."""
    return _apply([
        click.option("--set", "sets", multiple=True, metavar="PATH=VALUE",
                     help="Set a param, dim or setting, e.g. fit.optimizer.lr=0.1. Repeatable."),
        click.option("--profile", metavar="NAME", help="Apply a profile of the program."),
        click.option("--config", type=click.Path(dir_okay=False), metavar="FILE.toml",
                     help="Apply the settings of a TOML file."),
        click.option("--data", "data", multiple=True, metavar="NAME=SOURCE",
                     help='Read a data set from a file or source, e.g. all=x.npz. Repeatable.'),
        click.option("--mock", metavar="DIM=N,...",
                     help="Make data from its types, with these sizes; auto chooses all."),
        click.option("-I", "include", multiple=True, metavar="DIR",
                     type=click.Path(file_okay=False),
                     help="Search Python modules here, after the program's folder. Repeatable."),
        click.option("--stdin-filename", metavar="NAME",
                     help="What messages call the standard input."),
        click.option("--pedantic", is_flag=True, help="Also report matters of taste."),
        click.option("-W", "warn", multiple=True, metavar="CODE", help="Report CODE as a warning."),
        click.option("-A", "allow", multiple=True, metavar="CODE", help="Do not report CODE."),
        click.option("-E", "error", multiple=True, metavar="CODE", help="Report CODE as an error."),
        click.option("--error-on-warning", is_flag=True, help="Treat every warning as an error."),
        click.option("--emit", metavar="STAGE,...",
                     help=f"Print stages of the compiler instead: {', '.join(STAGES)}."),
    ])(function)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """The options of one command, made sense of."""

    options: Options
    levels: Levels
    format: str
    color: bool
    quiet: bool
    verbose: bool
    stdin_filename: str
    emit: tuple[str, ...]

    @property
    def diagnostics(self) -> str:
        """The format of diagnostics; a verb's own JSON goes with JSON."""
        return self.format if self.format in FORMATS else "full"


def settings(parameters: Mapping[str, Any], *, imports: bool = False) -> Settings:
    """From click's parameters. Raises `click.UsageError` for what makes no sense."""
    from bettyc.diagnostics.suppress import Levels

    p = parameters
    try:
        levels = Levels(
            frozenset(map(_code, p.get("warn", ()))),
            frozenset(map(_code, p.get("allow", ()))),
            frozenset(map(_code, p.get("error", ()))),
            bool(p.get("error_on_warning")),
            bool(p.get("pedantic")),
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return Settings(
        options(p, imports),
        levels,
        p["format_"],
        coloured(p["color"]),
        p["quiet"],
        p["verbose"],
        p.get("stdin_filename") or STDIN,
        stages(p.get("emit")),
    )


def options(p: Mapping[str, Any], imports: bool) -> Options:
    """The `Options` of the compiler."""
    config = p.get("config")
    return Options(
        set=tuple(pair(text, "--set", "PATH=VALUE") for text in p.get("sets", ())),
        profile=p.get("profile"),
        config=(config, read_text(config)) if config else None,
        data=tuple(pair(text, "--data", "NAME=SOURCE") for text in p.get("data", ())),
        mock=mock(p.get("mock")),
        include=tuple(p.get("include", ())),
        imports=imports,
    )


def pair(text: str, option: str, form: str) -> tuple[str, str]:
    """`a=b` as a pair."""
    name, sign, value = text.partition("=")
    if not sign or not name.strip() or not value.strip():
        raise click.UsageError(f"{option} wants {form}, not `{text}`")
    return name.strip(), value.strip()


def mock(text: str | None) -> tuple[tuple[str, int], ...] | None:
    """`n=64,d=10` as pairs; `auto` leaves all sizes to the compiler."""
    if text is None or text == "auto":
        return None if text is None else ()
    pairs = [pair(part, "--mock", "DIM=N,...") for part in text.split(",") if part.strip()]
    for name, value in pairs:
        if not value.isdecimal() or int(value) < 1:
            raise click.UsageError(f"--mock {name}={value}: a size is a whole number of at least 1")
    return tuple((name, int(value)) for name, value in pairs)


def stages(text: str | None) -> tuple[str, ...]:
    """The words of `--emit`."""
    words = tuple(w.strip() for w in text.split(",") if w.strip()) if text else ()
    for word in words:
        if word not in STAGES:
            raise click.UsageError(f"--emit knows no stage `{word}`; stages: {', '.join(STAGES)}")
    return words


def _code(text: str) -> str:
    """MLO0319 from any way to name it; an unknown one is returned as it is."""
    from bettyc.diagnostics.explain import find

    try:
        return find(text)
    except KeyError:
        return text


def coloured(when: str) -> bool:
    """Whether diagnostics get colour (no-color.org)."""
    if when != "auto":
        return when == "always"
    return (
        sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )


# Reading


def read_text(path: str) -> str:
    """The text of a file. Raises OSError, or `click.UsageError` where it is not text."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        try:
            return file.read()
        except UnicodeDecodeError:
            raise click.UsageError(f"`{path}` is not UTF-8 text") from None


def read_program(path: str, s: Settings) -> Checked:
    """Parse and check a file, or the standard input. Raises OSError where it cannot be read."""
    from bettyc.driver import check, check_file

    began = time.perf_counter()
    if path == "-":
        text = sys.stdin.buffer.read().decode("utf-8-sig", "replace")
        checked = check(text, s.stdin_filename, s.options, folder=os.getcwd())
    else:
        checked = check_file(path, s.options)
    verbose(s, f"checked {checked.name}", began)
    return checked


def linked(checked: Checked, s: Settings) -> Checked:
    """The program with what `--data`, `--mock` and `--import` ask to be looked at."""
    o = s.options
    if not (o.data or o.mock is not None or o.imports):
        return checked
    from bettyc.link import examine

    return examine(checked)


def sound(checked: Checked, s: Settings) -> Checked:
    """The program, its findings printed. Leaves with exit code 1 when it has errors."""
    if report(checked.shown(s.levels), checked.sources, s) or checked.model is None:
        raise Failed(1)
    return checked


# Writing


def report(
    found: Sequence[Diagnostic],
    sources: Mapping[str, Source],
    s: Settings,
    *,
    to_stdout: bool = False,
) -> bool:
    """Print diagnostics; whether there are errors among them."""
    from bettyc.diagnostics.render import render

    errors = any(d.severity == "error" for d in found)
    if s.quiet:
        found = [d for d in found if d.severity == "error"]
    if found or s.diagnostics == "sarif":
        width = None
        if s.diagnostics == "full" and sys.stderr.isatty():
            import shutil

            width = shutil.get_terminal_size().columns
        format_: Any = s.diagnostics
        text = render(found, sources, format_, s.color, width=width)
        click.echo(text, err=not to_stdout, color=s.color)
    return errors


def verbose(s: Settings, what: str, began: float) -> None:
    """Under `-v`, say what was done and how long it took."""
    if s.verbose:
        said(f"{what} in {time.perf_counter() - began:.3f} s")


def said(message: str) -> None:
    """A message for people, on stderr."""
    click.echo(message, err=True)


def write(path: str, text: str) -> None:
    """Write a file whole or not at all; a link is followed, permissions stay. Raises OSError."""
    import shutil

    target = os.path.realpath(path)
    temporary = f"{target}.{os.getpid()}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        if os.path.exists(target):
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except OSError as error:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise OSError(error.errno, error.strerror, path) from None
