"""What every front door (command line, Python, editors) may ask of the compiler: one frozen
record.
"""

from __future__ import annotations

from dataclasses import dataclass

# The level of optimization where none is asked for. At 2 a level is compiled only where its updates
# in the run repay that (`runtime.compiled.REPAID`), so that no short run waits for a compiler.
OPT = 2


@dataclass(frozen=True)
class Options:
    """How to read a program.

    set: (path, text) pairs in the language's own syntax, e.g. ("fit.optimizer.lr", "0.1"); the
    last one wins.
    profile: name of a `profile` block. config: (file name, text) of a TOML file of settings.
    data: (name, uri) pairs that replace a data set's source: a file path, or a source call such as
        `sklearn("digits")`.
    mock: (dim, size) pairs: dims get these sizes and data sets are made from their types.
    include: folders searched for Python modules after the program's own.
    imports: import and check the Python objects that the program names.
    """

    set: tuple[tuple[str, str], ...] = ()
    profile: str | None = None
    config: tuple[str, str] | None = None
    data: tuple[tuple[str, str], ...] = ()
    mock: tuple[tuple[str, int], ...] | None = None
    include: tuple[str, ...] = ()
    imports: bool = False
