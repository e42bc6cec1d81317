"""Learned loss weights beside equal ones and a grid search that takes as long.

    python examples/tune_loss_weights.py

Writes figures/loss_weights.json and figures/loss_weights_fixed.json, from the seeds 0 to 4. Every
network is trained alike by loss_weights_fixed.mlo: with the learned weights ("_learned"), with
equal ones, and with the point of the grid of the least validation loss ("_grid"). The grid is
tried in random order until it has taken as much CPU time as the learning.
"""

from __future__ import annotations

import itertools
import random
import time
from pathlib import Path

import figures
import torch

import bettyc

HERE = Path(__file__).parent
SEEDS = 5
LOSSES = ("class", "angle", "noise")
GRID = tuple(itertools.product((0.1, 1.0), repeat=len(LOSSES)))

Weights = tuple[float, ...]


def learn(seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """The metrics after the first update and at the end."""
    run = bettyc.load(HERE / "loss_weights.mlo", set={"seed": seed}).compile().start(seed=seed)
    run.step()
    before = run.metrics()
    return before, run.to_end().metrics


def train(weights: Weights, seed: int) -> dict[str, float]:
    values = {f"{name}_weight": w for name, w in zip(LOSSES, weights, strict=True)}
    program = bettyc.load(HERE / "loss_weights_fixed.mlo", set={"seed": seed, **values})
    return program.compile().start(seed=seed).to_end().metrics


def search(seconds: float, seed: int) -> tuple[dict[str, float], int]:
    """The metrics of the best point found, and how many were tried."""
    order = random.Random(seed).sample(GRID, len(GRID))
    begin = time.process_time()
    tried: list[dict[str, float]] = []
    while len(tried) < len(order) and time.process_time() - begin < seconds:
        tried.append(train(order[len(tried)], seed))
    return min(tried, key=lambda metrics: metrics["val_loss"]), len(tried)


def main() -> None:
    torch.set_num_threads(1)
    learned: figures.Values = {}
    fixed: figures.Values = {}
    spent = 0.0
    for seed in range(SEEDS):
        begin = time.process_time()
        before, after = learn(seed)
        seconds = time.process_time() - begin
        spent += seconds
        for metric in after:
            columns = learned.setdefault(metric, {"before": [], "after": []})
            columns["before"].append(before[metric])
            columns["after"].append(after[metric])
        found, count = search(seconds, seed)
        print(seed, f"{seconds:.1f} s, {count} points of the grid", flush=True)
        weights = tuple(after[f"weight_{name}"] for name in LOSSES)
        equal = train((1.0,) * len(LOSSES), seed)
        for suffix, run in (("", equal), ("_learned", train(weights, seed)), ("_grid", found)):
            for metric, value in run.items():
                fixed.setdefault(metric + suffix, {"after": []})["after"].append(value)
    figures.keep("loss_weights", learned, spent / SEEDS)
    figures.keep("loss_weights_fixed", fixed, spent / SEEDS)
    figures.write_table()


if __name__ == "__main__":
    main()
