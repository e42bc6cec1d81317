"""Printing diagnostics: the formats by name, and the line that counts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from bettyc.diagnostics.model import Diagnostic, Severity
from bettyc.diagnostics.span import Source

Format = Literal["full", "concise", "json", "github", "sarif"]
FORMATS: tuple[Format, ...] = ("full", "concise", "json", "github", "sarif")


def render(
    diagnostics: Sequence[Diagnostic],
    sources: Mapping[str, Source],
    format: Format = "full",
    color: bool = False,
    explain_hint: bool = True,
    width: int | None = None,
) -> str:
    """The diagnostics in their given order, without a line break at the end.

    `sources` holds the texts by file name; a place in a file that it lacks is named, not shown.
    `width` is the number of terminal columns; longer source lines are cut around their marks.
    Raises `ValueError` for an unknown format.
    """
    # Each format is imported when asked for: a check prints in one of them.
    if format == "full":
        from bettyc.diagnostics.full import full

        return "\n\n".join(full(d, sources, color, explain_hint, width) for d in diagnostics)
    if format == "concise":
        from bettyc.diagnostics.concise import concise

        return "\n".join(concise(d, sources, color) for d in diagnostics)
    if format == "json":
        from bettyc.diagnostics.jsonl import jsonl

        return "\n".join(jsonl(d, sources, explain_hint) for d in diagnostics)
    if format == "github":
        from bettyc.diagnostics.github import github

        return "\n".join(github(d, sources) for d in diagnostics)
    if format == "sarif":
        from bettyc.diagnostics.sarif import sarif

        return sarif(diagnostics, sources)
    raise ValueError(f"unknown format {format!r}; formats: {', '.join(FORMATS)}")


def summary(diagnostics: Sequence[Diagnostic]) -> str:
    """How many of each severity, worst first: `2 errors, 1 warning`; empty when there are none."""
    counts = Counter(d.severity for d in diagnostics)
    words: dict[Severity, str] = {
        "error": "error",
        "warning": "warning",
        "pedantic": "pedantic finding",
    }
    return ", ".join(
        f"{counts[severity]} {word}{'s' if counts[severity] > 1 else ''}"
        for severity, word in words.items()
        if counts[severity]
    )
