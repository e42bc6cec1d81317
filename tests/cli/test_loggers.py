"""TensorBoard, Weights & Biases and MLflow, offline: what a run logged is read back with
the package's own reader or message types. Skipped where a package is not installed.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.filterwarnings("ignore")
PROGRAM = """\
level fit {
  var w : real = 0
  minimize (w - exp(tune.t))^2
}

level tune {
  var t : real = 0
  minimize (fit*.w - 1.8)^2
  optimizer = sgd(lr = 0.1)
}

metric gap = fit.w - 1.8

run { steps = 6  eval = every(2) }
"""


def run(folder: Path, log: str, *more: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: these packages keep much that is global."""
    (folder / "small.mlo").write_text(PROGRAM)
    settings = ("--set", f"run.log=[every(2), {log}]", *more)
    return subprocess.run(
        [sys.executable, "-m", "bettyc", "run", "small.mlo", *settings],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "WANDB_MODE": "offline"},
    )  # fmt: skip


def expected(folder: Path) -> dict[tuple[str, int], float]:
    """Every number of metrics.jsonl by name and step."""
    found = {}
    for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        for group, kind in (("loss", "loss"), ("metrics", "metric"), ("grad_norm", "grad_norm")):
            found.update({(f"{kind}/{k}", line["step"]): v for k, v in line[group].items()})
    assert len(found) == 3 * 4
    return found


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder))
    reader.Reload()
    names = reader.Tags()["scalars"]
    return {(name, e.step): e.value for name in names for e in reader.Scalars(name)}


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    done = run(tmp_path, "tensorboard", "-o", "out")
    inside = run(tmp_path, 'tensorboard("boards")', "-o", "other")

    assert (done.returncode, done.stderr) == (0, "")
    assert inside.returncode == 0
    numbers = expected(tmp_path / "out")
    # its file holds single precision
    assert scalars(tmp_path / "out") == pytest.approx(numbers, rel=1e-6)
    assert scalars(tmp_path / "boards" / "other") == pytest.approx(numbers, rel=1e-6)


def records(data: bytes) -> Iterator[bytes]:
    """The messages of a .wandb file, of which the package has no reader in Python: the log format
    of LevelDB, blocks of 32 KiB with pieces of (crc, length, type), after 7 bytes of header.
    """
    at, message = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        message += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield message
            message = b""


def test_wandb(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    done = run(tmp_path, 'wandb(project = "mine")', "-o", "out")
    assert done.returncode == 0, done.stderr

    (path,) = (tmp_path / "out").glob("wandb/offline-run-*/*.wandb")
    found: dict[tuple[str, int], float] = {}
    project, code = "", None
    for data in records(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            project = record.run.project
        elif kind == "exit":
            code = record.exit.exit_code
        elif kind == "history":
            items = {i.key or "/".join(i.nested_key): json.loads(i.value_json)
                     for i in record.history.item}  # fmt: skip
            step = items.get("_step", record.history.step.num)
            found.update({(k, step): v for k, v in items.items() if k[0] != "_"})
    assert (project, code) == ("mine", 0)
    assert found == pytest.approx(expected(tmp_path / "out"), rel=1e-12)


def twice(folder: Path, log: str) -> None:
    """Four updates, and the rest of the six in the same folder."""
    often = ("--set", "run.checkpoint=every(2)")
    first = run(folder, log, "-o", "out", "--set", "run.steps=4", *often)
    second = run(folder, log, "--resume", "out", *often)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr


def test_wandb_knows_a_run_that_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    twice(tmp_path, 'wandb(project = "mine")')
    known = json.loads((tmp_path / "out" / "loggers.json").read_text())["wandb"]

    files = [p.name for p in (tmp_path / "out").glob("wandb/offline-run-*/*.wandb")]
    assert files == [f"run-{known}.wandb"] * 2


def test_mlflow_knows_a_run_that_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    twice(tmp_path, 'mlflow(experiment = "mine", folder = "store")')
    info, found = history(f"sqlite:///{tmp_path}/store/mlflow.db")

    assert (info.status, info.run_name) == ("FINISHED", "out")
    assert found == pytest.approx(expected(tmp_path / "out"), rel=1e-12)


def history(uri: str) -> tuple[Any, dict[tuple[str, int], float]]:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "mine"]
    (entry,) = client.search_runs([experiment.experiment_id])
    found = {
        (m.key, m.step): m.value
        for name in entry.data.metrics
        for m in client.get_metric_history(entry.info.run_id, name)
    }
    return entry.info, found


@pytest.mark.parametrize("address", [False, True])
def test_mlflow(address: bool, tmp_path: Path) -> None:
    """In a folder, and in a data base by its address."""
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    uri = f"sqlite:///{tmp_path}/store/mlflow.db"
    (tmp_path / "store").mkdir()
    store = uri if address else "store"
    done = run(tmp_path, f'mlflow(experiment = "mine", folder = "{store}")', "-o", "out")

    assert done.returncode == 0, done.stderr
    info, found = history(uri)
    assert (info.status, info.run_name) == ("FINISHED", "out")
    assert found == pytest.approx(expected(tmp_path / "out"), rel=1e-12)


def test_mlflow_is_told_of_a_failure(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    log = 'mlflow(experiment = "mine", folder = "store")'
    done = run(tmp_path, log, "--set", "tune.optimizer.lr=1e30", "-o", "out")

    assert done.returncode == 3
    assert history(f"sqlite:///{tmp_path}/store/mlflow.db")[0].status == "FAILED"


def test_a_store_that_is_none_is_no_fault_of_ours(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    done = run(tmp_path, 'mlflow(folder = "nonsense://here")', "-o", "out")

    assert done.returncode == 2
    assert "`log = mlflow` cannot begin: " in done.stderr
    assert "Traceback" not in done.stderr
