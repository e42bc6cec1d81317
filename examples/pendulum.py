"""Episodes of Gymnasium's Pendulum, for pendulum.mlo."""

from __future__ import annotations

from itertools import combinations_with_replacement

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

TORQUE, REWARD = 2.0, 16.0  # the largest torque; about the largest cost of a step
SCALE = torch.tensor([1.0, 1.0, 4.0])


def features(states: Tensor) -> Tensor:
    """All monomials to degree 3 of states of shape (n, 3): shape (n, 20)."""
    x = torch.cat([torch.ones_like(states[:, :1]), states], 1)
    chosen = list(combinations_with_replacement(range(4), 3))
    return torch.stack([x[:, list(k)].prod(1) for k in chosen], 1)


def rollouts(policy: Tensor, spread: float, copies: int, steps: int) -> dict[str, Tensor]:
    """One episode of `steps` steps of each of `copies` pendulums, from new starts. The torque is
    normal, with mean tanh(features @ policy) and deviation `spread`, in parts of the largest.

    Rows are ordered by step, then by pendulum. f, f2: features before and after an action a, shapes
    (copies * steps, 20); r: the reward, in sixteenths. `score` is the mean return of an episode.
    """
    pendulums = [gym.make("Pendulum-v1", max_episode_steps=steps).unwrapped for _ in range(copies)]
    seeds = torch.randint(2**31 - 1, (copies,)).tolist()
    states = np.stack([p.reset(seed=seed)[0] for p, seed in zip(pendulums, seeds, strict=True)])
    f = features(torch.tensor(states, dtype=policy.dtype) / SCALE.to(policy))
    rows: list[tuple[Tensor, ...]] = []
    for _ in range(steps):
        a = torch.tanh(f @ policy) + spread * torch.randn(copies).to(policy)
        moves = [p.step(np.array([TORQUE * float(u)])) for p, u in zip(pendulums, a, strict=True)]
        r = torch.tensor([float(move[1]) / REWARD for move in moves], dtype=policy.dtype)
        after = torch.tensor(np.stack([move[0] for move in moves]), dtype=policy.dtype)
        f2 = features(after / SCALE.to(policy))
        rows.append((f, a, r, f2))
        f = f2
    f, a, r, f2 = (torch.cat(column) for column in zip(*rows, strict=True))
    return {"f": f, "a": a, "r": r, "f2": f2, "score": REWARD * r.sum() / copies}


def judged(policy: Tensor) -> Tensor:
    """The mean return of ten episodes without noise, from the same starts every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return rollouts(policy, 0.0, 10, 200)["score"]
