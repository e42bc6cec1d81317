"""Running the command line inside the test process, in a folder of its own."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bettyc.cli.main import run

GOOD = """\
mlo 0.1
dim n = 8, d = 3

data train : { x: real[n, d], y: real[n] } from npz("train.npz")
data val : { x: real[n, d], y: real[n] } from npz("val.npz")

def error(w, s) = mean((s.x @ w - s.y)^2)

level fit {
  var w : real[d] = zeros
  minimize error(w, train) + sum(exp(tune.log_wd) * w^2)
}

level tune {
  var log_wd : real[d] = zeros
  minimize error(fit*.w, val)
  optimizer = adam(lr = 0.1)
}

metric val_error = error(fit.w, val)

run { steps = 3 }
profile one { run.steps = 1 }
"""
FORGOTTEN = GOOD.replace("fit*.w", "fit.w")
WRONG = GOOD.replace("error(fit*.w, val)", "error(fit*.w, vall)")


@dataclass
class Result:
    """What a command did."""

    code: int
    out: str
    err: str


Bettyc = Callable[..., Result]


class _Input(io.StringIO):
    """Standard input with the bytes underneath."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.buffer = io.BytesIO(text.encode())  # type: ignore[misc]


@pytest.fixture
def bettyc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Bettyc:
    """Run `bettyc ARGUMENTS` in a new folder that holds good.mlo, forgotten.mlo (without its star)
    and wrong.mlo (16:26 names what is not there).
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NO_COLOR", raising=False)
    (tmp_path / "good.mlo").write_text(GOOD)
    (tmp_path / "forgotten.mlo").write_text(FORGOTTEN)
    (tmp_path / "wrong.mlo").write_text(WRONG)

    def call(*arguments: str, stdin: str = "") -> Result:
        monkeypatch.setattr(sys, "stdin", _Input(stdin))
        code = run(list(arguments))
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The two data files of good.mlo; the folder that they are in."""
    import numpy

    draw = numpy.random.default_rng(0)
    for name in ("train", "val"):
        x = draw.normal(size=(8, 3))
        y = x @ [1.0, -2.0, 0.5] + 0.1 * draw.normal(size=8)
        numpy.savez(tmp_path / f"{name}.npz", x=x, y=y)
    return tmp_path
