"""A program's text for another folder: relative paths of data and imports are written anew."""

from __future__ import annotations

import os

from bettyc.diagnostics.apply import apply_edits
from bettyc.diagnostics.model import Edit
from bettyc.elaborate.data import READERS
from bettyc.grammar import ast
from bettyc.grammar.parse import parse


def relocate(text: str, old: str, new: str) -> str:
    """The text, to be read from folder `new` instead of `old`. Text that does not parse stays."""
    parsed = parse(text, "<resolved>")
    if parsed.file is None or parsed.diagnostics:
        return text
    edits = []
    for item in parsed.file.items:
        path = _path(item)
        if path is not None and not os.path.isabs(path.value):
            there = os.path.relpath(os.path.join(old, path.value), new).replace(os.sep, "/")
            edits.append(Edit(path.span, f'"{there}"'))
    return apply_edits(text, edits)


def _path(item: ast.Item) -> ast.String | None:
    """The file that a declaration names."""
    if isinstance(item, ast.Import):
        return item.path
    if not isinstance(item, ast.Data) or not isinstance(item.source, ast.Call):
        return None
    function = item.source.function
    if not isinstance(function, ast.Name) or "path" not in READERS.get(function.id, ()):
        return None
    for arg in item.source.args:
        named = isinstance(arg, ast.Arg) and arg.name is not None and arg.name.text != "path"
        if isinstance(arg, ast.Arg) and isinstance(arg.value, ast.String) and not named:
            return arg.value
    return None
