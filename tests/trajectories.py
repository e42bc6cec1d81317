"""A recorded inner loop for tests: any update rule, any start, any learning rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bettyc.runtime.objective import Frame

State = dict[str, Tensor]
Update = Callable[[Tensor, Tensor, State, Tensor], tuple[Tensor, State]]


def sgd(theta: Tensor, grad: Tensor, state: State, lr: Tensor) -> tuple[Tensor, State]:
    return theta - lr * grad, state


def momentum(theta: Tensor, grad: Tensor, state: State, lr: Tensor) -> tuple[Tensor, State]:
    speed = 0.5 * state["speed"] + grad
    return theta - lr * speed, {"speed": speed}


@dataclass(frozen=True)
class Steps:
    """`length` steps of `update` from `start`; start and lr may be functions of all variables."""

    length: int
    start: Tensor | Callable[[Mapping[str, Tensor]], Tensor]
    lr: float | Callable[[Mapping[str, Tensor]], Tensor]
    frames: Sequence[Frame]
    update: Update = sgd
    state: State | None = None
    seen: Sequence[Mapping[str, Tensor]] = ()
    group: int = 1

    def begin(self, others: Mapping[str, Tensor]) -> tuple[Tensor, State]:
        start = self.start(others) if callable(self.start) else self.start
        return start, dict(self.state or {})

    def frame(self, k: int) -> Frame:
        return self.frames[k % len(self.frames)]

    def below(self, k: int) -> Mapping[str, Tensor]:
        return self.seen[k] if self.seen else {}

    def gradient(self, k: int) -> None:
        return None

    def advance(
        self, k: int, theta: Tensor, grad: Tensor, state: State, others: Mapping[str, Tensor]
    ) -> tuple[Tensor, State]:
        lr = self.lr(others) if callable(self.lr) else torch.tensor(self.lr, dtype=theta.dtype)
        return self.update(theta, grad, state, lr)
