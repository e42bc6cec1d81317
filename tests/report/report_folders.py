"""A program with two levels, and lines of metrics written by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

TWO = """\
level fit {
  var w : real = 0
  minimize (w - 1)^2 + exp(tune.t) * w^2
}

level tune {
  var t : real = 0
  minimize (fit*.w - 0.8)^2
  optimizer = sgd(lr = 1)
}

metric gap = (fit.w - 0.8)^2

run { steps = 4 }
"""
Write = Callable[..., Path]


def line(step: int, loss: float | None, **more: Any) -> dict[str, Any]:
    return {"step": step, "loss": {"fit": loss}, "metrics": {}, "grad_norm": {}, "solves": [],
            **more}  # fmt: skip
