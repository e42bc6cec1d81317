"""The headings of docs/python.md name the parameters and defaults that the code has."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import bettyc
from bettyc.runtime.layer import Layer
from bettyc.runtime.run import Run

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
OWNERS: dict[str, Any] = {
    "bettyc": bettyc,
    "Program": bettyc.Program,
    "CompiledPlan": bettyc.CompiledPlan,
    "Run": Run,
    "layer": Layer,
}
HEADINGS = re.findall(r"^### `(\w+)\.(\w+)\((.*)\)`$", PAGE.read_text(), re.MULTILINE)


@pytest.mark.parametrize(("owner", "name", "text"), HEADINGS, ids=[n for _, n, _ in HEADINGS])
def test_headings_have_the_parameters_of_the_code(owner: str, name: str, text: str) -> None:
    function = getattr(OWNERS[owner], name)
    found = inspect.signature(function).parameters
    elided = "…" in text
    signature = re.sub(r"…, |, …|…", "", text)
    written = ast.parse(f"def f({signature}): pass").body[0]
    assert isinstance(written, ast.FunctionDef)
    given = [*written.args.args, *written.args.kwonlyargs]
    names = [a.arg for a in given]
    assert set(names) <= set(found)
    if not elided:
        assert names == [n for n in found if n != "self"]
    plain = [None] * (len(written.args.args) - len(written.args.defaults))
    defaults = [*plain, *written.args.defaults, *written.args.kw_defaults]
    for argument, default in zip(names, defaults, strict=True):
        if default is not None:
            assert ast.literal_eval(default) == found[argument].default, argument
        else:
            assert found[argument].default is inspect.Parameter.empty, argument
