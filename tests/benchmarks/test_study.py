"""The study in the repository: it is whole, `auto` is as good as it says, and chooses so still."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from programs import NAMED, PROGRAMS
from runs import STRATEGIES as RUNS
from runs import SUBOPTIMAL, TEXTS, trajectory
from study import STRATEGIES, begun, study
from table import auto_of, ratio, right, written

FOLDER = Path(__file__).parents[2] / "benchmarks" / "study"
STUDY: dict[str, Any] = json.loads((FOLDER / "study.json").read_text(encoding="utf-8"))
NEAR = 0.1  # after 300 updates
NAMES = [program.name for program in PROGRAMS]


def test_the_study_is_whole() -> None:
    assert list(NAMES) == [n for n in NAMES if n in STUDY["programs"]]
    assert len(NAMES) >= 12
    for found in STUDY["programs"].values():
        assert [row["strategy"] for row in found["rows"]] == list(STRATEGIES)
    assert (FOLDER / "study.md").read_text(encoding="utf-8") == written(STUDY)


@pytest.mark.parametrize("name", NAMES)
def test_auto_is_right_and_within_twice_the_best(name: str) -> None:
    found = STUDY["programs"][name]

    assert (found["accuracy"], found["truth"]) == (NAMED[name].accuracy, NAMED[name].truth)
    assert auto_of(found)["error"] <= found["accuracy"]
    assert right(found)
    assert ratio(found) <= 2


@pytest.mark.parametrize("name", NAMES)
def test_auto_chooses_what_the_table_says(name: str) -> None:
    run = begun(NAMED[name], "auto")
    chosen = {level.name: level.strategy.name for level in run.plan.levels if level.name != "tune"}

    assert chosen == auto_of(STUDY["programs"][name])["chosen"]


@pytest.mark.parametrize("name", ["warm_few", "network_one"])
def test_the_study_can_be_made_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors do not depend on the machine; times do."""
    monkeypatch.setattr("study.clocked", lambda call: [1.0])
    fresh = {row["strategy"]: row for row in study(NAMED[name])["rows"]}

    for row in STUDY["programs"][name]["rows"]:
        if row.get("error", 1) < 1e-4:
            assert fresh[row["strategy"]]["error"] < 10 * row["error"]


@pytest.mark.parametrize("strategy", [s for s in RUNS if s != "exact"])
@pytest.mark.parametrize("problem", TEXTS)
def test_runs_that_solve_nothing_come_near_the_best(problem: str, strategy: str) -> None:
    """Where 300 steps along exact hypergradients lead, from text to numbers."""
    start, best = trajectory(problem, "exact", [0, 300])
    (found,) = trajectory(problem, strategy, [300])

    assert (found - best) / (start - best) < NEAR


@pytest.mark.parametrize("problem", TEXTS)
def test_the_runs_of_the_study_reach_what_is_stated(problem: str) -> None:
    found = STUDY["runs"][problem]

    assert set(found["left"]) == set(RUNS)
    assert found["updates"][-1] == 1000
    for strategy, left in found["left"].items():
        assert left[-1] <= SUBOPTIMAL, strategy
