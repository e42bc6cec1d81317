"""Every `mlo` block of the documentation says what it claims to say."""

import os

import pytest
from markdown_pages import DOCS, PAGES, ROOT, blocks, example_files

from bettyc.driver import check
from bettyc.options import Options

PROGRAMS = [
    pytest.param(page, block, id=f"{page.name}:{block.line}")
    for page in PAGES
    for block in blocks(page)
    if block.language == "mlo"
]


def named_files(page):
    return {block.file: block.text for block in blocks(page) if block.file}


@pytest.mark.parametrize(("page", "block"), PROGRAMS)
def test_programs_are_clean_or_fail_as_they_say(page, block):
    files = named_files(page)

    def read(path):
        return files[os.path.basename(path)]

    checked = check(block.text, block.file or "page.mlo", Options(), folder=".", read=read)
    found = [f"{d.code} at {block.line}: {d.message}" for d in checked.shown()]

    expected = block.options.get("fail")
    assert [line.partition(" ")[0] for line in found] == ([expected] if expected else []), found


def test_there_are_programs():
    assert len(PROGRAMS) > 20
    assert any("fail" in block.options for _, block in (p.values for p in PROGRAMS))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_examples_that_are_named_exist(page):
    assert [name for name in example_files(page) if not (ROOT / "examples" / name).is_file()] == []


def test_links_lead_somewhere():
    broken = []
    for page in (*PAGES, *(DOCS / "errors").glob("*.md")):
        for target, anchor in links(page):
            goal = (page.parent / target).resolve() if target else page
            if not goal.exists():
                broken.append(f"{page.name}: {target}")
            elif anchor and anchor not in headings(goal):
                broken.append(f"{page.name}: {target}#{anchor}")
    assert broken == []


def links(page):
    import re

    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target:
            yield target.partition("#")[::2]


def headings(page):
    """The anchors that GitHub gives to headings."""
    import re

    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}
