"""Search for cells with darts.mlo, then train the found ones and random ones alike.

    python examples/search_cells.py            what figures/darts/cells.json does not hold yet
    python examples/search_cells.py --again    all of it

figures/darts/cells.json holds every cell and every training; figures/darts.json and
figures/darts_retrain.json the summaries of the table, the second order without a suffix. Each
search begins from seed 0, its cells are trained from the seeds 0 to 4; each of the eight pairs of
random cells from the seeds 0 and 1. The test images are looked at once, at the end of a training.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import TypedDict

import darts
import figures
import torch

import bettyc

HERE = Path(__file__).parent
KEPT = HERE / "figures" / "darts" / "cells.json"
ORDERS = {"first": "none", "second": "sama"}
RANDOM, SEEDS, RANDOM_SEEDS = 8, 5, 2
SUFFIXES = {"second": "", "first": "_first_order", "random": "_random"}


class Cells(TypedDict, total=False):
    """A normal and a reduction cell, as `darts.written` writes them, and their trainings."""

    of: str  # "first" or "second", the order of the search, or "random"
    normal: str
    reduction: str
    parameters: int
    val_acc: float  # of the network of the search; random cells have none
    seconds: float  # of the search
    runs: list[dict[str, float]]


def search(order: str) -> Cells:
    program = bettyc.load(HERE / "darts.mlo", set={"weights.hypergrad": ORDERS[order]})
    begin = time.process_time()
    run = program.compile().start(seed=0)
    last = run.to_end()
    mixtures = (torch.softmax(getattr(run["arch"], k), -1) for k in ("normal", "reduction"))
    normal, reduction = (darts.written(darts.genotype(m)) for m in mixtures)
    seconds = round(time.process_time() - begin, 1)
    accuracy = round(last.metrics["val_acc"], 4)
    return {
        "of": order, "normal": normal, "reduction": reduction, "val_acc": accuracy,
        "seconds": seconds, "runs": [],
    }  # fmt: skip


def drawn() -> list[Cells]:
    generator = torch.Generator().manual_seed(0)
    pairs = [[darts.random_genotype(2, generator) for _ in range(2)] for _ in range(RANDOM)]
    return [
        {"of": "random", "normal": darts.written(n), "reduction": darts.written(r), "runs": []}
        for n, r in pairs
    ]


def train(cells: Cells, seed: int) -> dict[str, float]:
    """The metrics of darts_retrain.mlo, and the seconds of CPU."""
    values = {k: f'"{cells[k]}"' for k in ("normal", "reduction")}
    begin = time.process_time()
    run = bettyc.load(HERE / "darts_retrain.mlo", set=values).compile().start(seed=seed)
    metrics = {k: float(f"{v:.5g}") for k, v in run.to_end().metrics.items()}
    cells["parameters"] = sum(p.numel() for p in run["weights"].net.parameters())
    return metrics | {"seconds": round(time.process_time() - begin, 1)}


def write(kept: list[Cells]) -> None:
    KEPT.parent.mkdir(exist_ok=True)
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")


def measure(kept: list[Cells]) -> None:
    """Add to kept what is missing, and write it after each search and each training."""
    for of in ("first", "random", "second"):
        if not any(c["of"] == of for c in kept):
            kept += drawn() if of == "random" else [search(of)]
            write(kept)
        for cells in (c for c in kept if c["of"] == of):
            print(of, cells["normal"], "|", cells["reduction"], flush=True)
            for seed in range(len(cells["runs"]), RANDOM_SEEDS if of == "random" else SEEDS):
                cells["runs"].append(train(cells, seed))
                write(kept)
                print(" ", cells["runs"][-1], flush=True)


def values(kept: list[Cells], of: str, metric: str) -> list[float]:
    """Of found cells one value per training; of random ones the mean of each pair's trainings."""
    if of == "random":
        means = [[run[metric] for run in c["runs"]] for c in kept if c["of"] == of]
        return [sum(m) / len(m) for m in means]
    return [run[metric] for c in kept if c["of"] == of for run in c["runs"]]


def summary(kept: list[Cells]) -> str:
    """The gain in accuracy of each order over random cells, beside its standard errors."""
    lines = []
    random_mean, random_error = figures.mean_and_error(values(kept, "random", "test_acc"))
    for order in (c["of"] for c in kept if c["of"] in ORDERS):
        mean, error = figures.mean_and_error(values(kept, order, "test_acc"))
        both = math.hypot(error, random_error)
        lines.append(
            f"{order} order: {mean:.4f} - {random_mean:.4f} = {mean - random_mean:+.4f}; standard "
            f"error of the random mean {random_error:.4f}, of the difference {both:.4f}"
        )
    return "\n".join(lines)


def keep(kept: list[Cells]) -> None:
    searches = [c for c in kept if c["of"] in ORDERS]
    accuracies = {f"val_acc{SUFFIXES[c['of']]}": {"after": [c["val_acc"]]} for c in searches}
    seconds = sum(c["seconds"] for c in searches) / len(searches)
    figures.keep("darts", accuracies, seconds)
    trained: figures.Values = {}
    for of in (k for k in SUFFIXES if any(c["of"] == k for c in kept)):
        for metric in ("test_acc", "test_loss"):
            trained[metric + SUFFIXES[of]] = {"after": values(kept, of, metric)}
        sizes = [float(c["parameters"]) for c in kept if c["of"] == of]
        trained[f"parameters{SUFFIXES[of]}"] = {"after": sizes}
    each = [run["seconds"] for c in kept for run in c["runs"]]
    figures.keep("darts_retrain", trained, sum(each) / len(each))
    figures.write_table()


def main(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    fresh = "--again" in arguments or not KEPT.is_file()
    kept: list[Cells] = [] if fresh else json.loads(KEPT.read_text())
    measure(kept)
    keep(kept)
    print(summary(kept))


if __name__ == "__main__":
    main(sys.argv[1:])
