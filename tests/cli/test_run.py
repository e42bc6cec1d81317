"""`bettyc run` and `compile`: folders, streams, failures, interrupts, resuming."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bettyc.cli.folder import Folder

Bettyc = Callable[..., Any]
FP64 = ("--set", "run.precision=fp64")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_has_a_folder_of_its_own(bettyc: Bettyc, data: Path) -> None:
    first, second = bettyc("run", "good.mlo"), bettyc("run", "good.mlo")

    assert (first.code, first.err) == (0, "")
    assert first.out.startswith("program  good\nsteps    3 of 3, ")
    assert first.out.endswith("folder   runs/good-1\n")
    assert second.out.endswith("folder   runs/good-2\n")
    folder = data / "runs" / "good-1"
    assert {p.name for p in folder.iterdir()} == {
        "resolved.mlo", "plan.json", "environment.json", "metrics.jsonl", "variables.safetensors",
        "result.json", "report.html"}  # fmt: skip
    assert [line["step"] for line in lines(folder)] == [0, 1, 2]
    assert all(line["solves"][0]["level"] == "fit" for line in lines(folder))
    variables = load_file(folder / "variables.safetensors")
    assert {k: tuple(v.shape) for k, v in variables.items()} == {"fit.w": (3,), "tune.log_wd": (3,)}


def test_the_losses_are_those_of_the_closed_form(bettyc: Bettyc, data: Path) -> None:
    """Ridge regression: w solves (X'X / n + diag(exp(a))) w = X'y / n."""
    import numpy

    assert bettyc("run", "good.mlo", "-o", "out", *FP64).code == 0

    train, val = numpy.load(data / "train.npz"), numpy.load(data / "val.npz")
    matrix = train["x"].T @ train["x"] / 8 + numpy.eye(3)
    w = numpy.linalg.solve(matrix, train["x"].T @ train["y"] / 8)
    expected = numpy.mean((val["x"] @ w - val["y"]) ** 2)
    assert lines(data / "out")[0]["loss"]["tune"] == pytest.approx(expected, rel=1e-10)


def test_values_from_outside_are_in_the_resolved_program(bettyc: Bettyc, data: Path) -> None:
    command = ("run", "--profile", "one", "--set", "tune.optimizer.lr=0.5")
    assert bettyc(*command, "-o", "a", "good.mlo").code == 0
    resolved = (data / "a" / "resolved.mlo").read_text()
    assert bettyc("run", "-o", "b", "a/resolved.mlo").code == 0

    assert "lr = 0.5" in resolved
    assert len(lines(data / "a")) == 1
    assert lines(data / "a") == lines(data / "b")


def test_a_folder_with_files_is_never_overwritten(bettyc: Bettyc, data: Path) -> None:
    (data / "full").mkdir()
    (data / "full" / "precious.txt").write_text("keep me")
    (data / "empty").mkdir()

    taken = bettyc("run", "good.mlo", "-o", "full")
    assert taken.code == 2
    assert "never overwrites" in taken.err
    assert os.listdir(data / "full") == ["precious.txt"]
    assert bettyc("run", "good.mlo", "-o", "good.mlo/x").code == 2
    assert bettyc("run", "good.mlo", "-o", "empty").code == 0


def test_json_stream(bettyc: Bettyc, data: Path) -> None:
    result = bettyc("run", "--json-stream", "good.mlo")

    found = [json.loads(line) for line in result.out.splitlines()]
    assert [line["type"] for line in found] == ["start", "step", "step", "step", "end"]
    assert found[0]["steps"] == 3
    assert {k: v for k, v in found[3].items() if k != "type"} == lines(data / "runs" / "good-1")[2]
    assert found[4]["folder"] == "runs/good-1"


def test_dry_run_shows_the_plan_and_makes_nothing(bettyc: Bettyc, data: Path) -> None:
    result = bettyc("run", "--dry-run", "good.mlo")

    assert result.code == 0
    assert "repeat 3 " in result.out
    assert not (data / "runs").exists()


def test_data_that_is_missing_is_a_finding_and_makes_no_folder(
    bettyc: Bettyc, tmp_path: Path
) -> None:
    result = bettyc("run", "good.mlo")

    assert result.code == 1
    assert "error[MLO0506]" in result.err
    assert "train.npz" in result.err
    assert not (tmp_path / "runs").exists()


def test_mock_needs_no_data(bettyc: Bettyc, tmp_path: Path) -> None:
    (tmp_path / "free.mlo").write_text(
        (tmp_path / "good.mlo").read_text().replace("dim n = 8, d = 3", "dim n, d")
    )
    result = bettyc("run", "--mock", "n=20,d=5", "-o", "out", "free.mlo")

    assert (result.code, result.err) == (0, "")
    variables = load_file(tmp_path / "out" / "variables.safetensors")
    assert variables["fit.w"].shape == (5,)


def test_divergence_is_exit_code_3(bettyc: Bettyc, data: Path) -> None:
    result = bettyc("run", "good.mlo", "-o", "out", "--set", "tune.optimizer=sgd(lr=1e30)")

    assert result.code == 3
    assert result.err.startswith("error: ")
    assert "step 1" in result.err
    assert len(lines(data / "out")) == 1


def test_the_users_python_raising_is_exit_code_3(bettyc: Bettyc, data: Path) -> None:
    (data / "mine.py").write_text("def bad(x):\n    raise ValueError('out of cheese')\n")
    program = (data / "good.mlo").read_text()
    program = program.replace(
        "mlo 0.1\n", 'mlo 0.1\nextern fn f(x: real[k]) -> real from "mine:bad"\n'
    )
    program = program.replace("minimize error(fit*.w, val)", "minimize f(fit*.w) + f(log_wd)")
    (data / "python.mlo").write_text(program)

    raised = bettyc("run", "python.mlo")
    assert raised.code == 3
    assert "out of cheese" in raised.err
    assert "Traceback" not in raised.err
    refused = bettyc("run", "--no-python", "python.mlo")
    assert refused.code == 2
    assert 'refuses `extern fn f from "mine:bad"`' in refused.err


def test_a_device_that_is_not_there(bettyc: Bettyc, data: Path) -> None:
    result = bettyc("run", "good.mlo", "--device", "cuda:99")

    assert result.code == 1
    assert "error[MLO0802]" in result.err


def test_interrupt_and_resume_give_the_same_bits(
    bettyc: Bettyc, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Folder.log

    def interrupting(self: Folder, line: dict[str, Any]) -> None:
        log(self, line)
        if line["step"] == 1:
            signal.raise_signal(signal.SIGINT)

    command = ("run", "good.mlo", "--set", "run.steps=5")
    whole = bettyc(*command, "-o", "whole")
    monkeypatch.setattr(Folder, "log", interrupting)
    stopped = bettyc(*command, "-o", "part")
    monkeypatch.setattr(Folder, "log", log)
    checkpoint = next((data / "part" / "checkpoints").iterdir())
    rest = bettyc(*command, "-o", "rest", "--resume", str(checkpoint))

    assert (whole.code, stopped.code, rest.code) == (0, 130, 0)
    assert "--resume part\n" in stopped.err
    assert [line["step"] for line in lines(data / "rest")] == [2, 3, 4]
    assert lines(data / "part") + lines(data / "rest") == lines(data / "whole")
    a, b = (load_file(data / f / "variables.safetensors") for f in ("whole", "rest"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_going_on_in_the_same_folder(
    bettyc: Bettyc, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the fifth update in the middle of a line, with the last checkpoint after four:
    lines, rows, checkpoints and variables end as those of a run that was never stopped.
    """
    log = Folder.log

    def killed(self: Folder, line: dict[str, Any]) -> None:
        log(self, line)
        if line["step"] == 4:
            self._metrics.write('{"step": 5, "lo')
            raise MemoryError

    keep = "run.checkpoint=every(2, keep = 2, best = val_error, mode = min)"
    command = ("run", "good.mlo", "--set", "run.steps=9", "--set", keep, "--set", "run.log=csv",
               "--set", "run.eval=every(1)")  # fmt: skip
    assert bettyc(*command, "-o", "whole").code == 0
    monkeypatch.setattr(Folder, "log", killed)
    assert bettyc(*command, "-o", "part").code == 3
    monkeypatch.setattr(Folder, "log", log)
    before = sorted(p.name for p in (data / "part" / "checkpoints").iterdir())
    rest = bettyc(*command, "--resume", "part")

    assert before == ["step-000002.ckpt", "step-000004.ckpt"]
    assert (rest.code, rest.err) == (0, "")
    for name in ("metrics.jsonl", "metrics.csv", "variables.safetensors", "resolved.mlo"):
        assert (data / "part" / name).read_bytes() == (data / "whole" / name).read_bytes(), name
    kept = [sorted(p.name for p in (data / f / "checkpoints").iterdir()) for f in ("part", "whole")]
    assert kept[0] == kept[1]
    assert json.loads((data / "part" / "result.json").read_text())["updates"] == 9
    fewer = bettyc(*command, "--set", "run.steps=3", "--resume", "part")
    assert (fewer.code, "MLO0803" in fewer.err, len(lines(data / "part"))) == (1, True, 9)
    more = bettyc(*command, "--set", "run.steps=10", "--resume", "part")
    assert (more.code, more.err, len(lines(data / "part"))) == (0, "", 10)


def test_a_folder_without_a_checkpoint_cannot_go_on(bettyc: Bettyc, data: Path) -> None:
    assert bettyc("run", "good.mlo", "-o", "a").code == 0
    done = bettyc("run", "good.mlo", "--resume", "a")

    assert (done.code, done.err) == (2, "error: `a` has no checkpoint to go on from\n")
    assert len(lines(data / "a")) == 3


def test_resume_of_another_program_or_nothing(bettyc: Bettyc, data: Path) -> None:
    bettyc("run", "good.mlo", "-o", "a", "--set", "run.checkpoint=every(1, keep = 2)")
    kept = sorted(p.name for p in (data / "a" / "checkpoints").iterdir())
    other = bettyc("run", "good.mlo", "--resume", f"a/checkpoints/{kept[0]}")
    missing = bettyc("run", "good.mlo", "--resume", "nothing.ckpt")

    assert kept == ["step-000002.ckpt", "step-000003.ckpt"]
    assert (other.code, "MLO0803" in other.err) == (1, True)
    assert (missing.code, "nothing.ckpt" in missing.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("n = 1, keep = 2", [5, 6]),
        ("n = 2, keep = 0", [2, 4, 6]),
        ("n = 1, keep = 2, best = acc", [2, 5, 6]),
        ("n = 1, keep = 1, best = acc, mode = min", [4, 6]),
        ("n = 100, best = fit.loss, mode = min", [1]),
    ],
)
def test_the_last_checkpoints_and_the_best_stay(
    arguments: str, expected: list[int], tmp_path: Path
) -> None:
    """acc is best after the second update and worst after the fourth, one look is NaN."""
    from bettyc.model import Call, Ref
    from bettyc.runtime.run import Output

    class Saves:
        def save(self, path: str) -> str:
            Path(path).write_text("")
            return path

    words = dict(pair.split(" = ") for pair in arguments.split(", "))
    values: dict[str, Any] = {"n": int(words["n"]), "keep": int(words.get("keep", 3))}
    values |= (
        {"best": Ref(words["best"]), "mode": words.get("mode", "max")} if "best" in words else {}
    )
    setting = Call("every", (), tuple(values.items()))
    scores = [0.5, 0.9, float("nan"), 0.1, 0.8, 0.9]
    with Folder(str(tmp_path / "out"), "p") as folder:
        for step, score in enumerate(scores):
            output = Output(step, {"fit": 1.0 + step}, {"acc": score})
            folder.regular(Saves(), output, setting)  # type: ignore[arg-type]
    found = sorted((tmp_path / "out" / "checkpoints").iterdir())

    assert [int(p.stem.removeprefix("step-")) for p in found] == expected


def test_a_disk_that_is_full_while_a_checkpoint_is_written(data: Path) -> None:
    """Files may grow to 100 kB here, the checkpoint is larger: message, exit code, no debris."""
    program = """
level fit {
  var w : real[100_000] = zeros
  minimize sumsq(w - 1)
  optimizer = sgd(lr = 0.1)
}
run { steps = 3  checkpoint = every(1) }
"""
    (data / "large.mlo").write_text(program)
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
    code = (
        limit + "from bettyc.cli.main import run; sys.exit(run(['run', 'large.mlo', '-o', 'out']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=data, capture_output=True, text=True, check=False
    )

    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: cannot write ")
    assert "step-000001.ckpt" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((data / "out" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_that_raises_in_a_worker(workers: int, bettyc: Bettyc, data: Path) -> None:
    """Message, exit code, and the last good checkpoint as it was."""
    (data / "feed.py").write_text(
        """
import torch

class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, i):
        if i == 9:
            raise OSError("the disk is on fire")
        return {"x": torch.ones(3), "y": torch.tensor(1.0)}

def rows():
    return Rows()
"""
    )
    (data / "fed.mlo").write_text(
        f"""
dim n
extern source rows() : {{ x: real[n, 3], y: real[n] }} from "feed:rows"
data all from rows()
level fit {{
  var w : real[3] = zeros
  draw b from all(batch = 4, workers = {workers})
  minimize mean((b.x @ w - b.y)^2)
  optimizer = sgd(lr = 0.1)
}}
run {{ steps = 9  checkpoint = every(1) }}
"""
    )
    done = bettyc("run", "fed.mlo", "-o", "out")
    kept = sorted((data / "out" / "checkpoints").iterdir())

    assert done.code == 3
    assert "error: data set `all` raised OSError: " in done.err
    assert "the disk is on fire" in done.err
    assert "Traceback" not in done.err
    assert [p.name for p in kept] == ["step-000001.ckpt", "step-000002.ckpt"]
    again = bettyc("run", "fed.mlo", "-o", "more", "--resume", str(kept[-1]))
    assert "the disk is on fire" in again.err


def test_a_folder_that_cannot_be_written(bettyc: Bettyc, data: Path) -> None:
    (data / "file").write_text("")
    done = bettyc("run", "good.mlo", "-o", "file/out")

    assert done.code == 2
    assert done.err.startswith("error: ")
    assert "file/out" in done.err


def test_compile_then_run(bettyc: Bettyc, data: Path) -> None:
    written = bettyc("compile", "good.mlo", "--set", "run.steps=2")
    assert (written.code, written.err) == (0, "wrote good.mlop\n")
    assert bettyc("run", "good.mlop", "-o", "a").code == 0
    assert bettyc("run", "good.mlo", "-o", "b", "--set", "run.steps=2").code == 0

    assert lines(data / "a") == lines(data / "b")
    printed = bettyc("compile", "good.mlo", "--set", "run.steps=2", "-o", "-").out
    assert printed == (data / "good.mlop").read_text()


def test_a_plan_is_run_as_it_is(bettyc: Bettyc, data: Path) -> None:
    bettyc("compile", "good.mlo")
    (data / "garbage.mlop").write_text("{}")
    (data / "noise.mlop").write_bytes(bytes(range(200, 256)))

    assert "give --set" in bettyc("run", "good.mlop", "--set", "run.steps=2").err
    for name in ("garbage", "noise", "missing"):
        result = bettyc("run", f"{name}.mlop")
        assert result.code == 2
        assert name in result.err


def test_emitted_python_computes_the_objectives(bettyc: Bettyc, data: Path) -> None:
    import numpy

    printed = bettyc("compile", "--emit", "python", "good.mlo")
    assert printed.code == 0
    space: dict[str, Any] = {}
    exec(compile(printed.out, "emitted", "exec"), space)

    train = numpy.load(data / "train.npz")
    x, y = (torch.tensor(train[k]) for k in ("x", "y"))
    w, a = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([0.1, 0.2, 0.3]).double()
    given = {"train_x": x, "train_y": y, "fit_w": w, "tune_log_wd": a}
    names = space["fit"].__code__.co_varnames[: space["fit"].__code__.co_argcount]
    expected = ((x @ w - y) ** 2).mean() + (a.exp() * w**2).sum()
    torch.testing.assert_close(space["fit"](*(given[n] for n in names)), expected)


def test_log_says_how_often_and_where_else(
    bettyc: Bettyc, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """wandb stands for the loggers that are packages of others: only what is used is there."""
    logged: dict[int, dict[str, float]] = {}
    fake = types.ModuleType("wandb")
    fake.init = lambda **given: types.SimpleNamespace(  # type: ignore[attr-defined]
        id="one",
        log=lambda numbers, step: logged.update({step: numbers}),
        finish=lambda exit_code: logged.update({-1: {**given, "code": exit_code}}),
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    log = 'run.log=[every(2), csv, wandb(project = "mine")]'
    result = bettyc("run", "good.mlo", "-o", "out", "--set", "run.steps=5", "--set", log,
                    "--set", "run.eval=every(5)")  # fmt: skip

    assert (result.code, result.err) == (0, "")
    assert [line["step"] for line in lines(data / "out")] == [1, 3, 4]
    assert set(logged) == {1, 3, 4, -1}
    assert (logged[-1]["project"], logged[-1]["code"]) == ("mine", 0)
    assert logged[3]["loss/tune"] == lines(data / "out")[1]["loss"]["tune"]
    rows = (data / "out" / "metrics.csv").read_text().splitlines()
    assert rows[0] == "step,name,value"
    assert f"3,loss/tune,{logged[3]['loss/tune']}" in rows


def test_a_logger_that_is_not_installed(
    bettyc: Bettyc, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    result = bettyc("run", "good.mlo", "--set", "run.log=mlflow")

    assert result.code == 2
    assert "pip install mlflow" in result.err


def test_progress_is_shown_on_a_terminal(bettyc: Bettyc, data: Path) -> None:
    """A terminal that reads stderr; stdout stays clean."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "bettyc", "run", "good.mlo"],
        stdout=subprocess.PIPE, stderr=follower, cwd=data,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "220"},
    )  # fmt: skip
    os.close(follower)
    shown = b""
    try:
        while chunk := os.read(leader, 4096):
            shown += chunk
    except OSError:  # the other end is closed
        pass
    os.close(leader)
    out, _ = process.communicate()

    assert process.returncode == 0
    assert b"3/3" in shown
    assert all(word in shown for word in (b"loss", b"grad", b"residual", b"/s", b"left"))
    assert b"\x1b" not in out
    assert out.startswith(b"program  good\n")


def test_the_resolved_program_runs_from_the_folder_of_the_run(bettyc: Bettyc, data: Path) -> None:
    assert bettyc("run", "good.mlo", "-o", "out", "--set", "run.steps=2").code == 0
    assert bettyc("run", "out/resolved.mlo", "-o", "again").code == 0

    first, second = (load_file(data / f / "variables.safetensors") for f in ("out", "again"))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert 'npz("../train.npz")' in (data / "out" / "resolved.mlo").read_text()


def test_every_solve_leaves_its_certificate(bettyc: Bettyc, data: Path) -> None:
    """mu is not known of exp(log_wd), so there is no bound; a number in its place has one."""
    numbers = (
        (data / "good.mlo")
        .read_text()
        .replace("sum(exp(tune.log_wd) * w^2)", "0.1 * sumsq(w) + sum(exp(tune.log_wd) * w)")
    )
    (data / "bounded.mlo").write_text(numbers)
    cg = ("--set", "fit.hypergrad=cg(tol = 1e-12)", *FP64)
    assert bettyc("run", "good.mlo", "-o", "a", *cg).code == 0
    assert bettyc("run", "bounded.mlo", "-o", "b", *cg).code == 0
    (plain,), (bounded,) = (lines(data / name)[0]["solves"] for name in "ab")

    import numpy

    x = numpy.load(data / "train.npz")["x"]
    least = numpy.linalg.eigvalsh(2 * x.T @ x / 8 + 0.2 * numpy.eye(3))[0]
    assert (plain["strategy"], plain["converged"], plain["note"]) == ("cg", True, "")
    assert (plain["iterations"], plain["bound"]) == (3, None)
    assert plain["relative_residual"] < 1e-12
    assert bounded["min_ritz"] == pytest.approx(least, rel=1e-6)
    assert 0 <= bounded["bound"] < 1e-11
