"""Learning rates over a level's updates: torch's schedulers, run ahead on a dummy optimizer.

So a rate has torch's bits, rounding of the recursive forms included, and a schedule has no state
but the number of updates. Updates count from 0; a `total` of 0 means all updates of the run.
`plateau` alone looks at the loss; it has a state.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch.optim import lr_scheduler, swa_utils

from bettyc import schedules
from bettyc.diagnostics.registry import report
from bettyc.failures import InputError
from bettyc.model import Call

Options = Mapping[str, Any]
Make = Callable[[torch.optim.Optimizer, Options], lr_scheduler.LRScheduler]


def _cyclic(o: torch.optim.Optimizer, a: Options) -> lr_scheduler.LRScheduler:
    base = o.param_groups[0]["lr"]
    down = a["down"] or None
    return lr_scheduler.CyclicLR(
        o,
        base,
        a["max"],
        a["up"],
        down,
        a["mode"],
        a["gamma"],
        cycle_momentum=a["cycle_momentum"],
        base_momentum=a["base_momentum"],
        max_momentum=a["max_momentum"],
    )


def _onecycle(o: torch.optim.Optimizer, a: Options) -> lr_scheduler.LRScheduler:
    largest = a["max"] or o.param_groups[0]["lr"]
    return lr_scheduler.OneCycleLR(
        o,
        largest,
        total_steps=a["total"],
        pct_start=a["start"],
        anneal_strategy=a["anneal"],
        cycle_momentum=a["cycle_momentum"],
        base_momentum=a["base_momentum"],
        max_momentum=a["max_momentum"],
        three_phase=a["three_phase"],
        div_factor=a["div"],
        final_div_factor=a["final_div"],
    )


def _sequential(o: torch.optim.Optimizer, a: Options) -> lr_scheduler.LRScheduler:
    return lr_scheduler.SequentialLR(o, _parts(o, a), list(a["milestones"]))


def _function(a: Options) -> Callable[[int], float]:
    """The `extern fn` that a schedule names. Raises InputError (MLO0208)."""
    name = a["function"]
    call = a["functions"].get(name)
    if call is None:
        notes = [f"functions from Python: {', '.join(a['functions']) or 'none'}"]
        raise InputError(report("MLO0208", None, name=name, notes=notes))
    return lambda update: float(call(update))


def _chained(o: torch.optim.Optimizer, a: Options) -> lr_scheduler.LRScheduler:
    return lr_scheduler.ChainedScheduler(_parts(o, a), optimizer=o)


def _parts(o: torch.optim.Optimizer, a: Options) -> list[lr_scheduler.LRScheduler]:
    known = {"functions": a["functions"]}
    return [
        SCHEDULES[call.name](o, {**filled(call, a["updates"]), **known}) for call in a["schedules"]
    ]


SCHEDULES: dict[str, Make] = {
    "step": lambda o, a: lr_scheduler.StepLR(o, a["every"], a["gamma"]),
    "multistep": lambda o, a: lr_scheduler.MultiStepLR(o, list(a["milestones"]), a["gamma"]),
    "exponential": lambda o, a: lr_scheduler.ExponentialLR(o, a["gamma"]),
    "cosine": lambda o, a: lr_scheduler.CosineAnnealingLR(o, a["total"], a["min"]),
    "linear": lambda o, a: lr_scheduler.LinearLR(o, a["start"], a["end"], a["total"]),
    "polynomial": lambda o, a: lr_scheduler.PolynomialLR(o, a["total"], a["power"]),
    "warmup": lambda o, a: lr_scheduler.LambdaLR(o, lambda t: min(1.0, (t + 1) / a["steps"])),
    "constant": lambda o, a: lr_scheduler.ConstantLR(o, a["factor"], a["total"]),
    "restarts": lambda o, a: lr_scheduler.CosineAnnealingWarmRestarts(
        o, a["period"], a["mult"], a["min"]
    ),
    "cyclic": _cyclic,
    "onecycle": _onecycle,
    "sequential": _sequential,
    "chained": _chained,
    "factor": lambda o, a: lr_scheduler.LambdaLR(o, _function(a)),
    "multiply": lambda o, a: lr_scheduler.MultiplicativeLR(o, _function(a)),
    "swa": lambda o, a: swa_utils.SWALR(o, a["lr"], a["steps"], a["anneal"]),
}


def filled(call: Call, updates: int) -> dict[str, Any]:
    """The options of a schedule by name, defaults filled in; `total` = 0 becomes `updates`."""
    options: dict[str, Any] = {f.name: f.default for f in fields(schedules.SCHEDULES[call.name])}
    options |= dict(zip(list(options), call.positional, strict=False)) | dict(call.named)
    if options.get("total") == 0:
        options["total"] = max(updates, 1)
    return {**options, "updates": updates}


class Rates:
    """The learning rate of update 0, 1, 2, ... for a base rate. Past its last update a schedule
    that ends (onecycle) keeps its last rate.
    """

    def __init__(
        self,
        schedule: Call,
        base: float,
        updates: int,
        momentum: Mapping[str, Any] | None = None,
        functions: Mapping[str, Callable[[int], Any]] | None = None,
    ) -> None:
        options = {**filled(schedule, updates), "functions": functions or {}}
        self._last = options["total"] - 1 if schedule.name == "onecycle" else None
        self._optimizer = _dummy(base, momentum or {})
        self._cycled = _cycled(options, momentum or {})
        with warnings.catch_warnings():
            # the dummy optimizer never steps, which torch takes for a mistake
            warnings.simplefilter("ignore", UserWarning)
            self._scheduler = SCHEDULES[schedule.name](self._optimizer, options)
        self._known = [self._rate()]
        self._momenta = [self._momentum()]

    def __getitem__(self, update: int) -> float:
        return self._known[self._reach(update)]

    def momentum(self, update: int) -> dict[str, Any]:
        """The options besides the learning rate that the schedule moves: `momentum` or `betas`."""
        return self._momenta[self._reach(update)] if self._cycled else {}

    def _reach(self, update: int) -> int:
        """Run the scheduler on to an update; its number, or the last of a schedule that ends."""
        if self._last is not None:
            update = min(update, self._last)
        if len(self._known) <= update:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                while len(self._known) <= update:
                    self._scheduler.step()
                    self._known.append(self._rate())
                    self._momenta.append(self._momentum())
        return update

    def _momentum(self) -> dict[str, Any]:
        return {self._cycled: self._optimizer.param_groups[0][self._cycled]} if self._cycled else {}

    def _rate(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"])


def _dummy(base: float, options: Mapping[str, Any]) -> torch.optim.Optimizer:
    """An optimizer that never steps, with the momentum that a schedule may cycle."""
    if "betas" in options:
        return torch.optim.Adam([torch.zeros(1)], lr=base, betas=options["betas"])
    return torch.optim.SGD([torch.zeros(1)], lr=base, momentum=options.get("momentum", 0.0))


def _cycled(options: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """The option that `cycle_momentum` moves, as torch chooses it."""
    if not options.get("cycle_momentum"):
        return ""
    return "betas" if "betas" in known else "momentum"


class Plateau:
    """A rate that falls when the loss no longer does; `look` once per update of the top level."""

    def __init__(self, schedule: Call, base: float) -> None:
        options = filled(schedule, 0)
        self._optimizer = torch.optim.SGD([torch.zeros(1)], lr=base)
        self._scheduler = lr_scheduler.ReduceLROnPlateau(
            self._optimizer,
            factor=options["factor"],
            patience=options["patience"],
            threshold=options["threshold"],
            mode=options["mode"],
            threshold_mode=options["threshold_mode"],
            eps=options["eps"],
            cooldown=options["cooldown"],
            min_lr=options["min"],
        )

    def __getitem__(self, update: int) -> float:
        return float(self._optimizer.param_groups[0]["lr"])

    def look(self, loss: float) -> None:
        """Take the level's newest loss, smaller being better."""
        self._scheduler.step(loss)

    def state(self) -> dict[str, float]:
        """Numbers from which `restore` continues."""
        s = self._scheduler
        return {
            "lr": self[0],
            "best": float(s.best),
            "bad": s.num_bad_epochs,
            "cooldown": s.cooldown_counter,
            "epoch": s.last_epoch,
        }

    def restore(self, state: Mapping[str, float]) -> None:
        s = self._scheduler
        self._optimizer.param_groups[0]["lr"] = state["lr"]
        s.best, s.num_bad_epochs = state["best"], int(state["bad"])
        s.cooldown_counter, s.last_epoch = int(state["cooldown"]), int(state["epoch"])
