"""Watching a run: a live line on a terminal, JSON lines for programs, nothing otherwise."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import click

from bettyc.cli.folder import line_of, listed

if TYPE_CHECKING:
    from bettyc.runtime.run import Output


LOOKS = 5  # redrawn so often in a second


class Watcher(Protocol):
    """Told of the beginning, of every update of the top level and of the end of a run."""

    def __enter__(self) -> Watcher: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def begin(self, program: str, total: int, done: int, folder: str) -> None: ...

    def update(self, output: Output) -> None: ...


class Silent:
    """Says nothing."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def begin(self, program: str, total: int, done: int, folder: str) -> None:
        pass

    def update(self, output: Output) -> None:
        pass


class Stream(Silent):
    """One JSON object per line on stdout: `start`, `step`, and `end` with what came out."""

    def begin(self, program: str, total: int, done: int, folder: str) -> None:
        tell({"type": "start", "schema": 1, "program": program, "steps": total, "done": done,
              "folder": folder})  # fmt: skip

    def update(self, output: Output) -> None:
        tell({"type": "step", **line_of(output)})


def tell(content: dict[str, Any]) -> None:
    """A line of the JSON stream."""
    click.echo(json.dumps(content))


class Live(Silent):
    """A bar with updates per second and the time left; losses, norms of hypergradients, relative
    residuals of their solves and the last metrics; redrawn in place on stderr.
    """

    def __init__(self, color: bool) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._metrics: list[str] = []
        self._shown = 0.0
        console = Console(file=sys.stderr, no_color=not color)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=console,
            refresh_per_second=LOOKS,
        )

    def __enter__(self) -> Live:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def begin(self, program: str, total: int, done: int, folder: str) -> None:
        self._task = self._bar.add_task(program, total=total, completed=done, numbers="", rate="")

    def update(self, output: Output) -> None:
        if output.metrics:
            self._metrics = [listed(output.metrics)]
        now, last = time.monotonic(), output.step + 1 == self._bar.tasks[self._task].total
        if now - self._shown < 1 / LOOKS and not last and not output.stopped:
            # Losses are computed when they are read: a fast run is not held up for each of them.
            self._bar.update(self._task, completed=output.step + 1)
            return
        self._shown = now
        parts = [f"loss {listed(output.loss)}"]
        if output.grad_norm:
            parts.append(f"grad {listed(output.grad_norm)}")
        residuals = [
            (r.level, r.relative_residual)
            for r in output.reports
            if r.relative_residual is not None
        ]
        if residuals:
            parts.append(f"residual {listed(residuals)}")
        speed = self._bar.tasks[self._task].speed
        self._bar.update(
            self._task,
            completed=output.step + 1,
            numbers=" | ".join([*parts, *self._metrics]),
            rate="" if speed is None else f"{speed:.3g}/s",
        )


def watcher(json_stream: bool, quiet: bool, color: bool) -> Watcher:
    """The one that fits where the output goes."""
    if json_stream:
        return Stream()
    return Live(color) if sys.stderr.isatty() and not quiet else Silent()
