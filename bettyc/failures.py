"""What can go wrong when a program meets the world, as exceptions; none is a fault of the compiler.

InputError          files, data, Python objects or checkpoints that do not fit: carries diagnostics
RunError            a run that cannot go on; its message is for the user (exit code 3)
  DivergedError     numbers that are not finite any more: level, step and cause
  CallbackError     the user's Python raised while the run was in its hands
  InterruptedRun    stopped from outside, resumable (exit code 130)
"""

from __future__ import annotations

from bettyc.diagnostics.model import Diagnostic


class InputError(Exception):
    """Diagnostics about what the program was given."""

    def __init__(self, *diagnostics: Diagnostic) -> None:
        super().__init__("; ".join(d.message for d in diagnostics))
        self.diagnostics = diagnostics


class RunError(Exception):
    """A run that cannot go on."""


class DivergedError(RunError):
    """A loss, gradient or variable that is not finite.

    level: whose. step: the update of the top level during which it happened, from 0. inner: the
    level's own update since then, None where it is not known. cause: what was seen first.
    """

    def __init__(
        self, level: str, step: int, inner: int | None, cause: str, advice: str = ""
    ) -> None:
        where = f"step {step}" if inner is None else f"step {step}, update {inner} of `{level}`"
        super().__init__(
            f"level `{level}` diverged in {where}: {cause}{f'; {advice}' if advice else ''}"
        )
        self.level = level
        self.step = step
        self.inner = inner
        self.cause = cause


class CallbackError(RunError):
    """The user's Python raised; the original exception is the cause."""
