"""The options of a level's optimizer at each update: numbers, a schedule, or variables of other
levels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from bettyc.model import Call, Formula
from bettyc.optimizers import OPTIMIZERS
from bettyc.runtime.optimizers.schedules import Plateau, Rates


@dataclass(frozen=True)
class Clock:
    """The number of an update as a tensor, for updates that are recorded and launched again: what
    depends on it is computed on the device. rates: that of each schedule, by the id of its Options.
    """

    update: Tensor
    rates: Mapping[int, Tensor]


Evaluate = Callable[[Mapping[str, Tensor]], Tensor]


class Options:
    """`at(update, theta)` gives the options by name; those that are formulas as tensors,
    differentiable in theta.

    formulas: the functions behind the options that are formulas, by option. updates: of the level
    in the whole run, for schedules without a `total`. groups: the options of parameter groups that
    differ, one mapping per group; what they give stands under `groups`. functions: from Python,
    for schedules that name one.
    """

    def __init__(
        self,
        optimizer: Call,
        schedule: Call | None,
        formulas: Mapping[str, Evaluate],
        updates: int,
        groups: Sequence[Mapping[str, Any]] = (),
        functions: Mapping[str, Callable[[int], Any]] | None = None,
    ) -> None:
        defaults = {f.name: f.default for f in fields(OPTIMIZERS[optimizer.name])}
        self.fixed: dict[str, Any] = {
            **defaults,
            **{k: v for k, v in optimizer.named if not isinstance(v, Formula)},
        }
        self.formulas = dict(formulas)
        self.rates: Rates | Plateau | None = None
        if schedule is not None:
            base = 1.0 if "lr" in self.formulas else float(self.fixed["lr"])
            plateau = schedule.name == "plateau"
            self.rates = (
                Plateau(schedule, base)
                if plateau
                else Rates(schedule, base, updates, self.fixed, functions)
            )
        self.groups = [
            Options(
                Call(optimizer.name, (), tuple(({**dict(optimizer.named), **other}).items())),
                schedule,
                {k: v for k, v in formulas.items() if k not in other},
                updates,
                functions=functions,
            )
            for other in groups
        ]
        if self.groups:
            self.fixed["groups"] = tuple(g.fixed for g in self.groups)

    def at(self, update: int | Clock, theta: Mapping[str, Tensor]) -> dict[str, Any]:
        if self.rates is None and not self.formulas:
            return self.fixed
        options = dict(self.fixed)
        for name, evaluate in self.formulas.items():
            options[name] = evaluate(theta)
        if self.rates is not None:
            rate = update.rates[id(self)] if isinstance(update, Clock) else self.rates[update]
            options["lr"] = options["lr"] * rate if "lr" in self.formulas else rate
            if isinstance(self.rates, Rates) and not isinstance(update, Clock):
                options |= self.rates.momentum(update)
        if self.groups:
            options["groups"] = tuple(g.at(update, theta) for g in self.groups)
        return options

    def scheduled(self, update: int) -> dict[int, float]:
        """The rate of each schedule at an update, for a `Clock`."""
        found = [o for o in (self, *self.groups) if o.rates is not None]
        return {id(o): float(o.rates[update]) for o in found if o.rates is not None}

    @property
    def plateaus(self) -> list[Plateau]:
        """The schedules that look at the loss: the level's own and those of its groups."""
        found = [o.rates for o in (self, *self.groups)]
        return [rates for rates in found if isinstance(rates, Plateau)]

    def lr(self, update: int, theta: Mapping[str, Tensor]) -> float | Tensor | None:
        """The learning rate, None where the optimizer has none."""
        value = self.at(update, theta).get("lr")
        return value.detach() if isinstance(value, torch.Tensor) else value
