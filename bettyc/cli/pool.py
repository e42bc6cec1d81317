"""Running `bettyc` in processes side by side, so that none can take another with it.

Each process is out of reach of the terminal's Ctrl-C; the first one that arrives here is passed on
to all, and each stops where it can be resumed; the second stops them at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

POLL = 0.02  # seconds between looks at the processes


@dataclass(frozen=True)
class Task:
    """A command line of bettyc. label: for people. log: the file that its output is added to."""

    label: str
    arguments: Sequence[str]
    log: str


@dataclass(frozen=True)
class Done:
    """How a task ended. state: finished, failed or interrupted. message: the cause of a failure."""

    task: Task
    state: str
    code: int
    message: str = ""


class _Signals:
    """How often a stop was asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, number: int, frame: object) -> None:
        self.asked += 1


def run_all(
    tasks: Sequence[Task], jobs: int, held: IO[str] | None, told: Callable[[Done], None]
) -> tuple[int, bool]:
    """Run all tasks, `jobs` at a time; how many failed, and whether it was interrupted.

    held: an open file that the processes keep open as well, and with it its lock. Of more than one
    job each gets its share of the cores, unless OMP_NUM_THREADS says otherwise.
    """
    waiting, running = list(tasks), dict[subprocess.Popen[bytes], Task]()
    failed, passed_on = 0, 0
    with _watching() as signals:
        try:
            while running or (waiting and not signals.asked):
                while waiting and len(running) < jobs and not signals.asked:
                    task = waiting.pop(0)
                    running[_started(task, jobs, held)] = task
                if signals.asked > passed_on:
                    passed_on = signals.asked
                    for process in running:
                        process.send_signal(signal.SIGINT)
                for process in [p for p in running if p.poll() is not None]:
                    done = _ended(running.pop(process), process.returncode, signals.asked > 0)
                    failed += done.state == "failed"
                    told(done)
                time.sleep(POLL)
        finally:
            for process in running:  # only after an error of our own
                process.kill()
    return failed, signals.asked > 0


@contextmanager
def _watching() -> Iterator[_Signals]:
    signals = _Signals()
    before = {n: signal.signal(n, signals) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _started(task: Task, jobs: int, held: IO[str] | None) -> subprocess.Popen[bytes]:
    environment = dict(os.environ)
    if jobs > 1:
        share = max(1, len(os.sched_getaffinity(0)) // jobs)
        environment.setdefault("OMP_NUM_THREADS", str(share))
    with open(task.log, "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "bettyc", *task.arguments],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
            start_new_session=True, pass_fds=[held.fileno()] if held is not None else [],
        )  # fmt: skip


def _ended(task: Task, code: int, asked: bool) -> Done:
    if code == 0:
        return Done(task, "finished", code)
    if asked and code in (130, -signal.SIGINT):
        return Done(task, "interrupted", code)
    return Done(task, "failed", code, _cause(task, code))


def _cause(task: Task, code: int) -> str:
    """The last error in the log, else how the process ended."""
    if code < 0:
        return f"killed by signal {-code}"
    with open(task.log, encoding="utf-8", errors="replace") as file:
        errors = [line.strip() for line in file if line.startswith("error")]
    return errors[-1].removeprefix("error: ") if errors else f"exit code {code}"


def lock(path: str) -> IO[str] | None:
    """Hold a file against other processes; None where one holds it. Closing it lets it go."""
    import fcntl

    file = open(path, encoding="utf-8")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
