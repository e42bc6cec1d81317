"""What a diagnostic is: a code, a message, places in the source, and edits that would cure it.

Plain data, made by `registry.report`, judged by `suppress`, printed by `render`.
Offsets inside a `Span` are 0-based code points; lines and columns appear only when rendering.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from bettyc.diagnostics.span import Span

# A `pedantic` finding is dropped unless asked for; see `suppress.Levels`.
Severity = Literal["error", "warning", "pedantic"]
# How far an editor may go: apply unasked, ask first, or fill in the blanks by hand.
Applicability = Literal["machine-applicable", "maybe-incorrect", "has-placeholders"]


@dataclass(frozen=True)
class Label:
    """A remark attached to a place: what stands there, in the terms of the message."""

    span: Span
    text: str


@dataclass(frozen=True)
class Note:
    """A fact that explains the diagnostic, optionally shown with the place it is about."""

    text: str
    span: Span | None = None


@dataclass(frozen=True)
class Edit:
    """Replace the text at `span` by `text`; an empty span inserts, an empty text deletes."""

    span: Span
    text: str


@dataclass(frozen=True)
class Suggestion:
    """How to fix it: a sentence, and the edits that do it (none when only words can tell)."""

    message: str
    edits: tuple[Edit, ...] = ()
    applicability: Applicability = "maybe-incorrect"


@dataclass(frozen=True)
class Diagnostic:
    """One finding. `span` is None when it has no place in a program (a missing file, a flag).

    `label` is the remark at `span`; `secondary` are further places that show the cause.
    """

    code: str
    message: str
    span: Span | None
    label: str = ""
    secondary: tuple[Label, ...] = ()
    notes: tuple[Note, ...] = ()
    suggestions: tuple[Suggestion, ...] = ()
    severity: Severity = "error"
