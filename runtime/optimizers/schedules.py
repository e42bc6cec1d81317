"""Learning rates over a level's updates: torch's schedulers, run ahead on a dummy optimizer.

So a rate has torch's bits, rounding of the recursive forms included, and a schedule has no state
but the number of updates. Updates count from 0; a `total` of 0 means all updates of the run.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import lr_scheduler

from bettyc.model import Call

Make = Callable[[torch.optim.Optimizer, dict[str, Any]], lr_scheduler.LRScheduler]

SCHEDULES: dict[str, Make] = {
    "step": lambda o, a: lr_scheduler.StepLR(o, a["every"], a["gamma"]),
    "multistep": lambda o, a: lr_scheduler.MultiStepLR(o, list(a["milestones"]), a["gamma"]),
    "exponential": lambda o, a: lr_scheduler.ExponentialLR(o, a["gamma"]),
    "cosine": lambda o, a: lr_scheduler.CosineAnnealingLR(o, a["total"], a["min"]),
    "linear": lambda o, a: lr_scheduler.LinearLR(o, a["start"], a["end"], a["total"]),
    "polynomial": lambda o, a: lr_scheduler.PolynomialLR(o, a["total"], a["power"]),
    "warmup": lambda o, a: lr_scheduler.LambdaLR(o, lambda t: min(1.0, (t + 1) / a["steps"])),
}


class Rates:
    """The learning rate of update 0, 1, 2, ... for a base rate."""

    def __init__(self, schedule: Call, base: float, updates: int) -> None:
        options = dict(schedule.named)
        if options.get("total") == 0:
            options["total"] = max(updates, 1)
        dummy = torch.optim.SGD([torch.zeros(1)], lr=base)
        self._optimizer = dummy
        self._scheduler = SCHEDULES[schedule.name](dummy, options)
        self._known = [self._rate()]

    def __getitem__(self, update: int) -> float:
        while len(self._known) <= update:
            with warnings.catch_warnings():
                # the dummy optimizer never steps, which torch takes for a mistake
                warnings.simplefilter("ignore", UserWarning)
                self._scheduler.step()
            self._known.append(self._rate())
        return self._known[update]

    def _rate(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"])
