"""Good programs are clean and mean what their goldens say; bad ones get exactly what they mark.

A bad program marks each finding with `#~ CODE` at the end of its line, or on a line below with
one `^` per line up. Its `.stderr` is the rendered text. `# check: FLAGS` on the first line gives
flags. `pytest --bless` writes the goldens; what it wrote is to be read before it is committed.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bettyc.diagnostics.render import render
from bettyc.diagnostics.suppress import Levels
from bettyc.driver import Checked, check
from bettyc.grammar import ast
from bettyc.grammar.printer import format as formatted
from bettyc.graph import build
from bettyc.pictures import draw
from bettyc.planner import make_plan
from bettyc.planner.text import text as plan_text

HERE = Path(__file__).parent
GOOD = sorted((HERE / "good").glob("*.mlo"))
BAD = sorted((HERE / "bad").glob("*.mlo"))
MARK = re.compile(r"#~(\^*) (MLO\d{4})")


def read(path: Path) -> Checked:
    return check(path.read_text(encoding="utf-8"), path.name, folder=str(path.parent))


def compare(path: Path, text: str, bless: bool) -> None:
    """The golden against what came out, or the golden written anew."""
    text = text.rstrip("\n") + "\n"
    if bless:
        path.write_text(text, encoding="utf-8")
    assert path.is_file(), f"no golden {path.name}: run pytest --bless and read what it wrote"
    assert text == path.read_text(encoding="utf-8")


def tree(node: object) -> str:
    """A syntax tree as one expression: `(Var w (ScalarType real [n]) (Number 0))`."""
    if isinstance(node, ast.Ident):
        return node.text
    if isinstance(node, ast.Number):
        return node.text
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.String):
        return f'"{node.value}"'
    if isinstance(node, tuple):
        return f"[{' '.join(map(tree, node))}]"
    if not isinstance(node, ast.Node):
        return "-" if node is None else str(node)
    fields = [v for k, v in vars(node).items() if k not in ("span", "star", "doc")]
    return f"({' '.join([type(node).__name__, *map(tree, fields)])})"


def trees(file: ast.File) -> str:
    """A line for each item, the statements of a level on lines of their own."""
    lines = []
    for item in file.items:
        if isinstance(item, ast.Level):
            head = f"(Level {tree(item.name)} {tree(item.task)} {tree(item.tasks)}"
            lines += [head, *(f"  {tree(s)}" for s in item.body), ")"]
        else:
            lines.append(tree(item))
    return "\n".join(lines)


def normalised(text: str) -> str:
    """A plan's text without versions and hashes."""
    text = re.sub(r"sha256 [0-9a-f]+", "sha256 $HASH", text)
    return re.sub(r"bettyc \d[\w.]*", "bettyc $VER", text)


@pytest.mark.parametrize("path", GOOD, ids=lambda p: p.stem)
def test_a_good_program_is_clean_and_means_what_its_goldens_say(path, bless):
    found = read(path)

    assert found.shown() == []
    assert found.file is not None
    compare(path.with_suffix(".ast"), trees(found.file), bless)
    compare(path.with_suffix(".fmt"), formatted(found.file, found.source), bless)
    if found.file and not any(isinstance(i, ast.Level) for i in found.file.items):
        return
    assert found.model is not None
    assert found.hierarchy is not None
    graph = build(found.model, found.hierarchy, found.sources)
    compare(path.with_suffix(".graph"), draw(graph, "text"), bless)
    plan, wrong = make_plan(found)
    assert plan is not None
    assert [d for d in wrong if d.severity == "error"] == []
    compare(path.with_suffix(".plan"), normalised(plan_text(plan)), bless)


def flags(text: str) -> Levels | None:
    """The flags of a `# check:` line."""
    words = (
        text.splitlines()[0].removeprefix("# check:").split() if text.startswith("# che") else []
    )
    return Levels(pedantic="--pedantic" in words)


def marks(path: Path) -> list[tuple[int, str]]:
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        found += [(number - len(m[1]), m[2]) for m in MARK.finditer(line)]
    return sorted(found)


@pytest.mark.parametrize("path", BAD, ids=lambda p: p.stem)
def test_a_bad_program_gets_what_it_marks_and_no_more(path, bless):
    found = read(path)

    shown = found.shown(flags(found.source.text))

    here = [d for d in shown if d.span is not None and d.span.file == path.name]
    places = sorted((found.source.position(d.span.start)[0], d.code) for d in here if d.span)
    assert places == marks(path)
    assert any(d.severity == "error" for d in shown) == found.errors
    text = render(shown, found.sources, "full", False, width=100)
    compare(path.with_suffix(".stderr"), text, bless)


def test_goldens_and_programs_go_together():
    """No golden without its program; a bad program for each family that a plain check reports."""
    for folder in (HERE / "good", HERE / "bad"):
        programs = {p.stem for p in folder.glob("*.mlo")}
        assert {p.stem for p in folder.iterdir()} == programs
    families = {code[:5] for path in BAD for _, code in marks(path)}
    assert families == {f"MLO0{k}" for k in (1, 2, 3, 4, 5, 6, 8, 9)}
