"""GitHub workflow commands, which show diagnostics on the lines of a pull request."""

from __future__ import annotations

from collections.abc import Mapping

from bettyc.diagnostics.model import Diagnostic
from bettyc.diagnostics.registry import row
from bettyc.diagnostics.span import Source

COMMANDS = {"error": "error", "warning": "warning", "pedantic": "notice"}


def github(diagnostic: Diagnostic, sources: Mapping[str, Source]) -> str:
    """`::error file=…,line=…,col=…,title=…::message`."""
    d = diagnostic
    properties: dict[str, object] = {}
    if d.span:
        properties["file"] = d.span.file
        if d.span.file in sources:
            source = sources[d.span.file]
            properties["line"], properties["col"] = source.position(d.span.start)
            properties["endLine"], properties["endColumn"] = source.position(d.span.end)
    properties["title"] = f"{d.code} {row(d.code).name}"
    listed = ",".join(f"{key}={_property(str(value))}" for key, value in properties.items())
    cures = "".join(f"\nhelp: {suggestion.message}" for suggestion in d.suggestions)
    text = f"{d.message}: {d.label}{cures}" if d.label else d.message + cures
    return f"::{COMMANDS[d.severity]} {listed}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
