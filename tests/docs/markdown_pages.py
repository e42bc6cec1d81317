"""The examples in Markdown pages: fenced blocks, and lines of commands.

The prose before a block says which file it is ("write this into `ridge.mlo`:"), so what a reader
types and what the tests run have the same names.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# docs/errors is a copy of the pages that tests/diagnostics runs, example by example.
PAGES = sorted([ROOT / "README.md", *DOCS.glob("*.md")])

_FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"`([\w./-]+\.(?:mlo|py|csv|toml))`[^`]*:\s*\Z")
_COMMAND = re.compile(r"^ {4}(?=bettyc |make )", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block. `words` are those of its info string after the language, `file` the name
    that the paragraph before it gives; `line` is its first line in the page.
    """

    language: str
    options: dict[str, str]
    text: str
    line: int
    file: str = ""


@dataclass(frozen=True)
class Command:
    """A command line, and what the page shows of its output."""

    text: str
    line: int
    shown: list[str] = field(default_factory=list)


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        language, *words = shlex.split(found[1]) or [""]
        options = dict(word.partition("=")[::2] for word in words)
        before = text[: found.start()].rstrip("\n").rpartition("\n\n")[2]
        named = _FILE.search(before) if not before.endswith("```") else None
        line = text.count("\n", 0, found.start()) + 2
        yield Block(language, options, found[2], line, named[1] if named else "")


def commands(block: Block) -> Iterator[Command]:
    """Of an `sh` block every line; of a `console` block those after `$`, with their output."""
    if block.language not in ("sh", "console"):
        return
    last: Command | None = None
    for k, line in enumerate(block.text.splitlines()):
        if block.language == "sh":
            text = line.partition(" #")[0].strip()
            if text:
                yield Command(text, block.line + k)
        elif line.startswith("$ "):
            if last is not None:
                yield last
            last = Command(line[2:], block.line + k)
        elif last is not None:
            last.shown.append(line)
    if last is not None:
        yield last


def indented(page: Path) -> Iterator[Command]:
    """Commands in indented blocks, which the README prefers."""
    text = _FENCE.sub(lambda m: "\n" * m[0].count("\n"), page.read_text(encoding="utf-8"))
    for found in _COMMAND.finditer(text):
        end = text.index("\n", found.end())
        line = text.count("\n", 0, found.start()) + 1
        yield Command(text[found.end() : end].partition(" #")[0].strip(), line)


def example_files(page: Path) -> Iterator[str]:
    """Programs of examples/ that the page names."""
    yield from re.findall(r"\bexamples/([\w-]+\.mlo)", page.read_text(encoding="utf-8"))
