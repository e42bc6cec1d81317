"""Applying the edits of suggestions to a text; used by editors, `--fix` and the tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bettyc.diagnostics.model import Edit, Suggestion


def apply_edits(text: str, edits: Sequence[Edit], origin: int = 0) -> str:
    """`text` with all `edits` made; it starts at offset `origin` of its file.

    The spans refer to the text before any edit. Insertions at one place keep their order.
    Raises `ValueError` when two edits overlap or one lies outside the text.
    """
    out: list[str] = []
    done = 0
    for edit in sorted(edits, key=lambda edit: (edit.span.start, edit.span.end)):
        start, end = edit.span.start - origin, edit.span.end - origin
        if not done <= start <= end <= len(text):
            raise ValueError(f"edit {edit.span} overlaps another or lies outside the text")
        out += [text[done:start], edit.text]
        done = end
    return "".join([*out, text[done:]])


def apply_suggestions(text: str, suggestions: Iterable[Suggestion]) -> tuple[str, int]:
    """`text` with as many suggestions as go together, first come first served, and their number.

    A suggestion is made whole or not at all. One that touches what an earlier one changed is left
    for the next round, when it is computed again on the new text.
    """
    taken: list[Edit] = []
    count = 0
    for suggestion in suggestions:
        clear = not any(_touch(a, b) for a in suggestion.edits for b in taken)
        if suggestion.edits and clear:
            taken += suggestion.edits
            count += 1
    return apply_edits(text, taken), count


def _touch(a: Edit, b: Edit) -> bool:
    return a.span.start <= b.span.end and b.span.start <= a.span.end
