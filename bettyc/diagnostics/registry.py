"""The registry: every kind of finding by its code, and the one way to make a diagnostic.

A code that is not registered is our bug, not the user's: it raises `KeyError`. Rows carry no long
prose; that lives in `pages/` and is read only by `explain`, the documentation and the tests.
A check loads the rows of the families it reports from, so a clean program loads none.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from bettyc.diagnostics.codes.row import Code
from bettyc.diagnostics.model import Diagnostic, Label, Note, Severity, Suggestion

if TYPE_CHECKING:
    from bettyc.diagnostics.span import Span

    CODES: dict[str, Code]

# The two digits after "MLO" name the family; its rows live in `codes/<name>.py`.
FAMILIES = {
    "01": "syntax",
    "02": "names",
    "03": "hierarchy",
    "04": "types",
    "05": "data",
    "06": "settings",
    "07": "python",
    "08": "run",
    "09": "lints",
}


@cache
def family(digits: str) -> dict[str, Code]:
    """The rows of one family, by code; `KeyError` when there is no such family."""
    rows: tuple[Code, ...] = import_module(f"bettyc.diagnostics.codes.{FAMILIES[digits]}").CODES
    return {row.code: row for row in rows}


def row(code: str) -> Code:
    """The row of `code`; `KeyError` when it is not registered."""
    return family(code[3:5])[code]


@cache
def _all_rows() -> dict[str, Code]:
    return {code: row for digits in FAMILIES for code, row in sorted(family(digits).items())}


def __getattr__(name: str) -> dict[str, Code]:
    """`CODES`: all rows in the order of their codes, loaded when first asked for."""
    if name == "CODES":
        return _all_rows()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def report(
    code: str,
    span: Span | None,
    *,
    label: str = "",
    secondary: Sequence[Label] = (),
    notes: Sequence[Note | str] = (),
    suggestions: Sequence[Suggestion] = (),
    severity: Severity | None = None,
    **fields: object,
) -> Diagnostic:
    """Make the diagnostic `code` at `span`, its message filled with `fields`.

    `severity` overrides the registered one. Raises `KeyError` for an unregistered code and for
    a field of the message that is not given.
    """
    kind = row(code)
    return Diagnostic(
        code=code,
        message=kind.message.format_map(fields),
        span=span,
        label=label,
        secondary=tuple(secondary),
        notes=tuple(Note(note) if isinstance(note, str) else note for note in notes),
        suggestions=tuple(suggestions),
        severity=severity or kind.severity,
    )
