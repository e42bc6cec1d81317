"""One line per diagnostic: for experienced users and for editors that parse `file:line:col:`."""

from __future__ import annotations

from collections.abc import Mapping

from bettyc.diagnostics.model import Diagnostic
from bettyc.diagnostics.span import Source
from bettyc.diagnostics.text import paint


def concise(diagnostic: Diagnostic, sources: Mapping[str, Source], color: bool) -> str:
    """`file:line:col: error[MLO0319]: message`; without a place only what follows it."""
    d = diagnostic
    place = ""
    if d.span:
        place = f"{d.span.file}: "
        if d.span.file in sources:
            line, column = sources[d.span.file].position(d.span.start)
            place = f"{d.span.file}:{line}:{column}: "
    return f"{place}{paint(f'{d.severity}[{d.code}]', d.severity, color)}: {d.message}"
