"""Search for cells with darts.mlo, then train the found ones and random ones alike.

    python examples/search_cells.py            what figures/darts/cells.json does not hold yet
    python examples/search_cells.py --again    all of it

There are SEARCHES searches of each order, from the seeds FIRST, FIRST + 1, ..., and eight random
pairs of cells. Each pair is first trained on one half of the training images and validated on the
other. The best of the searches of one order, by this accuracy, is the pair that the order finds;
the paper does the same with four searches. Among the random pairs one is chosen in the same way:
random search, whose eight trainings take about as long as one search. Then all pairs are trained on
all training images and tested: those chosen from CHOSEN_SEEDS seeds, the others from SEEDS. Nothing
is decided by test images.

figures/darts/cells.json holds every cell and every training; figures/darts.json and
figures/darts_retrain.json the summaries of the table, the first order without a suffix.
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
ORDERS = {"first": "none", "second": "unroll(truncate = 1)"}
SUFFIXES = {"first": "", "random": "_random", "second": "_second_order"}
RANDOM, SEARCHES = 8, 3
FIRST = 3  # the seeds before were used while the settings were chosen
SEEDS, CHOSEN_SEEDS = 2, 3
VALIDATED_FROM = 100  # the seed of the trainings that choose; no test has it


class Cells(TypedDict, total=False):
    """A normal and a reduction cell, as `darts.written` writes them, and their trainings."""

    of: str  # "first" or "second", the order of the search, or "random"
    seed: int  # of the search, or the place among the random ones
    normal: str
    reduction: str
    parameters: int
    mixed_acc: float  # on validation data, of the network of the search; random cells have none
    seconds: float  # of the search
    val_acc: float
    runs: list[dict[str, float]]


def search(order: str, seed: int) -> Cells:
    program = bettyc.load(HERE / "darts.mlo", set={"weights.hypergrad": ORDERS[order]})
    begin = time.process_time()
    run = program.compile().start(seed=seed)
    last = run.to_end()
    mixtures = (torch.softmax(getattr(run["arch"], k), -1) for k in ("normal", "reduction"))
    normal, reduction = (darts.written(darts.genotype(m)) for m in mixtures)
    return {
        "of": order, "seed": seed, "normal": normal, "reduction": reduction,
        "mixed_acc": round(last.metrics["val_acc"], 4),
        "seconds": round(time.process_time() - begin, 1), "runs": [],
    }  # fmt: skip


def drawn() -> list[Cells]:
    generator = torch.Generator().manual_seed(FIRST)
    pairs = [[darts.random_genotype(2, generator) for _ in range(2)] for _ in range(RANDOM)]
    return [
        {
            "of": "random", "seed": k, "normal": darts.written(n), "reduction": darts.written(r),
            "runs": [],
        }
        for k, (n, r) in enumerate(pairs)
    ]  # fmt: skip


def train(cells: Cells, seed: int, **parts: str) -> dict[str, float]:
    """The metrics of darts_retrain.mlo, and the seconds of CPU."""
    values = {"normal": cells["normal"], "reduction": cells["reduction"], **parts}
    program = bettyc.load(
        HERE / "darts_retrain.mlo", set={k: f'"{text}"' for k, text in values.items()}
    )
    begin = time.process_time()
    run = program.compile().start(seed=seed)
    metrics = {k: float(f"{v:.5g}") for k, v in run.to_end().metrics.items()}
    cells["parameters"] = sum(p.numel() for p in run["weights"].net.parameters())
    return metrics | {"seconds": round(time.process_time() - begin, 1)}


def write(kept: list[Cells]) -> None:
    KEPT.parent.mkdir(exist_ok=True)
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")


def chosen(kept: list[Cells], of: str) -> Cells:
    """The best by validation of the searches of one order, or of the random pairs."""
    return max((c for c in kept if c["of"] == of), key=lambda c: c["val_acc"])


def validate(kept: list[Cells], of: str) -> None:
    """Add to kept the cells of one kind that it lacks, and the accuracies that choose."""
    if of == "random" and not any(c["of"] == of for c in kept):
        kept += drawn()
    for k in range(len([c for c in kept if c["of"] == of]), SEARCHES):
        kept.append(search(of, FIRST + k))
        write(kept)
    for cells in (c for c in kept if c["of"] == of and "val_acc" not in c):
        cells["val_acc"] = train(cells, VALIDATED_FROM, fit_on="fit", test_on="val")["test_acc"]
        write(kept)
        print(of, cells["normal"], "|", cells["reduction"], cells["val_acc"], flush=True)


def test(kept: list[Cells], kinds: tuple[str, ...]) -> None:
    """Add to kept the trainings of these kinds that it lacks, seed by seed."""
    best = [chosen(kept, of) for of in kinds]
    for seed in range(CHOSEN_SEEDS):
        for cells in (c for c in kept if c["of"] in kinds):
            if len(cells["runs"]) == seed and (seed < SEEDS or any(cells is b for b in best)):
                cells["runs"].append(train(cells, seed))
                write(kept)
                print(cells["of"], cells["seed"], cells["runs"][-1], flush=True)


def each(kept: list[Cells], of: str, metric: str) -> list[float]:
    """One value per pair of cells, the mean of its first trainings, as many for all."""
    runs = [c["runs"][:SEEDS] for c in kept if c["of"] == of]
    return [sum(run[metric] for run in r) / len(r) for r in runs]


def best(kept: list[Cells], of: str, metric: str) -> list[float]:
    """One value per training of the chosen pair."""
    return [run[metric] for run in chosen(kept, of)["runs"]]


def summary(kept: list[Cells]) -> str:
    """The gain in test accuracy over the mean of the random cells, beside its standard error."""
    random_mean, random_error = figures.mean_and_error(each(kept, "random", "test_acc"))
    lines = [f"random, {RANDOM} pairs: {random_mean:.4f} ± {random_error:.4f}"]
    for of in (of for of in SUFFIXES if any(c["of"] == of for c in kept)):
        for what, values in (("all", each), ("chosen", best)):
            if (of, what) != ("random", "all"):
                mean, error = figures.mean_and_error(values(kept, of, "test_acc"))
                lines.append(
                    f"{of}, {what}: {mean:.4f} ± {error:.4f}, over random "
                    f"{mean - random_mean:+.4f} ± {math.hypot(error, random_error):.4f}"
                )
    return "\n".join(lines)


def keep(kept: list[Cells]) -> None:
    searches = [c for c in kept if c["of"] in ORDERS]
    seconds = sum(c["seconds"] for c in searches) / len(searches)
    accuracies = {
        f"val_acc{SUFFIXES[of]}": {"after": [c["mixed_acc"] for c in searches if c["of"] == of]}
        for of in ORDERS
        if any(c["of"] == of for c in searches)
    }
    figures.keep("darts", accuracies, seconds)
    trained: figures.Values = {}
    for of, suffix in ((of, s) for of, s in SUFFIXES.items() if any(c["of"] == of for c in kept)):
        for metric in ("test_acc", "test_loss"):
            trained[metric + suffix] = {"after": best(kept, of, metric)}
            trained[f"{metric}{suffix}_all"] = {"after": each(kept, of, metric)}
        sizes = [float(c["parameters"]) for c in kept if c["of"] == of]
        trained[f"parameters{suffix}_all"] = {"after": sizes}
    seconds_each = [run["seconds"] for c in kept for run in c["runs"]]
    figures.keep("darts_retrain", trained, sum(seconds_each) / len(seconds_each))
    figures.write_table()


def main(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    fresh = "--again" in arguments or not KEPT.is_file()
    kept: list[Cells] = [] if fresh else json.loads(KEPT.read_text())
    for kinds in (("first", "random"), ("second",)):
        for of in kinds:
            validate(kept, of)
        test(kept, kinds)
        keep(kept)
        print(summary(kept), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
