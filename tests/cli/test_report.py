"""`bettyc report`: where the page goes, what is printed, exit codes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Bettyc = Callable[..., Any]


@pytest.fixture
def runs(bettyc: Bettyc, data: Path) -> Path:
    assert bettyc("run", "good.mlo", "-o", "a").code == 0
    assert bettyc("run", "good.mlo", "-o", "b", "--set", "tune.optimizer.lr=0.5").code == 0
    return data


def test_pages_of_one_run_and_of_several(bettyc: Bettyc, runs: Path) -> None:
    (runs / "a" / "report.html").unlink()
    one, two = bettyc("report", "a"), bettyc("report", "a", "b", "--format", "json")

    assert (one.code, one.err) == (0, "")
    assert one.out.startswith("a  3 updates  fit ")
    assert one.out.endswith(f"page  {os.path.join('a', 'report.html')}\n")
    content = json.loads(two.out)
    assert content["page"] == "report.html"
    last = json.loads((runs / "b" / "metrics.jsonl").read_text().splitlines()[-1])
    assert content["runs"][1]["loss"] == last["loss"]
    assert content["runs"][1]["finished"] is True
    assert (runs / "report.html").read_text().startswith("<!doctype html>")
    assert bettyc("report", "a", "-o", "-").out == (runs / "a" / "report.html").read_text()


def test_the_page_of_a_run_is_in_its_folder(bettyc: Bettyc, runs: Path) -> None:
    """The same page that `bettyc report` writes."""
    written = (runs / "a" / "report.html").read_text()

    assert bettyc("report", "a").code == 0
    assert (runs / "a" / "report.html").read_text() == written


def test_what_is_no_run_is_an_error_and_leaves_no_page(bettyc: Bettyc, runs: Path) -> None:
    done = bettyc("report", "a", "good.mlo", "nothing", "--format", "json")

    assert done.code == 1
    found = [json.loads(x) for x in done.err.splitlines()]
    assert [d["code"] for d in found] == ["MLO0805", "MLO0805"]
    assert "good.mlo" in found[0]["message"]
    assert not (runs / "report.html").exists()


def test_a_damaged_run_is_reported_with_a_warning(bettyc: Bettyc, runs: Path) -> None:
    with (runs / "a" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    (runs / "b" / "metrics.jsonl").write_text("")
    done = bettyc("report", "a", "b")

    assert done.code == 0
    assert "warning[MLO0806]" in done.err
    assert "the report shows the 3 lines that can be read" in done.err
    assert "warning[MLO0807]" in done.err


def test_a_failed_run_has_a_page_too(bettyc: Bettyc, data: Path) -> None:
    failed = bettyc("run", "good.mlo", "-o", "out", "--set", "tune.optimizer=sgd(lr=1e30)")

    assert failed.code == 3
    assert "not finished" in (data / "out" / "report.html").read_text()
    assert not (data / "out" / "result.json").exists()


def test_a_page_of_others_is_not_overwritten(bettyc: Bettyc, runs: Path) -> None:
    (runs / "report.html").write_text("<p>mine")
    done = bettyc("report", "a", "b")

    assert done.code == 2
    assert "was not written by bettyc" in done.err
    assert (runs / "report.html").read_text() == "<p>mine"
    assert bettyc("report", "a", "b", "-o", "report.html").code == 0


def test_what_ran_and_on_what_is_kept(bettyc: Bettyc, runs: Path) -> None:
    import torch

    ran = json.loads((runs / "a" / "environment.json").read_text())
    version = json.loads(bettyc("version", "--json").out)
    assert {k: ran[k] for k in version} == version
    assert (ran["device"], ran["threads"]) == ("cpu", torch.get_num_threads())
    result = json.loads((runs / "a" / "result.json").read_text())
    last = json.loads((runs / "a" / "metrics.jsonl").read_text().splitlines()[-1])
    assert result["updates"] == 3
    assert (result["loss"], result["metrics"]) == (last["loss"], last["metrics"])


def test_usage(bettyc: Bettyc, tmp_path: Path) -> None:
    assert bettyc("report").code == 2
