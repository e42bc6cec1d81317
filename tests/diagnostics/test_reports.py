"""Every report in the compiler names a registered code and gives the fields of its message."""

import ast
import string
from pathlib import Path

import pytest

import bettyc
from bettyc.diagnostics.registry import row

ROOT = Path(bettyc.__file__).parent


def calls():
    """The calls of `report` and `ShapeError` with a literal code: place, code, names of fields.

    A `ShapeError` has fields of its own, which the elaborator translates.
    """
    # In a checkout grammar/ and runtime/ are links, which rglob does not follow.
    folders = (ROOT, ROOT / "grammar", ROOT / "runtime")
    for path in sorted({path for folder in folders for path in folder.rglob("*.py")}):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            function = node.func
            name = (
                function.attr
                if isinstance(function, ast.Attribute)
                else getattr(function, "id", "")
            )
            first = node.args[0]
            literal = isinstance(first, ast.Constant) and isinstance(first.value, str)
            if name in ("report", "ShapeError") and literal and first.value.startswith("MLO"):
                place = f"{path.relative_to(ROOT)}:{node.lineno}"
                given = {keyword.arg for keyword in node.keywords}
                yield place, first.value, given | ({None} if name == "ShapeError" else set())


@pytest.mark.parametrize(
    ("code", "given"),
    [pytest.param(code, given, id=f"{place}-{code}") for place, code, given in calls()],
)
def test_a_report_fills_its_message(code, given):
    fields = {name for _, name, _, _ in string.Formatter().parse(row(code).message) if name}

    # None stands for fields that cannot be seen here (`**fields`).
    assert None in given or fields <= given


def test_the_calls_are_found():
    assert "MLO0906" in {code for _, code, _ in calls()}
