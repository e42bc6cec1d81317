"""Search for cells with darts.mlo, then train the found ones and random ones alike.

    python examples/search_cells.py

Writes figures/darts.json and figures/darts_retrain.json. The found cells are trained from the
seeds 0, 1 and 2, the eight pairs of random cells once each, from the seeds 0 to 7.
"""

from __future__ import annotations

import time
from pathlib import Path

import darts
import figures
import torch

import bettyc

HERE = Path(__file__).parent
RANDOM, AGAIN = 8, 3
ORDERS = {"second": "finite_diff", "first": "none"}

Cells = tuple[darts.Genotype, darts.Genotype]


def search(order: str) -> tuple[Cells, float]:
    """The normal and the reduction cell, and the validation accuracy of the mixed network."""
    program = bettyc.load(HERE / "darts.mlo", set={"weights.hypergrad": ORDERS[order]})
    run = program.compile().start()
    last = run.to_end()
    normal, reduction = (
        torch.softmax(getattr(run["arch"], k), -1) for k in ("normal", "reduction")
    )
    return (darts.genotype(normal), darts.genotype(reduction)), last.metrics["val_acc"]


def retrain(cells: Cells, seed: int) -> dict[str, float]:
    normal, reduction = (f'"{darts.written(cell)}"' for cell in cells)
    values = {"normal": normal, "reduction": reduction}
    run = bettyc.load(HERE / "darts_retrain.mlo", set=values).compile().start(seed=seed)
    return run.to_end().metrics


def main() -> None:
    torch.set_num_threads(1)
    metrics: figures.Values = {}
    begin = time.perf_counter()
    trained: figures.Values = {}
    for order in ORDERS:
        cells, accuracy = search(order)
        print(order, accuracy, *(darts.written(cell) for cell in cells), sep="\n  ", flush=True)
        suffix = "" if order == "second" else "_first_order"
        metrics[f"val_acc{suffix}"] = {"after": [accuracy]}
        keep(trained, suffix, [retrain(cells, seed) for seed in range(AGAIN)])
    figures.keep("darts", metrics, (time.perf_counter() - begin) / 2)
    begin = time.perf_counter()
    generator = torch.Generator().manual_seed(0)
    others = []
    for seed in range(RANDOM):
        normal, reduction = (darts.random_genotype(2, generator) for _ in range(2))
        others.append(retrain((normal, reduction), seed))
    keep(trained, "_random", others)
    figures.keep("darts_retrain", trained, (time.perf_counter() - begin) / RANDOM)
    figures.write_table()


def keep(into: figures.Values, suffix: str, runs: list[dict[str, float]]) -> None:
    for metric in runs[0]:
        into[metric + suffix] = {"after": [run[metric] for run in runs]}
        print(metric + suffix, figures.cell(into[metric + suffix]["after"]), flush=True)


if __name__ == "__main__":
    main()
