"""Learned augmentation beside none, fixed strengths and a grid search that takes as long.

    python examples/tune_augmentation.py

Writes figures/augmentation.json and figures/augmentation_fixed.json, from the seeds 0 to 4. Every
network is trained alike by augmentation_fixed.mlo: with the learned strengths ("_learned"), with
none, with a middling one of each ("_middle"), with the strengths by which the test images are
distorted ("_true"), with the point of the grid of the least validation loss ("_grid"), and on the
validation images themselves ("_val"). The grid is tried in random order, in trainings as long as
those that the learning goes through, until it has taken as much CPU time as the learning.
"""

from __future__ import annotations

import itertools
import random
import time
from pathlib import Path

import distortions
import figures
import torch

import bettyc

HERE = Path(__file__).parent
SEEDS = 5
NAMES = ("rotation", "shift", "noise")
GRID = tuple(itertools.product((0.0, 0.2, 0.4, 0.8), (0.0, 0.3, 1.0), (0.0, 0.1, 0.2, 0.4)))
NONE, MIDDLE = (0.0, 0.0, 0.0), (0.2, 0.3, 0.1)

Strengths = tuple[float, ...]


def learn(seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """The metrics after the first update and at the end."""
    run = bettyc.load(HERE / "augmentation.mlo", set={"seed": seed}).compile().start(seed=seed)
    run.step()
    before = run.metrics()
    return before, run.to_end().metrics


def train(strengths: Strengths, seed: int, **values: int | str) -> dict[str, float]:
    given = {"seed": seed, **dict(zip(NAMES, strengths, strict=True)), **values}
    program = bettyc.load(HERE / "augmentation_fixed.mlo", set=given)
    return program.compile().start(seed=seed).to_end().metrics


def search(seconds: float, seed: int) -> tuple[Strengths, int]:
    """The best point found, and how many were tried."""
    order = random.Random(seed).sample(GRID, len(GRID))
    begin = time.process_time()
    tried: dict[Strengths, float] = {}
    while len(tried) < len(order) and time.process_time() - begin < seconds:
        point = order[len(tried)]
        tried[point] = train(point, seed, **{"run.steps": 100})["val_loss"]
    return min(tried, key=tried.__getitem__), len(tried)


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
        print(seed, f"{seconds:.1f} s, {count} points of the grid, best {found}", flush=True)
        runs = {
            "": train(NONE, seed),
            "_learned": train(tuple(after[name] for name in NAMES), seed),
            "_middle": train(MIDDLE, seed),
            "_grid": train(found, seed),
            "_true": train(distortions.MET, seed),
            "_val": train(NONE, seed, part='"val"'),
        }
        for suffix, run in runs.items():
            for metric, value in run.items():
                fixed.setdefault(metric + suffix, {"after": []})["after"].append(value)
    figures.keep("augmentation", learned, spent / SEEDS)
    figures.keep("augmentation_fixed", fixed, spent / SEEDS)
    figures.write_table()


if __name__ == "__main__":
    main()
