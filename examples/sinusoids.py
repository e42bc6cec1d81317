"""Tasks of maml_sinusoid.mlo: sine waves (Finn, Abbeel, Levine 2017, section 5.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Task = dict[str, dict[str, Tensor]]


class Sinusoids(Sequence[Task]):
    """`count` tasks, each with `shots` points to adapt to and `queries` points to be judged on.

    Amplitudes are uniform in [0.1, 5], phases in [0, pi], points in [-5, 5]. A task follows from
    its number and the seed, and is made when it is asked for.
    """

    def __init__(self, count: int, shots: int, queries: int, seed: int) -> None:
        self.count, self.shots, self.queries, self.seed = count, shots, queries, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Task:
        if not 0 <= index < self.count:
            raise IndexError(index)
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        amplitude, phase = torch.rand(2, generator=draw).tolist()
        x = 10 * torch.rand(self.shots + self.queries, 1, generator=draw) - 5
        y = (0.1 + 4.9 * amplitude) * torch.sin(x + math.pi * phase)
        n = self.shots
        return {"support": {"x": x[:n], "y": y[:n]}, "query": {"x": x[n:], "y": y[n:]}}
