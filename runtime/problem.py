"""A level's objective as a function of its own flat variables alone: what the solvers minimise."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bettyc.runtime.objective import Frame, Objective
from bettyc.runtime.products import Products, gradients, products


class Problem:
    """`objective` with everything but its own level held at `theta` and `frame`."""

    def __init__(self, objective: Objective, theta: Mapping[str, Tensor], frame: Frame) -> None:
        self.objective = objective
        self.theta = theta
        self.frame = frame

    def _at(self, own: Tensor) -> dict[str, Tensor]:
        return {**self.theta, self.objective.level: own}

    def gradient(self, own: Tensor) -> tuple[Tensor, Tensor]:
        """Value, scalar, and gradient, shape (size,)."""
        level = self.objective.level
        value, found = gradients(self.objective, self._at(own), self.frame, [level])
        return value, found[level]

    def value(self, own: Tensor) -> Tensor:
        """The value alone, without a graph."""
        with torch.no_grad():
            return self.objective(self._at(own), self.frame)

    def hessian(self, own: Tensor) -> Products:
        """Products with the second derivative at `own`."""
        return products(self.objective, self._at(own), self.frame)
