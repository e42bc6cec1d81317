"""The long explanation of each code: `pages/<code>.md`, with a program that fails and its cure.

A page is Markdown for people and also a test: the block `mlo fail=MLO0319` yields exactly that
code, and the `mlo` block after it is clean. The info string of the failing block may say more:

    mlo fail=MLO0503 args="--data a=x.csv --data b=x.csv"    arguments, for both programs
    mlo fail=MLO0802 command=run args="--mock n=8"           the command that reports it
    mlo fail=MLO0112 times=20000                             the block, that many times over
    mlo fail=MLO0806 command=report on=first                 what it is told in place of the program
    csv file=x.csv                                           a file that stands beside the program

The block of the corrected program says the same words where its command is another. A file before
the failing program is there for both; one after it only for the corrected program.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field

from bettyc.diagnostics.registry import row

PROGRAM = "program.mlo"
FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pages")

_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Page:
    """A page and what is in it.

    `failing` yields the code under `bettyc <command> <on> <arguments>`, `fixed` yields nothing
    under `bettyc <cure>`; each runs in a folder with its `files`, text by name.
    """

    text: str
    failing: str
    fixed: str
    command: str = "check"
    arguments: tuple[str, ...] = ()
    failing_files: dict[str, str] = field(default_factory=dict)
    fixed_files: dict[str, str] = field(default_factory=dict)
    on: str = PROGRAM
    cure: tuple[str, ...] = ("check", PROGRAM)


def page_path(code: str) -> str:
    """Where the page of a code lies; `KeyError` when the code is not registered."""
    return os.path.join(FOLDER, f"{row(code).code}.md")


def page_url(code: str) -> str | None:
    """A link that an editor can open, or None when the package is not unpacked on disk."""
    path = page_path(code)
    if not os.path.isfile(path):
        return None
    from pathlib import Path

    return Path(path).as_uri()


def page(code: str) -> Page:
    """Read the page of a code. Raises `KeyError` for an unregistered code."""
    with open(page_path(code), encoding="utf-8") as file:
        return parse_page(file.read(), code)


def parse_page(text: str, code: str) -> Page:
    """Take a page apart. Raises `ValueError` when it lacks a failing or a corrected program."""
    programs: dict[str, str] = {}
    words = {"command": "check", "on": PROGRAM, "args": ""}
    said: dict[str, dict[str, str]] = {}
    failing_files: dict[str, str] = {}
    fixed_files: dict[str, str] = {}
    for info, body in _FENCE.findall(text):
        language, options = _info(info)
        if "file" in options:
            if "failing" not in programs:
                failing_files[options["file"]] = body
            fixed_files[options["file"]] = body
        elif language == "mlo":
            kind = "failing" if options.get("fail") == code else "fixed"
            if kind in programs or (kind == "fixed" and "failing" not in programs):
                raise ValueError(f"the page of {code} has an unexpected mlo block: {info!r}")
            programs[kind] = body * int(options.get("times", "1"))
            words = {key: options.get(key, words[key]) for key in words}
            said[kind] = words
    if len(programs) < 2:
        raise ValueError(f"the page of {code} lacks a failing or a corrected program")
    failing, fixed = said["failing"], said["fixed"]
    return Page(
        text,
        programs["failing"],
        programs["fixed"],
        failing["command"],
        tuple(shlex.split(failing["args"])),
        failing_files,
        fixed_files,
        failing["on"],
        (fixed["command"], fixed["on"], *shlex.split(fixed["args"])),
    )


def _info(info: str) -> tuple[str, dict[str, str]]:
    """The language of a fence and its `key=value` options."""
    words = shlex.split(info)
    options = dict(word.split("=", 1) for word in words[1:])
    return (words[0] if words else ""), options
