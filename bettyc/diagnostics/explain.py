"""What `bettyc explain` says: the page of one code, and the list of all."""

from __future__ import annotations

from bettyc.diagnostics import registry
from bettyc.diagnostics.model import Severity
from bettyc.diagnostics.page import page


def find(word: str) -> str:
    """The code that a user means by `MLO0319`, `mlo0319`, `0319`, `319` or `undirected-read`.

    Raises `KeyError` when there is none.
    """
    word = word.strip()
    digits = word[3:] if word[:3].upper() == "MLO" else word
    if digits.isascii() and digits.isdigit():
        return registry.row(f"MLO{digits:0>4}").code
    names = {row.name: row.code for row in registry.CODES.values()}
    return names[word.lower()]


def explain(code: str) -> str:
    """The page of a code or name, as Markdown. Raises `KeyError` when there is none."""
    return page(find(code)).text


def listing() -> list[tuple[str, str, Severity, str]]:
    """Code, name, severity and message of every kind of finding, in the order of the codes.

    The braces in a message stand for what a diagnostic fills in.
    """
    rows = registry.CODES.values()
    return [(row.code, row.name, row.severity, row.message) for row in rows]
