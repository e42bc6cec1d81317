"""Loss scaling for levels in fp16: gradients that would vanish in half precision are multiplied up.

    g = grad(s * loss) / s;   an update of which a g is not finite is left out and s is halved;
    after `interval` updates in a row that were made, s is doubled

The rule and the numbers are torch.amp.GradScaler's. s lives in the run's memory, so that
checkpoints keep it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bettyc.failures import RunError
from bettyc.runtime.state import State

SMALLEST = 2.0**-14


@dataclass
class Scaler:
    """The scale of one level."""

    level: str
    state: State
    first: float = 65536.0
    interval: int = 2000

    @property
    def _key(self) -> str:
        return f":scale:{self.level}"

    @property
    def scale(self) -> float:
        return float(self._held()[0])

    def _held(self) -> Tensor:
        """The scale, and how many updates in a row were made with it."""
        known = self.state.memory.get(self._key)
        return torch.tensor([self.first, 0.0], dtype=torch.float64) if known is None else known

    def note(self, fine: bool) -> None:
        """Take note of whether the gradients of an update were finite, so that it was made. Raises
        RunError where no scale helps.
        """
        scale, made = self._held().tolist()
        if not fine:
            scale, made = scale / 2, 0.0
            if scale < SMALLEST:
                raise RunError(
                    f"the gradients of level `{self.level}` overflow fp16 at every scale;"
                    " choose bf16, or lower its learning rate"
                )
        else:
            made += 1
            if made == self.interval:
                scale, made = scale * 2, 0.0
        self.state.memory[self._key] = torch.tensor([scale, made], dtype=torch.float64)
