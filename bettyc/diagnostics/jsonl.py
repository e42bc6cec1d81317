"""One JSON object per line and diagnostic, as `schema.json` describes.

Lines and columns are 1-based, `offset` is a 0-based code point; an end is exclusive.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bettyc.diagnostics.full import full
from bettyc.diagnostics.model import Diagnostic, Edit, Suggestion
from bettyc.diagnostics.page import page_url
from bettyc.diagnostics.registry import row
from bettyc.diagnostics.span import Source, Span

SCHEMA = 1


def jsonl(diagnostic: Diagnostic, sources: Mapping[str, Source], explain_hint: bool) -> str:
    """The diagnostic as one line of JSON; `rendered` holds its full format without colour."""
    d = diagnostic
    secondary = [_place(label.span, sources) | {"label": label.text} for label in d.secondary]
    notes = [
        {"message": note.text, "at": _place(note.span, sources) if note.span else None}
        for note in d.notes
    ]
    content = {
        "schema": SCHEMA,
        "type": "diagnostic",
        "code": d.code,
        "name": row(d.code).name,
        "severity": d.severity,
        "message": d.message,
        "primary": _place(d.span, sources) | {"label": d.label} if d.span else None,
        "secondary": secondary,
        "notes": notes,
        "suggestions": [_suggestion(suggestion, sources) for suggestion in d.suggestions],
        "url": page_url(d.code),
        "rendered": full(d, sources, False, explain_hint, None),
    }
    return json.dumps(content, ensure_ascii=False)


def _place(span: Span, sources: Mapping[str, Source]) -> dict[str, Any]:
    return {
        "file": span.file,
        "start": _position(span.file, span.start, sources),
        "end": _position(span.file, span.end, sources),
    }


def _position(file: str, offset: int, sources: Mapping[str, Source]) -> dict[str, int | None]:
    """Line and column are null when the text of the file is not at hand."""
    line, column = sources[file].position(offset) if file in sources else (None, None)
    return {"line": line, "col": column, "offset": offset}


def _suggestion(suggestion: Suggestion, sources: Mapping[str, Source]) -> dict[str, Any]:
    return {
        "message": suggestion.message,
        "applicability": suggestion.applicability,
        "edits": [_edit(edit, sources) for edit in suggestion.edits],
    }


def _edit(edit: Edit, sources: Mapping[str, Source]) -> dict[str, Any]:
    return _place(edit.span, sources) | {"text": edit.text}
