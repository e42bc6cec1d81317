"""Doing something again whenever one of a set of files changes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence

import click

from bettyc.cli.common import said

PERIOD = 0.2  # seconds between looks at the files


def watch(files: Sequence[str], act: Callable[[], tuple[int, set[str]]]) -> None:
    """Call `act`, which tells what it read, again after every change, until interrupted."""
    if "-" in files:
        raise click.UsageError("--watch needs files, not the standard input")
    while True:
        if sys.stderr.isatty():
            click.clear()
        before = _times(files)
        read = {f for f in act()[1] if os.path.exists(f)} | set(files)
        before = {**_times(read), **before}
        said("watching for changes; Ctrl-C ends")
        while _times(read) == before:
            time.sleep(PERIOD)


def _times(files: Iterable[str]) -> dict[str, tuple[int, int] | None]:
    """Time of change and size; None for a file that is not there, as editors save by renaming."""
    found: dict[str, tuple[int, int] | None] = {}
    for file in files:
        try:
            stat = os.stat(file)
        except OSError:
            found[file] = None
        else:
            found[file] = (stat.st_mtime_ns, stat.st_size)
    return found
