"""Every command and every Python block of the documentation runs, page by page in a new folder."""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import torch
from markdown_pages import DOCS, PAGES, ROOT, blocks, commands, indented

from bettyc.cli.main import run as bettyc

# What a page speaks of without giving its text.
GIVEN = {
    "README.md": {
        "mine.csv": "a,b,y\n" + "".join(f"{i % 7},{i * i % 11},{i % 5}.5\n" for i in range(40)),
    }
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(before)


def all_commands(page):
    """In the order of the page, each with the files that are written before it."""
    found = [(c.line, c) for block in blocks(page) for c in commands(block)]
    found += [(c.line, c) for c in indented(page)]
    return [command for _, command in sorted(found, key=lambda pair: pair[0])]


def pages(wanted):
    return [pytest.param(page, id=page.name) for page in PAGES if wanted(page)]


def write_files(page, folder):
    shutil.copytree(ROOT / "examples", folder / "examples")
    for block in blocks(page):
        if block.file:
            (folder / block.file).write_text(block.text, encoding="utf-8")
    for name, text in GIVEN.get(page.name, {}).items():
        (folder / name).write_text(text, encoding="utf-8")
    if page == ROOT / "README.md":
        text = (folder / "ridge.mlo").read_text(encoding="utf-8")
        (folder / "forgotten.mlo").write_text(text.replace("fit*.w", "fit.w"), encoding="utf-8")


@pytest.mark.parametrize("page", pages(all_commands))
def test_commands(page, folder):
    write_files(page, folder)
    for command in all_commands(page):
        code, output = execute(command.text)
        where = f"{page.name}:{command.line}: {command.text}\n{output}"
        expected = 1 if any(line.startswith("error[") for line in command.shown) else 0
        assert code == expected, where
        for line in filter(None, command.shown):
            assert matches(line, output), f"{line!r} is not in the output of\n{where}"


def execute(text):
    """The exit code and the output. `make` is only asked what it would do."""
    words = shlex.split(text)
    if words[0] == "make":
        made = subprocess.run(
            ["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return made.returncode, made.stdout + made.stderr
    assert words[0] == "bettyc", text
    words = words[1:]
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = bettyc(words)
    return code, output.getvalue()


def matches(line, output):
    """`…` stands for anything within a line."""
    pattern = ".*".join(re.escape(part) for part in line.split("…"))
    return re.search(f"^{pattern}\\s*$", output, re.MULTILINE) is not None


@pytest.mark.parametrize("page", pages(lambda p: any(b.language == "python" for b in blocks(p))))
def test_python(page, folder):
    write_files(page, folder)
    names = {"__name__": "page"}
    for block in blocks(page):
        if block.language != "python":
            continue
        # the line numbers of a traceback are those of the page
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
        with contextlib.redirect_stdout(io.StringIO()):
            exec(code, names)


RUNNABLE = [
    pytest.param(page, block, id=f"{page.name}:{block.line}")
    for page in PAGES
    for block in blocks(page)
    if block.language == "mlo"
    and "fail" not in block.options
    and re.search(r"^level ", block.text, re.MULTILINE)
    and not re.search(r"^extern ", block.text, re.MULTILINE)
]


@pytest.mark.parametrize(("page", "block"), RUNNABLE)
def test_programs_run_on_made_up_data(page, block, folder):
    write_files(page, folder)
    (folder / "page.mlo").write_text(block.text, encoding="utf-8")

    code, output = execute("bettyc run page.mlo --mock n=600 --set run.steps=2")

    assert code == 0, output


def test_generated_pages_are_up_to_date():
    made = subprocess.run(
        [sys.executable, DOCS / "generate.py", "--check"],
        capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "40"},
    )  # fmt: skip
    assert made.returncode == 0, made.stderr


def test_a_page_that_was_edited_is_noticed(tmp_path):
    copy = tmp_path / "docs"
    shutil.copytree(DOCS, copy)
    for needed in ("examples", "runtime"):
        os.symlink(ROOT / needed, tmp_path / needed)
    page = copy / "settings.md"
    page.write_text(page.read_text(encoding="utf-8") + "more\n", encoding="utf-8")
    (copy / "errors" / "MLO0999.md").write_text("# gone\n", encoding="utf-8")

    made = subprocess.run(
        [sys.executable, copy / "generate.py", "--check"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert made.returncode == 1
    assert "docs/settings.md" in made.stderr
    assert "docs/errors/MLO0999.md" in made.stderr
