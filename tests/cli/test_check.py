"""`bettyc check`: exit codes, formats, several files, standard input, severities."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Bettyc = Callable[..., Any]


def test_a_good_program_is_ok(bettyc: Bettyc) -> None:
    result = bettyc("check", "good.mlo")

    assert result.code == 0
    assert result.out == ""
    assert result.err == "1 program checked: ok\n"


def test_a_mistake_is_shown_on_stderr_with_code_place_and_exit_code(bettyc: Bettyc) -> None:
    result = bettyc("check", "wrong.mlo")

    assert result.code == 1
    assert result.out == ""
    assert "error[MLO0202]" in result.err
    assert "--> wrong.mlo:16:26" in result.err
    assert "1 program checked: 1 error" in result.err


def test_a_forgotten_star_is_an_error(bettyc: Bettyc) -> None:
    result = bettyc("check", "forgotten.mlo")

    assert result.code == 1
    assert "error[MLO0319]" in result.err


def test_quiet_says_nothing_about_good_programs(bettyc: Bettyc) -> None:
    assert bettyc("check", "-q", "good.mlo").err == ""


def test_every_file_is_checked_and_the_worst_code_wins(bettyc: Bettyc) -> None:
    result = bettyc("check", "wrong.mlo", "missing.mlo", "good.mlo")

    assert result.code == 2
    assert "error: cannot read `missing.mlo`: No such file or directory" in result.err
    assert "MLO0202" in result.err
    assert "2 programs checked" in result.err


def test_a_folder_is_not_a_program(bettyc: Bettyc, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()

    result = bettyc("check", "folder")

    assert result.code == 2
    assert "cannot read `folder`" in result.err


def test_standard_input_under_its_name(bettyc: Bettyc, tmp_path: Path) -> None:
    good, wrong = ((tmp_path / f"{n}.mlo").read_text() for n in ("good", "wrong"))

    assert bettyc("check", "-", stdin=good).code == 0
    assert "--> <stdin>:16:26" in bettyc("check", "-", stdin=wrong).err
    named = bettyc("check", "-", "--stdin-filename", "mine.mlo", stdin=wrong)
    assert "--> mine.mlo:16:26" in named.err


def test_json_lines_are_data(bettyc: Bettyc) -> None:
    result = bettyc("check", "--format", "json", "wrong.mlo")

    found = [json.loads(line) for line in result.out.splitlines()]
    assert result.code == 1
    assert result.err == ""
    assert [d["code"] for d in found] == ["MLO0202"]
    assert found[0]["primary"]["start"]["line"] == 16


def test_sarif_is_one_document_also_without_findings(bettyc: Bettyc) -> None:
    both = json.loads(bettyc("check", "--format", "sarif", "wrong.mlo", "good.mlo").out)
    none = json.loads(bettyc("check", "--format", "sarif", "good.mlo").out)

    assert [r["ruleId"] for r in both["runs"][0]["results"]] == ["MLO0202"]
    assert none["runs"][0]["results"] == []


def test_concise_and_github(bettyc: Bettyc) -> None:
    concise = bettyc("check", "--format", "concise", "wrong.mlo").err.splitlines()[0]
    github = bettyc("check", "--format", "github", "wrong.mlo").out

    assert concise.startswith("wrong.mlo:16:26: error[MLO0202]: ")
    assert github.startswith("::error file=wrong.mlo,line=16,col=26,")


def test_colour_only_when_asked_for(bettyc: Bettyc) -> None:
    assert "\x1b[" not in bettyc("check", "wrong.mlo").err
    assert "\x1b[" in bettyc("check", "--color", "always", "wrong.mlo").err


def test_pedantic_findings_can_be_asked_for_and_raised(bettyc: Bettyc) -> None:
    assert "MLO0902" not in bettyc("check", "good.mlo").err
    pedantic = bettyc("check", "--pedantic", "good.mlo")
    assert (pedantic.code, "pedantic[MLO0902]" in pedantic.err) == (0, True)
    assert bettyc("check", "-W", "MLO0902", "good.mlo").code == 0
    assert bettyc("check", "-E", "0902", "good.mlo").code == 1
    assert bettyc("check", "-W", "MLO0902", "--error-on-warning", "good.mlo").code == 1
    assert "MLO0902" not in bettyc("check", "--pedantic", "-A", "MLO0902", "good.mlo").err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-A", "MLO0319"], "which cannot be allowed"),
        (["-W", "MLO9999"], "unknown code MLO9999"),
        (["--set", "run.steps"], "--set wants PATH=VALUE"),
        (["--mock", "n=0"], "at least 1"),
        (["--mock", "n"], "--mock wants DIM=N"),
        (["--emit", "soup"], "no stage `soup`"),
        (["--format", "xml"], "xml"),
        (["--nonsense"], "nonsense"),
    ],
)
def test_wrong_usage_is_exit_code_2(bettyc: Bettyc, arguments: list[str], message: str) -> None:
    result = bettyc("check", "good.mlo", *arguments)

    assert result.code == 2
    assert message in result.err
    assert result.out == ""


def test_a_wrong_path_of_set_is_a_finding(bettyc: Bettyc) -> None:
    result = bettyc("check", "good.mlo", "--set", "fit.optimzer.lr=1")

    assert result.code == 1
    assert "MLO0614" in result.err


def test_bytes_that_are_no_text_are_a_finding(bettyc: Bettyc, tmp_path: Path) -> None:
    (tmp_path / "garbage.mlo").write_bytes(bytes(range(256)) * 50)

    result = bettyc("check", "garbage.mlo")

    assert result.code == 1
    assert "error[MLO0101]" in result.err


def test_an_empty_file_has_no_level_but_does_not_crash(bettyc: Bettyc, tmp_path: Path) -> None:
    (tmp_path / "empty.mlo").write_text("")

    assert bettyc("check", "empty.mlo").code in (0, 1)


def test_watch_answers_changes(bettyc: Bettyc, tmp_path: Path) -> None:
    program, good = tmp_path / "wrong.mlo", (tmp_path / "good.mlo").read_text()
    with subprocess.Popen(
        [sys.executable, "-m", "bettyc", "check", "--watch", "--format", "concise", str(program)],
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert "MLO0202" in process.stderr.readline()
        for line in process.stderr:
            if "watching" in line:
                break
        time.sleep(0.05)
        program.write_text(good)
        answer = process.stderr.readline()
        process.kill()
    assert answer == "1 program checked: ok\n"
