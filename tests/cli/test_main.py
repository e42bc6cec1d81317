"""The outer shell: usage, broken pipes, our own faults."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Bettyc = Callable[..., Any]


def test_help_names_every_verb(bettyc: Bettyc) -> None:
    from bettyc.cli.main import VERBS

    result = bettyc("--help")

    assert result.code == 0
    for verb in VERBS:
        assert f"\n  {verb} " in result.out
        assert bettyc(verb, "--help").out.startswith(f"Usage: bettyc {verb} ")


@pytest.mark.parametrize(
    ("word", "hint"),
    [("chekc", "did you mean `check`?"), ("good.mlo", "write `bettyc run good.mlo`")],
)
def test_an_unknown_verb(bettyc: Bettyc, word: str, hint: str) -> None:
    result = bettyc(word)

    assert result.code == 2
    assert hint in result.err


def test_our_own_fault_leaves_a_report(
    bettyc: Bettyc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise AssertionError("a fault made by the test")

    monkeypatch.setattr("bettyc.driver.check_file", broken)
    result = bettyc("check", "good.mlo")

    (report,) = tmp_path.glob("bettyc-report-*.txt")
    text = report.read_text()
    assert result.code == 101
    assert "this is a bug, not your fault" in result.err
    assert str(report) in result.err
    assert "Traceback" not in result.err
    assert "a fault made by the test" in text
    assert "command: bettyc check good.mlo" in text


def test_an_interrupt_is_130(bettyc: Bettyc, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bettyc.driver.check_file", interrupted)
    result = bettyc("check", "good.mlo")

    assert (result.code, result.err) == (130, "interrupted\n")


def test_a_reader_that_has_had_enough() -> None:
    """`bettyc list functions | head -1`, with output longer than what a pipe holds unread."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bettyc", "explain", "--list", "--format", "json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 0
    process.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_a_message() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "bettyc", "list", "domains"],
            stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "error: No space left on device\n"
