"""What is read of a folder, and what is said of one that is damaged."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from report_folders import Write, line

from bettyc.report.curves import Group, charts, mean_and_error
from bettyc.report.record import labels, read, read_all


def messages(path: Path) -> list[str]:
    return [f"{d.code} {d.message}" for d in read(str(path), "x")[1]]


def test_a_good_folder(write: Write) -> None:
    path = write("run", line(0, 2.0), line(1, None), line(2, 1.0, metrics={"acc": 0.5}))
    record, found = read(str(path), "x")

    assert found == []
    assert record is not None
    assert record.steps == 3
    assert record.last("loss") == {"fit": 1.0}
    assert record.last("metrics") == {"acc": 0.5}
    assert (record.plan, record.result) == (None, {})


def test_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    paths = [str(tmp_path / name) for name in ("file", "folder", "nothing")]
    records, found = read_all(paths)

    assert records == []
    assert [d.code for d in found] == ["MLO0805"] * 3
    words = ("is a file", "has no `metrics.jsonl`", "is not there")
    assert all(word in d.message for word, d in zip(words, found, strict=True))


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ('{"step": 1, "loss": {"fi', "ends in the middle of a line"),
        ("\x00\x00\x00\n", "line 2: not JSON"),
        ("[1, 2]\n", "line 2: no step"),
        ('{"loss": {}}\n', "line 2: no step"),
        ('{"step": true}\n', "line 2: no step"),
        ('{"step": -1}\n', "line 2: no step"),
        ('{"step": 1, "loss": {"fit": "low"}}\n', "line 2: `loss` is not numbers by name"),
        ('{"step": 1, "metrics": 3}\n', "line 2: `metrics` is not numbers by name"),
        ('{"step": 1, "solves": [{"level": "fit"}]}\n', "line 2: `solves` is not a list of solves"),
        ('{"step": 1, "solves": {}}\n', "line 2: `solves` is not a list of solves"),
    ],
)
def test_a_bad_line_is_told_and_the_others_are_kept(write: Write, bad: str, problem: str) -> None:
    after = [] if bad.endswith("fi") else [line(2, 0.5)]
    path = write("run", line(0, 2.0), bad, *after)
    record, found = read(str(path), "x")

    assert [d.code for d in found] == ["MLO0806"]
    assert found[0].severity == "warning"
    assert problem in found[0].message
    assert record is not None
    assert [x["step"] for x in record.lines] == [0, *(x["step"] for x in after)]


def test_bytes_that_are_no_text(write: Write) -> None:
    path = write("run", line(0, 1.0))
    (path / "metrics.jsonl").write_bytes(b"\xff\xfe\x00bad\n" * 3)

    found = messages(path)
    assert "line 1: not JSON" in found[0]
    assert found[1].startswith("MLO0807")
    notes = [n.text for n in read(str(path), "x")[1][0].notes]
    assert "and 2 more such lines" in notes


def test_an_empty_run(write: Write) -> None:
    path = write("run")

    assert messages(path) == [f"MLO0807 `{path}` has no finished update"]


@pytest.mark.parametrize("name", ["plan.json", "environment.json", "result.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99}', '{"format": 1, "is": "Plan"}'])
def test_other_files_that_cannot_be_read(write: Write, name: str, text: str) -> None:
    path = write("run", line(0, 1.0))
    (path / name).write_text(text)
    good = name != "plan.json" and text.startswith('{"')

    found = messages(path)
    assert [m.split()[0] for m in found] == ([] if good else ["MLO0806"])
    assert all(name in m for m in found)


def test_a_step_that_was_logged_twice_counts_once(write: Write) -> None:
    path = write("run", line(1, 2.0), line(0, 3.0), line(1, 1.0))
    record, _ = read(str(path), "x")

    assert record is not None
    assert [(x["step"], x["loss"]["fit"]) for x in record.lines] == [(0, 3.0), (1, 1.0)]


def test_labels_are_as_short_as_tells_apart() -> None:
    assert labels(["runs/a", "runs/b/"]) == ["a", "b"]
    assert labels(["x/a", "y/a", "y/b"]) == ["x/a", "y/a", "y/b"]
    assert labels(["a", "./a"]) == ["a", "a"]
    assert labels([]) == []


def test_mean_and_standard_error() -> None:
    """Of 1, 2, 3, 4: variance 5/3, standard error sqrt(5/12)."""
    assert mean_and_error([1.0, 2.0, 3.0, 4.0]) == (2.5, pytest.approx(math.sqrt(5 / 12)))
    assert mean_and_error([7.0]) == (7.0, 0.0)


def test_a_curve_is_the_mean_of_its_group(write: Write) -> None:
    runs: list[Any] = []
    for k, (first, second) in enumerate(((1.0, 4.0), (3.0, None))):
        record, _ = read(str(write(f"r{k}", line(0, first), line(1, second))), f"r{k}")
        assert record is not None
        runs.append(record)
    group = Group("g", tuple(runs))
    curve = charts([group], "loss", False)[0].curves[0]

    assert curve.steps == (0, 1)
    assert curve.values == (2.0, None)
    assert curve.error == (1.0, 0.0)


def test_the_worst_residual_of_a_pull_is_drawn(write: Write) -> None:
    def solve(residual: float | None) -> dict[str, Any]:
        return {"level": "fit", "root": "tune", "strategy": "cg", "products": 3,
                "relative_residual": residual}  # fmt: skip

    path = write("run", line(0, 1.0, solves=[solve(1e-3), solve(1e-2), solve(None)]))
    record, found = read(str(path), "x")
    assert record is not None
    chart = charts([Group("x", (record,))], "residual", True)[0]

    assert found == []
    assert chart.title == "through fit to tune"
    assert chart.curves[0].values == (1e-2,)
