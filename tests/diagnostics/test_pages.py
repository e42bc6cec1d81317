"""Every page's failing program yields exactly its code under its command, its cure nothing."""

import json
from pathlib import Path

import pytest

from bettyc.cli.main import run
from bettyc.diagnostics.page import Page, page
from bettyc.diagnostics.registry import FAMILIES, family, row

CODES = [code for digits in FAMILIES for code in family(digits)]


class Bench:
    """A folder in which a page's command is tried."""

    def __init__(self, folder: Path, capsys) -> None:
        self.folder, self.capsys = folder, capsys

    def codes(self, found: Page, kind: str) -> tuple[list[str], int]:
        """What the page's command finds in its failing or fixed program, and the exit code."""
        files = found.failing_files if kind == "failing" else found.fixed_files
        text = found.failing if kind == "failing" else found.fixed
        for name, content in {**files, "program.mlo": text}.items():
            (self.folder / name).parent.mkdir(exist_ok=True)
            (self.folder / name).write_text(content, encoding="utf-8")
        failing = (found.command, found.on, *found.arguments)
        words = failing if kind == "failing" else found.cure
        arguments = [self.checkpoint(found) if a == "{checkpoint}" else a for a in words]
        self.capsys.readouterr()
        exit_code = run([*arguments, "--format", "json"])
        out, err = self.capsys.readouterr()
        lines = [json.loads(line) for line in (out + err).splitlines() if line.startswith('{"')]
        return [d["code"] for d in lines if d.get("type") == "diagnostic"], exit_code

    def checkpoint(self, found: Page) -> str:
        """A checkpoint that the corrected program wrote."""
        import bettyc

        path = self.folder / "other.ckpt"
        made = bettyc.loads(found.fixed).compile().start(seed=0)
        made.step()
        made.save(path)
        return str(path)


@pytest.fixture
def bench(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path, capsys)


@pytest.mark.parametrize("code", CODES)
def test_the_failing_program_yields_exactly_its_code(code, bench):
    error = row(code).severity == "error"

    assert bench.codes(page(code), "failing") == ([code], 1 if error else 0)


@pytest.mark.parametrize("code", CODES)
def test_the_corrected_program_is_clean(code, bench):
    assert bench.codes(page(code), "fixed") == ([], 0)
