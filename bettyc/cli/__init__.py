"""The command line: one small file per verb, and the only code that prints.

Stdout is data, stderr is diagnostics. Exit codes: 0 ok, 1 errors found (or `fmt --check` would
change a file), 2 usage, configuration or files, 3 a run failed, 101 a fault of bettyc, 130
interrupted.
"""

from __future__ import annotations

from bettyc.cli.main import bettyc, main

__all__ = ["bettyc", "main"]
