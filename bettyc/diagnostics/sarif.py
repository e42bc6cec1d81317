"""SARIF 2.1.0 (OASIS): one document for all diagnostics, for code scanning services."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import bettyc
from bettyc.diagnostics.full import by_file
from bettyc.diagnostics.model import Diagnostic, Severity, Suggestion
from bettyc.diagnostics.registry import row
from bettyc.diagnostics.span import Source, Span

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS: dict[Severity, str] = {"error": "error", "warning": "warning", "pedantic": "note"}

Json = dict[str, Any]


def sarif(diagnostics: Sequence[Diagnostic], sources: Mapping[str, Source]) -> str:
    """The document; columns count code points and ends are exclusive."""
    codes = sorted({d.code for d in diagnostics})
    run = {
        "tool": {
            "driver": {
                "name": "bettyc",
                "version": bettyc.__version__,
                "rules": [_rule(code) for code in codes],
            }
        },
        "columnKind": "unicodeCodePoints",
        "results": [_result(d, codes.index(d.code), sources) for d in diagnostics],
    }
    return json.dumps(
        {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, ensure_ascii=False, indent=2
    )


def _rule(code: str) -> Json:
    kind = row(code)
    return {
        "id": code,
        "name": kind.name,
        "shortDescription": {"text": kind.name.replace("-", " ")},
        "help": {"text": f"bettyc explain {code}"},
        "defaultConfiguration": {"level": LEVELS[kind.severity]},
    }


def _result(d: Diagnostic, index: int, sources: Mapping[str, Source]) -> Json:
    result: Json = {
        "ruleId": d.code,
        "ruleIndex": index,
        "level": LEVELS[d.severity],
        "message": {"text": f"{d.message}: {d.label}" if d.label else d.message},
        "locations": [_location(d.span, sources)] if d.span else [],
    }
    related = [(label.span, label.text) for label in d.secondary]
    related += [(note.span, note.text) for note in d.notes if note.span]
    if related:
        result["relatedLocations"] = [
            {"id": number, "message": {"text": text}} | _location(span, sources)
            for number, (span, text) in enumerate(related)
        ]
    fixes = [_fix(suggestion, sources) for suggestion in d.suggestions if suggestion.edits]
    return result | {"fixes": fixes} if fixes else result


def _location(span: Span, sources: Mapping[str, Source]) -> Json:
    place: Json = {"artifactLocation": _artifact(span.file), "region": _region(span, sources)}
    return {"physicalLocation": place}


def _artifact(file: str) -> Json:
    return {"uri": quote(file.replace("\\", "/"))}


def _region(span: Span, sources: Mapping[str, Source]) -> Json:
    region: Json = {"charOffset": span.start, "charLength": span.end - span.start}
    if span.file in sources:
        source = sources[span.file]
        region["startLine"], region["startColumn"] = source.position(span.start)
        region["endLine"], region["endColumn"] = source.position(span.end)
    return region


def _fix(suggestion: Suggestion, sources: Mapping[str, Source]) -> Json:
    changes = [
        {
            "artifactLocation": _artifact(file),
            "replacements": [
                {
                    "deletedRegion": _region(edit.span, sources),
                    "insertedContent": {"text": edit.text},
                }
                for edit in edits
            ],
        }
        for file, edits in by_file(suggestion.edits).items()
    ]
    return {"description": {"text": suggestion.message}, "artifactChanges": changes}
