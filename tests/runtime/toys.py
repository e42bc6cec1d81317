"""Small programs, started from text: what the tests of the runtime run."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

import bettyc.api as bettyc
from bettyc.runtime.run import Run

RIDGE = """
mlo 0.1
dim n, d
data all : { x: real[n, d], y: real[n] } from memory()
split all into train = 0.5, val = 0.5 with (seed = 0)
level fit {
  var w : real[d] = zeros
  minimize 0.5 * mean((train.x @ w - train.y)^2) + 0.5 * sum(exp(tune.log_wd) * w^2)
  OPTIMIZER
}
level tune {
  var log_wd : real[d] = fill(-1)
  minimize mean((val.x @ fit*.w - val.y)^2)
  optimizer = sgd(lr = 0.1)
}
run { steps = 4  precision = fp64 }
"""


def start(text: str, data: Any = None, externs: Any = None, **options: Any) -> Run:
    """A run of a program given as text; MloError where it has errors.

    opt = 0 is plain autograd, which has torch's bits.
    """
    changes = options.pop("set", None) or {}
    program = _checked(text, tuple(changes.items()))
    plan = program.compile(data=data, externs=externs, opt=options.pop("opt", 1))
    return plan.start(**options)


@cache
def _checked(text: str, changes: tuple[tuple[str, Any], ...]) -> bettyc.Program:
    program = bettyc.loads(text, set=dict(changes))
    program.check().raise_if_errors()
    return program


def ridge(optimizer: str, **options: Any) -> Run:
    return start(RIDGE.replace("OPTIMIZER", optimizer), {"all": regression()}, **options)


def regression(n: int = 40, d: int = 5) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    w = torch.randn(d, generator=g, dtype=torch.float64)
    return {"x": x, "y": x @ w + 0.5 * torch.randn(n, generator=g, dtype=torch.float64)}


def classification(n: int = 60, d: int = 4, classes: int = 2) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(4)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    w = torch.randn(d, classes, generator=g, dtype=torch.float64)
    noise = 0.5 * torch.randn(n, classes, generator=g, dtype=torch.float64)
    return {"x": x, "y": (x @ w + noise).argmax(1)}


def parts(run: Run, name: str) -> dict[str, Tensor]:
    """The columns of a data set or split part."""
    return run.sources[name].whole()
