"""Episodes of Gymnasium's CartPole, for actor_critic.mlo and reward_shaping.mlo."""

from __future__ import annotations

from itertools import combinations_with_replacement

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

# Position, speed, angle and angular speed as they lie in a balanced episode.
SCALE = torch.tensor([2.4, 2.0, 0.2, 2.0])


def features(states: Tensor) -> Tensor:
    """All monomials to degree 3 of states of shape (n, 4): shape (n, 35)."""
    x = torch.cat([torch.ones_like(states[:, :1]), states], 1)
    chosen = list(combinations_with_replacement(range(5), 3))
    return torch.stack([x[:, list(k)].prod(1) for k in chosen], 1)


def rollouts(policy: Tensor, copies: int, steps: int, again: bool = True) -> dict[str, Tensor]:
    """`steps` steps of each of `copies` poles, all from a new start. The logits of the
    actions are s @ policy, with policy of shape (4, 2).

    Rows are ordered by step, then by pole. s, s2: scaled states, shape (copies * steps, 4), before
    and after an action a; f, f2: their features. r: the reward; done: 1 where the pole has fallen.
    A pole that falls starts again, or with again = False rests. `score` is the mean length of the
    first episodes: at most
    `steps`, and the return without discount.
    """
    poles = [gym.make("CartPole-v1", max_episode_steps=steps) for _ in range(copies)]
    seeds = torch.randint(2**31 - 1, (copies,)).tolist()
    states = [pole.reset(seed=seed)[0] for pole, seed in zip(poles, seeds, strict=True)]
    rows: list[tuple[Tensor, ...]] = []
    first = [0] * copies
    for step in range(steps):
        before = torch.tensor(np.stack(states), dtype=policy.dtype) / SCALE
        actions = torch.distributions.Categorical(logits=before @ policy).sample()
        fallen = torch.zeros(copies)
        after = torch.zeros_like(before)
        for k, pole in enumerate(poles):
            if first[k] and not again:
                continue
            states[k], _, terminated, truncated, _ = pole.step(int(actions[k]))
            after[k] = torch.from_numpy(states[k])
            fallen[k] = terminated
            if terminated or truncated:
                first[k] = first[k] or step + 1
                states[k] = pole.reset()[0]
        rows.append((before, actions, torch.ones(copies), fallen, after / SCALE))
    s, a, r, done, s2 = (torch.cat(column) for column in zip(*rows, strict=True))
    score = torch.tensor(first, dtype=s.dtype).mean()
    return {"s": s, "f": features(s), "a": a, "r": r, "done": done, "f2": features(s2), "s2": s2,
            "score": score}  # fmt: skip


def judged(policy: Tensor) -> Tensor:
    """The mean length of twenty episodes of at most 200 steps, from the same starts every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return rollouts(policy, 20, 200, again=False)["score"].to(policy)


def delayed(policy: Tensor, copies: int, steps: int, discount: float) -> dict[str, Tensor]:
    """First episodes only, and a reward that comes at their end: their length.

    s, a: as in `rollouts`. g: the length of the episode, less the mean and in standard deviations,
    the same for all its steps. ahead: the squares of the states that follow, summed with a
    discount, less the mean and in standard deviations, shape (copies * steps, 4). live: 1 where the
    first episode goes on, 0 after it.
    """
    found = rollouts(policy, copies, steps, again=False)
    done = found["done"].reshape(steps, copies)
    ended = (done.cumsum(0) - done) > 0
    live = (~ended).to(done)
    length = live.sum(0)
    g = (length - length.mean()) / (length.std() + 1)
    squares = (found["s2"] ** 2).reshape(steps, copies, 4) * live[..., None]
    ahead = torch.zeros_like(squares)
    after = torch.zeros_like(squares[0])
    for step in reversed(range(steps)):
        after = squares[step] + discount * after
        ahead[step] = after
    weight = live[..., None] / live.sum()
    mean = (weight * ahead).sum((0, 1))
    deviation = (weight * (ahead - mean) ** 2).sum((0, 1)).sqrt()
    return {
        "s": found["s"],
        "a": found["a"],
        "g": g.expand(steps, copies).flatten(),
        "ahead": ((ahead - mean) / (deviation + 1e-6)).flatten(0, 1),
        "live": (live / live.mean()).flatten(),
        "score": found["score"],
    }
