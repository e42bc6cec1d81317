"""Averages of a level's variables over its updates: what metrics and exports see of it.

    average = ema(0.999)                 a <- lerp(theta, a, decay), beginning with the first update
    average = swa(start = 100, every = 5)  the mean over every fifth update after the hundredth

The arithmetic is torch.optim.swa_utils.AveragedModel's, module buffers included (numbers that are
not real, such as counters, are taken as they are). An average lives in the run's memory, so that
checkpoints keep it; a level whose inner loop starts anew begins a new one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bettyc.model import Call
from bettyc.runtime.state import State


class Average:
    """The average of one level; `call` is the setting with all its arguments."""

    def __init__(self, level: str, call: Call, state: State) -> None:
        self.level = level
        self.kind = call.name
        self.options: dict[str, Any] = dict(call.named)
        self.state = state
        self._head = f":average:{level}"

    @property
    def theta(self) -> Tensor | None:
        """The averaged variables, shape of theta; None before there are any."""
        return self.state.memory.get(self._head)

    def buffers(self) -> dict[str, dict[str, Tensor]]:
        """The averaged buffers of the level's networks, by "level.net"."""
        found: dict[str, dict[str, Tensor]] = {}
        for key in self._networks() if self.theta is not None else ():
            names = self.state.buffers[key]
            found[key] = {n: self.state.memory[f"{self._head}:{key}:{n}"] for n in names}
        return found

    def look(self) -> None:
        """Take the variables after an update into the average."""
        updates = self.state.updates[self.level]
        if self.kind == "swa":
            over = updates - int(self.options["start"])
            if over <= 0 or (over - 1) % int(self.options["every"]):
                return
        memory, count = self.state.memory, self._count()
        self._take(self._head, self.state.theta[self.level], count)
        for key in self._networks():
            for name, buffer in self.state.buffers[key].items():
                self._take(f"{self._head}:{key}:{name}", buffer, count)
        memory[f"{self._head}:count"] = torch.tensor(count + 1)

    def forget(self) -> None:
        """Begin anew."""
        for key in [k for k in self.state.memory if k.startswith(f"{self._head}")]:
            if key == self._head or key.startswith(f"{self._head}:"):
                del self.state.memory[key]

    def _count(self) -> int:
        held = self.state.memory.get(f"{self._head}:count")
        return 0 if held is None else int(held)

    def _take(self, key: str, value: Tensor, count: int) -> None:
        memory = self.state.memory
        if not count or not value.is_floating_point():
            memory[key] = value.detach().clone()
            return
        weight = 1 / (count + 1) if self.kind == "swa" else 1 - float(self.options["decay"])
        memory[key] = torch.lerp(memory[key], value.detach(), weight)

    def _networks(self) -> list[str]:
        return [k for k in self.state.buffers if k.startswith(f"{self.level}.")]
