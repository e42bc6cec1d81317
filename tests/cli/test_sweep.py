"""`bettyc run --sweep … --seeds N`: grids in processes, resuming, failures, Ctrl-C, the summary.

Every run is a process that imports torch, so the sweeps here are small.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from bettyc.cli import sweep as module
from bettyc.cli.pool import Done, Task, lock, run_all

Bettyc = Callable[..., Any]
PROGRAM = """\
level fit {
  var w : real = 0
  minimize (w - 1)^2 + exp(tune.t) * w^2
}

level tune {
  var t : real = gaussian(1)
  minimize (fit*.w - 0.8)^2
  optimizer = sgd(lr = 1)
}

run { steps = 3 }
"""


@pytest.fixture
def folder(bettyc: Bettyc, tmp_path: Path) -> Path:
    (tmp_path / "star.mlo").write_text(PROGRAM)
    return tmp_path


def last(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return loaded


def test_a_grid_with_seeds_and_its_summary(bettyc: Bettyc, folder: Path) -> None:
    """Means and standard errors are recomputed from the runs' own files; run again, it skips."""
    command = ("run", "star.mlo", "--sweep", "tune.optimizer.lr=[0.5, 2.0]", "--seeds", "2",
               "--seed", "7", "--jobs", "2", "-o", "out")  # fmt: skip
    done = bettyc(*command, "--format", "json")
    content = json.loads(done.out)

    assert done.code == 0
    assert done.err.count("finished") == 4
    names = sorted(p.name for p in (folder / "out").iterdir() if p.is_dir())
    assert names == [
        "001-lr=0.5,seed=7", "002-lr=0.5,seed=8", "003-lr=2.0,seed=7", "004-lr=2.0,seed=8"
    ]  # fmt: skip
    assert [row["setting"] for row in content["settings"]] == [
        "tune.optimizer.lr = 0.5", "tune.optimizer.lr = 2.0"]  # fmt: skip
    for row, pair in zip(content["settings"], (names[:2], names[2:]), strict=True):
        a, b = (last(folder / "out" / name)["loss"]["tune"] for name in pair)
        assert a != b  # other seeds, other starts
        assert row["finished"] == 2
        assert row["loss"]["tune"]["mean"] == pytest.approx((a + b) / 2, rel=1e-12)
        # of two numbers the standard error of the mean is half their distance
        assert row["loss"]["tune"]["error"] == pytest.approx(abs(a - b) / 2, rel=1e-9)
    resolved = (folder / "out" / names[2] / "resolved.mlo").read_text()
    assert "lr = 2.0" in resolved
    page = (folder / "out" / "report.html").read_text()
    assert "tune.optimizer.lr = 0.5" in page
    assert 'class="band"' in page

    before = {p: p.stat().st_mtime_ns for p in (folder / "out").rglob("result.json")}
    again = bettyc(*command)
    assert again.code == 0
    assert again.err == "4 of 4 runs are finished already\n"
    assert again.out.splitlines()[0].split() == [
        "setting",
        "finished",
        "loss",
        "fit",
        "loss",
        "tune",
    ]
    assert "± " in again.out
    assert {p: p.stat().st_mtime_ns for p in before} == before
    other = bettyc(*command, "--set", "run.steps=4")
    assert (other.code, "another arguments" in other.err) == (2, True)
    (folder / "star.mlo").write_text(PROGRAM.replace("0.8", "0.7"))
    changed = bettyc(*command)
    assert (changed.code, "another text of the program" in changed.err) == (2, True)


def test_a_run_of_a_sweep_is_the_run_with_those_values(bettyc: Bettyc, folder: Path) -> None:
    alone = ("run", "star.mlo", "--set", "tune.optimizer.lr=0.5", "--seed", "3", "-o", "alone")
    assert bettyc(*alone).code == 0
    swept = bettyc(
        "run", "star.mlo", "--sweep", "tune.optimizer.lr=[0.5]", "--seed", "3", "-o", "s"
    )

    assert swept.code == 0
    inside = folder / "s" / "001-lr=0.5,seed=3" / "metrics.jsonl"
    assert inside.read_bytes() == (folder / "alone" / "metrics.jsonl").read_bytes()


def test_mistakes_are_found_before_anything_runs(bettyc: Bettyc, folder: Path) -> None:
    bad = bettyc("run", "star.mlo", "--sweep", "tune.optimizer.lr=log(1e-3..1e-1)", "-o", "out")
    unknown = bettyc("run", "star.mlo", "--sweep", "tune.optimizer.rl=[1, 2]", "-o", "out")
    value = bettyc("run", "star.mlo", "--sweep", "tune.optimizer.lr=[1.0, -1.0]", "-o", "out")

    assert (bad.code, unknown.code, value.code) == (1, 1, 1)
    assert "error[MLO0808]" in bad.err
    assert "<--sweep>:1:22" in bad.err
    assert "tune.optimizer.lr=log(1e-3..1e-1)" in bad.err
    assert "did you mean `lr`?" in unknown.err
    assert "error[MLO0603]" in value.err
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--sweep", "run.steps=[1]", "--resume", "x"), "--resume is about one run"),
        (("--seeds", "2", "--dry-run"), "--dry-run is about one run"),
        (("--jobs", "2"), "--jobs is about"),
        (("--seeds", "0"), "--seeds"),
    ],
)
def test_usage(bettyc: Bettyc, folder: Path, words: Sequence[str], message: str) -> None:
    done = bettyc("run", "star.mlo", *words)

    assert (done.code, message in done.err) == (2, True)
    assert "standard input" not in done.err
    assert "give it as a file" in bettyc("run", "-", "--seeds", "2").err


def test_a_folder_with_other_files_is_left_alone(bettyc: Bettyc, folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "mine").write_text("")
    done = bettyc("run", "star.mlo", "--seeds", "2", "-o", "out")

    assert (done.code, "never overwrites" in done.err) == (2, True)
    assert os.listdir(folder / "out") == ["mine"]


def test_a_failure_takes_no_other_run_with_it(bettyc: Bettyc, folder: Path) -> None:
    """The first value diverges; the second run still finishes, and the summary is about it."""
    program = PROGRAM.replace("(w - 1)^2 + exp(tune.t) * w^2", "(w - exp(tune.t))^2")
    (folder / "star.mlo").write_text(program)
    command = ("run", "star.mlo", "-o", "out", "--sweep")
    done = bettyc(*command, "tune.optimizer.lr=[1e30, 0.1]", "--format", "json")
    rows = json.loads(done.out)["settings"]

    assert done.code == 3
    assert "lr = 1e30, seed 0: failed: level `fit` diverged" in done.err
    assert os.path.join("out", "001-lr=1e30,seed=0.log") in done.err
    assert [row["finished"] for row in rows] == [0, 1]
    assert rows[0]["loss"] == {}
    assert rows[1]["loss"]["tune"]["error"] is None
    # with one more value: the finished run stays, the failed one is tried again
    more = bettyc(*command, "tune.optimizer.lr=[1e30, 0.1, 0.2]")
    assert more.code == 3
    assert "1 of 3 runs are finished already" in more.err
    assert "lr = 0.2, seed 0: finished" in more.err


def test_interrupted_and_killed_runs_go_on(bettyc: Bettyc, folder: Path) -> None:
    """Ctrl-C once: every run writes a checkpoint. Killed in between, too, a run ends with the
    same bits as one that was never stopped.
    """
    program = PROGRAM.replace("steps = 3", "steps = 800  checkpoint = every(100, keep = 1)")
    (folder / "long.mlo").write_text(program)
    command = [sys.executable, "-m", "bettyc", "run", "long.mlo", "--seeds", "2", "--jobs", "2",
               "--set", "run.log=every(50)", "-o"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def begun() -> bool:
        runs = [folder / "out" / f"00{k}-seed={k - 1}" / "metrics.jsonl" for k in (1, 2)]
        return all(p.is_file() and p.stat().st_size > 0 for p in runs)

    sweep = subprocess.Popen([*command, "out"], cwd=folder, env=environment, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    until = time.monotonic() + 60
    while not begun() and time.monotonic() < until:
        time.sleep(0.02)
    taken = lock(str(folder / "out" / "sweep.json"))
    sweep.send_signal(signal.SIGINT)
    out, err = sweep.communicate(timeout=60)

    assert taken is None  # while it runs, nobody else can take up the folder
    assert sweep.returncode == 130, err
    assert "Traceback" not in err
    assert "go on with the same command and -o out" in err
    assert ": interrupted" in err
    assert "of 2" in out
    free = lock(str(folder / "out" / "sweep.json"))
    assert free is not None
    free.close()
    # one ends as if it had been killed in the middle of a line after its checkpoint
    with (folder / "out" / "001-seed=0" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3990, "lo')
    subprocess.run([*command, "out"], cwd=folder, env=environment, check=True, capture_output=True)
    torch.set_num_threads(1)
    assert (
        bettyc("run", "long.mlo", "--seed", "0", "--set", "run.log=every(50)", "-o", "w").code == 0
    )

    for file in ("metrics.jsonl", "variables.safetensors"):
        resumed, whole = (folder / name / file for name in ("out/001-seed=0", "w"))
        assert resumed.read_bytes() == whole.read_bytes(), file


def test_how_a_process_can_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error is quoted from the log, a signal is named, and at most `jobs` run at once."""
    (folder / "bettyc").mkdir()
    (folder / "bettyc" / "__main__.py").write_text(
        "import os, sys, time\n"
        "open(f'at-{os.getpid()}', 'w').close(); time.sleep(0.1)\n"
        "word = sys.argv[1]\n"
        "if word == 'die': os.kill(os.getpid(), 9)\n"
        "if word == 'say': sys.exit('error: it is broken')\n"
        "sys.exit(int(word))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))
    ended: list[Done] = []
    words = ("0", "die", "say", "7")
    tasks = [Task(w, [w], str(folder / f"{w}.log")) for w in words]
    failed, interrupted = run_all(tasks, 2, None, ended.append)

    assert (failed, interrupted) == (3, False)
    assert {d.task.label: (d.state, d.message) for d in ended} == {
        "0": ("finished", ""), "die": ("failed", "killed by signal 9"),
        "say": ("failed", "it is broken"), "7": ("failed", "exit code 7")}  # fmt: skip


def test_options_reach_every_run(
    bettyc: Bettyc, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Task] = []

    def collect(tasks: Sequence[Task], *rest: Any) -> tuple[int, bool]:
        found.extend(tasks)
        return 0, False

    monkeypatch.setattr(module, "run_all", collect)
    done = bettyc("run", "star.mlo", "--sweep", "run.steps=[1, 2]", "--seed", "5", "-O", "0", "-W",
                  "MLO0317", "-I", "lib", "--set", "tune.optimizer.lr=3", "--no-python",
                  "--device", "cpu", "-o", "out")  # fmt: skip

    assert done.code == 0
    assert list(found[1].arguments) == [
        "run", "star.mlo", "--device", "cpu", "-O", "0", "--no-python", "--set",
        "tune.optimizer.lr=3", "-I", "lib", "-W", "MLO0317", "--set", "run.steps=2", "--seed", "5",
        "-o", os.path.join("out", "002-steps=2,seed=5"), "--color", "never"]  # fmt: skip


def test_a_single_run_has_no_error() -> None:
    from bettyc.report.sweep import shown

    assert shown({"mean": 0.5, "error": None, "count": 1}, 1) == "0.5"
    assert shown({"mean": 0.5, "error": 0.25, "count": 2}, 3) == "0.5 ± 0.25 (2 of 3)"
    assert shown({"mean": None, "error": None, "count": 0}, 3) == ""
