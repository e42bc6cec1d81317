"""Tasks of maml_sinusoid.mlo: sine waves (Finn, Abbeel, Levine 2017, section 5.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Task = dict[str, dict[str, Tensor]]


def sinusoids(count: int, shots: int, queries: int, seed: int) -> list[Task]:
    """`count` tasks, each with `shots` points to adapt to and `queries` points to be judged on.

    Amplitudes are uniform in [0.1, 5], phases in [0, pi], points in [-5, 5].
    """
    draw = torch.Generator().manual_seed(seed)
    return [_task(draw, shots, queries) for _ in range(count)]


def _task(draw: torch.Generator, shots: int, queries: int) -> Task:
    amplitude = 0.1 + 4.9 * torch.rand((), generator=draw)
    phase = math.pi * torch.rand((), generator=draw)

    def points(number: int) -> dict[str, Tensor]:
        x = 10 * torch.rand(number, 1, generator=draw) - 5
        return {"x": x, "y": amplitude * torch.sin(x + phase)}

    return {"support": points(shots), "query": points(queries)}
