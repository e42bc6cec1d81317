"""Checking programs in tests: the good programs by name, and what a text gets."""

from __future__ import annotations

from pathlib import Path

from bettyc.diagnostics.model import Diagnostic
from bettyc.diagnostics.suppress import Levels
from bettyc.driver import Checked, check
from bettyc.options import Options

PROGRAMS = Path(__file__).parents[1] / "programs"
EXAMPLES = Path(__file__).parents[2] / "examples"
NINE = {p.stem: p.read_text(encoding="utf-8") for p in sorted((PROGRAMS / "nine").glob("*.mlo"))}
GOOD = {
    p.stem: p.read_text(encoding="utf-8")
    for folder in (PROGRAMS / "nine", PROGRAMS / "good", EXAMPLES)
    for p in sorted(folder.glob("*.mlo"))
}


def read(text: str, **options: object) -> Checked:
    """A text checked under the name `p.mlo`; imports are looked for among the good programs."""
    return check(text, "p.mlo", Options(**options), folder=str(PROGRAMS / "good"))  # type: ignore[arg-type]


def shown(text: str, levels: Levels | None = None, **options: object) -> list[Diagnostic]:
    """What a plain check shows."""
    return read(text, **options).shown(levels)


def codes(text: str, **options: object) -> list[str]:
    return [d.code for d in shown(text, **options)]


def errors(text: str, **options: object) -> list[str]:
    return [d.code for d in shown(text, **options) if d.severity == "error"]
