"""The verbs that show something: graph, info, explain, list, version, completions, new."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

Bettyc = Callable[..., Any]


def test_graph_why_names_the_mention(bettyc: Bettyc) -> None:
    result = bettyc("graph", "--why", "fit:tune", "good.mlo")

    assert result.code == 0
    assert "fit -> tune  l2u  because of `fit*.w` at good.mlo:16:18" in result.out
    assert "tune -> fit  u2l  because of `tune.log_wd` at good.mlo:11:38" in result.out


@pytest.mark.parametrize("why", ["fit", "fit:tuen"])
def test_graph_why_of_nothing_is_usage(bettyc: Bettyc, why: str) -> None:
    result = bettyc("graph", "--why", why, "good.mlo")

    assert result.code == 2
    assert result.out == ""
    assert ("A:B" in result.err) or ("did you mean `tune`?" in result.err)


def test_graph_of_a_wrong_program_is_its_findings(bettyc: Bettyc) -> None:
    result = bettyc("graph", "wrong.mlo")

    assert (result.code, result.out) == (1, "")
    assert "MLO0202" in result.err


def test_graph_writes_a_file(bettyc: Bettyc, tmp_path: Path) -> None:
    assert bettyc("graph", "--format", "svg", "-o", "g.svg", "good.mlo").code == 0

    ElementTree.parse(tmp_path / "g.svg")


def test_output_that_cannot_be_written_is_exit_code_2(bettyc: Bettyc) -> None:
    result = bettyc("graph", "-o", "no/such/folder/g.svg", "good.mlo")

    assert result.code == 2
    assert result.err == "error: `no/such/folder/g.svg`: No such file or directory\n"


def test_info_tells_where_each_value_came_from(bettyc: Bettyc, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[tune.optimizer]\nlr = 0.5\n")
    result = bettyc(
        "info", "--json", "good.mlo",
        "--profile", "one", "--config", "c.toml", "--set", "run.seed=7",
    )  # fmt: skip

    content = json.loads(result.out)
    found = {s["path"]: s for level in content["levels"] for s in level["settings"]}
    found |= {s["path"]: s for s in content["run"]}
    assert result.code == 0
    assert (found["run.seed"]["value"], found["run.seed"]["origin"]) == ("7", "--set")
    assert (found["run.steps"]["value"], found["run.steps"]["origin"]) == ("1", "profile one")
    assert found["tune.optimizer"]["origin"] == "config c.toml"
    assert "lr = 0.5" in found["tune.optimizer"]["value"]
    assert found["run.device"]["origin"] == "default"
    assert content["dims"] == {"n": 8, "d": 3}
    assert content["order"] == ["fit", "tune"]
    assert content["levels"][0]["variables"] == [{"name": "w", "type": "real[3]", "domain": None}]


def test_info_as_text(bettyc: Bettyc) -> None:
    result = bettyc("info", "good.mlo")

    assert result.code == 0
    assert "dims      n = 8, d = 3" in result.out
    assert "  tune  minimize   log_wd : real[3]   (3 scalars)" in result.out


@pytest.mark.parametrize("word", ["MLO0319", "mlo0319", "319", "undirected-read"])
def test_explain_by_number_and_name(bettyc: Bettyc, word: str) -> None:
    result = bettyc("explain", word)

    assert result.code == 0
    assert "MLO0319" in result.out


def test_explain_lists_all(bettyc: Bettyc) -> None:
    from bettyc.diagnostics.registry import CODES

    rows = json.loads(bettyc("explain", "--list", "--format", "json").out)

    assert [row["code"] for row in rows] == list(CODES)
    assert len(bettyc("explain", "--list").out.splitlines()) == len(CODES)


@pytest.mark.parametrize("arguments", [["MLO9999"], [], ["MLO0319", "--list"]])
def test_explain_wants_one_known_code(bettyc: Bettyc, arguments: list[str]) -> None:
    assert bettyc("explain", *arguments).code == 2


@pytest.mark.parametrize("kind", ["functions", "optimizers", "strategies", "settings", "domains"])
def test_list(bettyc: Bettyc, kind: str) -> None:
    rows = json.loads(bettyc("list", kind, "--json").out)
    text = bettyc("list", kind)

    assert text.code == 0
    assert all(row["doc"] and row["signature"].startswith(row["name"]) for row in rows)
    assert text.out.splitlines()[::2] == [row["signature"] for row in rows]


def test_lists_are_complete() -> None:
    from bettyc.cli.list_ import DOMAINS, ROWS
    from bettyc.elaborate.levels import DOMAINS as known
    from bettyc.ops import FUNCTIONS, INITIAL
    from bettyc.optimizers import OPTIMIZERS
    from bettyc.settings import LEVEL, RUN
    from bettyc.strategies import STRATEGIES

    assert set(DOMAINS) == set(known)
    assert {r["name"] for r in ROWS["functions"]()} == {*FUNCTIONS, *INITIAL}
    assert {r["name"] for r in ROWS["optimizers"]()} == set(OPTIMIZERS)
    assert {r["name"] for r in ROWS["strategies"]()} == set(STRATEGIES)
    assert len(list(ROWS["settings"]())) == len(LEVEL) + len(RUN)


def test_version(bettyc: Bettyc) -> None:
    import bettyc as package

    content = json.loads(bettyc("version", "--json").out)

    assert content["bettyc"] == package.__version__
    assert content["packages"]["torch"]
    assert bettyc("version").out.startswith(f"bettyc {package.__version__}")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_are_a_script(bettyc: Bettyc, shell: str) -> None:
    result = bettyc("completions", shell)

    assert result.code == 0
    assert "_BETTYC_COMPLETE" in result.out


@pytest.mark.parametrize("kind", ["hpo", "reweight", "nas", "maml", "minmax", "rl"])
def test_new_programs_are_without_findings(bettyc: Bettyc, tmp_path: Path, kind: str) -> None:
    assert bettyc("new", kind).code == 0
    checked = bettyc("check", f"{kind}.mlo", "--profile", "smoke")
    again = bettyc("new", kind)

    assert (checked.code, checked.err) == (0, "1 program checked: ok\n")
    assert again.code == 2
    assert f"`{kind}.mlo` is already there" in again.err


def test_new_prints(bettyc: Bettyc, tmp_path: Path) -> None:
    result = bettyc("new", "hpo", "-o", "-")

    assert result.out.startswith("mlo 0.1\n")
    assert not (tmp_path / "hpo.mlo").exists()


@pytest.mark.parametrize("stage", ["tokens", "ast", "typed", "graph"])
def test_emit(bettyc: Bettyc, stage: str) -> None:
    one = bettyc("check", "--emit", stage, "good.mlo")
    two = bettyc("check", "--emit", f"{stage},tokens", "good.mlo")

    assert (one.code, one.err) == (0, "")
    assert one.out
    assert two.out.startswith(f"# {stage}\n{one.out}# tokens\n")


def test_emit_of_a_wrong_program(bettyc: Bettyc) -> None:
    assert bettyc("check", "--emit", "ast", "wrong.mlo").out.startswith("File\n")
    late = bettyc("check", "--emit", "typed", "wrong.mlo")
    assert (late.code, late.out) == (1, "")
