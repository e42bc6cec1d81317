"""`bettyc fmt --migrate`: rewrite the syntax of older versions and of neighbouring languages."""

from __future__ import annotations

from bettyc.diagnostics.apply import apply_edits
from bettyc.diagnostics.model import Edit
from bettyc.grammar.parse import LANGUAGE, Parsed, parse

# `.5`, `**`, `:=`, `'...'` and the version line; the parser knows what they should be.
CODES = ("MLO0108", "MLO0109")
ROUNDS = 20


def migrate(parsed: Parsed) -> Parsed:
    """The program with every edit applied that the parser is sure of, and this version's header."""
    name = parsed.source.name
    for _ in range(ROUNDS):  # one edit may bring the next mistake to light
        edits = [
            edit
            for d in parsed.diagnostics
            if d.code in CODES and d.suggestions
            for edit in d.suggestions[0].edits
        ]
        if not edits:
            break
        parsed = parse(apply_edits(parsed.source.text, edits), name)
    if parsed.file is not None and parsed.file.version is not None:
        version = ".".join(map(str, LANGUAGE))
        span = parsed.file.version.span
        if parsed.source.slice(span) != version:
            parsed = parse(apply_edits(parsed.source.text, [Edit(span, version)]), name)
    return parsed
