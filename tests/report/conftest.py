"""Folders of runs, written by hand or by short runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bettyc.cli.main import run

sys.path.insert(0, str(Path(__file__).parent))

from report_folders import TWO, Write


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write(name, *lines)`: a folder whose metrics are these objects, or these texts as is."""

    def folder(name: str, *lines: Any) -> Path:
        path = tmp_path / name
        path.mkdir()
        text = "".join(x if isinstance(x, str) else json.dumps(x) + "\n" for x in lines)
        (path / "metrics.jsonl").write_text(text)
        return path

    return folder


@pytest.fixture(scope="session")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs `a` and `b <i>`, which differ in a learning rate."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "two.mlo").write_text(TWO)
    command = ["run", str(folder / "two.mlo"), "-q", "-o"]
    assert run([*command, str(folder / "a")]) == 0
    assert run([*command, str(folder / "b <i>"), "--set", "tune.optimizer.lr=0.5"]) == 0
    return folder
