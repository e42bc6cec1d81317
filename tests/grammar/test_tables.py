"""The cache of the parse tables: private, named after what it depends on, and never in the way."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import lark
import pytest

import bettyc
from bettyc.grammar.parse import parse
from bettyc.grammar.tables import GRAMMAR, cache_path, tables


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of the test's own, and tables that are not yet loaded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tables.cache_clear()
    yield tmp_path
    tables.cache_clear()


def stored(home: Path) -> Path:
    (path,) = home.joinpath("bettyc").iterdir()
    return path


def test_the_name_says_what_the_tables_depend_on(home: Path) -> None:
    grammar = Path(GRAMMAR).read_text(encoding="utf-8")
    path = Path(cache_path(grammar))

    assert path.parent == home / "bettyc"
    assert f"-{bettyc.__version__}-" in path.name
    assert f"-lark{lark.__version__}-" in path.name
    assert f"-py{sys.version_info.major}.{sys.version_info.minor}-" in path.name
    assert cache_path(grammar + " ") != str(path)


@pytest.mark.skipif(sys.platform == "win32", reason="no modes there")
def test_the_folder_is_the_users_own(home: Path) -> None:
    tables()

    assert stat.S_IMODE(stored(home).parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(stored(home).stat().st_mode) == 0o600


def test_what_was_stored_is_what_was_compiled(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = tables()
    tables.cache_clear()
    monkeypatch.setattr("bettyc.grammar.tables.compile_grammar", None)

    assert tables() == compiled
    assert tables() is not compiled


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(b"LEVEL", b"LEVER", 1),
        lambda content: b"\x80\x04" + content,
        lambda content: b"00000000\n[]",
        lambda content: b"%08x\n{}" % crc32(b"{}"),
    ],
    ids=["empty", "cut off", "a letter", "a pickle", "another checksum", "another layout"],
)
def test_damaged_tables_are_replaced(home: Path, damage: object) -> None:
    tables()
    path = stored(home)
    content = path.read_bytes()
    assert callable(damage)
    path.write_bytes(damage(content))
    tables.cache_clear()

    assert parse("dim n", "x").diagnostics == []
    assert path.read_bytes() == content


def test_a_cache_that_cannot_be_written_is_done_without(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.joinpath("file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "file"))

    assert parse("dim n", "x").diagnostics == []


def test_tables_of_another_user_are_not_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(os, "getuid"):
        pytest.skip("no users there")
    tables()
    tables.cache_clear()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    compiled = []

    def compile_grammar(grammar: str) -> None:
        compiled.append(grammar)
        raise InterruptedError

    monkeypatch.setattr("bettyc.grammar.tables.compile_grammar", compile_grammar)
    with pytest.raises(InterruptedError):
        tables()
    assert compiled


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"HOME": "/home/u"}, "/home/u/.cache/bettyc"),
        ("linux", {"HOME": "/home/u", "XDG_CACHE_HOME": "relative"}, "/home/u/.cache/bettyc"),
        ("linux", {"HOME": "/home/u", "XDG_CACHE_HOME": "/var/u"}, "/var/u/bettyc"),
        ("darwin", {"HOME": "/Users/u"}, "/Users/u/Library/Caches/bettyc"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/bettyc/cache"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="paths of other systems")
def test_the_folder_of_each_system(
    monkeypatch: pytest.MonkeyPatch, platform: str, variables: dict[str, str], expected: str
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert os.path.dirname(cache_path("")) == expected
