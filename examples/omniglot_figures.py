"""The figures of maml_omniglot.mlo on alphabets that it was not trained on.

    python examples/omniglot_figures.py ZIP                           Latin held out
    python examples/omniglot_figures.py ZIP maml --held-out all       five runs, one alphabet each
    python examples/omniglot_figures.py ZIP maml imaml_loop --again   measure again what is kept
    python examples/omniglot_figures.py ZIP maml --time 25            CPU time beside the loop

ZIP: images_background_small1.zip. `maml_loop`, `first_order_loop` and `imaml_loop` are the same
algorithms as loops over tasks in plain torch (omniglot_loop.py): as many meta-steps from the same
start on the same tasks. All trained starts are judged by the same plain torch on the same tasks;
`nearest` is pixel nearest neighbour. Each run is kept in figures/omniglot/ as soon as it is done,
with its accuracy on 100 tasks half the way, and left out when asked for again: a series that was
cut off goes on where it was. A run ends after `--minutes` of its own CPU time, done or not.
`error` is the standard error over the tasks. The tables of examples/README.md are brought up to
date (omniglot_table.py). One thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omniglot import Tasks, omniglot, read
from omniglot_loop import SETTINGS, Loop, Weights, judged, nearest, network
from omniglot_table import WAYS, place, write_tables

import bettyc
from bettyc.runtime.run import Run

PROGRAM = Path(__file__).parent / "maml_omniglot.mlo"
LOOKS = 2  # parts of a training, an accuracy after each


def program(given: argparse.Namespace, way: str) -> Run:
    """The program with the profile of this name, before its first step."""
    values: dict[str, Any] = {
        "drawings": f'"{given.path}"',
        "held_out": f'"{given.held_out}"',
        "W": given.characters,
        "shots": given.shots,
    }
    if given.steps:
        values["run.steps"] = given.steps
    profile = None if way == "maml" else way
    return bettyc.load(PROGRAM, profile=profile, set=values).compile().start(seed=given.seed)


def start_of(run: Run) -> Weights:
    """The weights that the tasks start from."""
    found = {name.removeprefix("net."): value for name, value in run["meta"].values().items()}
    order = [name for name, _ in network(5).named_parameters()]
    return {name: found[name].detach().clone() for name in order}


def drawn(given: argparse.Namespace, train: bool, count: int) -> Tasks:
    return omniglot(
        given.path, given.held_out, train, given.characters, given.shots, queries=3, count=count
    )


def trained(given: argparse.Namespace, way: str) -> Iterator[Weights]:
    """The start after every update of bettyc."""
    run = program(given, way)
    for _ in range(run.total):
        run.step()
        yield start_of(run)


def looped(given: argparse.Namespace, way: str) -> Iterator[Weights]:
    """The start after every update of a loop by hand."""
    run = program(given, way)
    order = run.tasks["adapt"].sampler
    train = drawn(given, train=True, count=100000)
    loop = Loop(start_of(run), SETTINGS[way], run.total)
    for _ in range(run.total):
        loop.step([train[i] for i in order.next().tolist()])
        yield {name: w.detach() for name, w in loop.start.items()}


def measured(given: argparse.Namespace, name: str, tasks: Tasks) -> dict[str, Any]:
    """What is kept of one run. seconds: of CPU time, of the training alone."""
    if name == "nearest":
        return _figures(nearest(tasks))
    way = name.removesuffix("_loop")
    few = Tasks(tasks.characters, tasks.ways, tasks.shots, tasks.queries, 100, tasks.seed)
    total = program(given, way).total
    marks = {round(total * k / LOOKS) for k in range(1, LOOKS)}
    seconds, along, steps = 0.0, [], 0
    begin = time.process_time()
    start: Weights = {}
    for start in (looped if name.endswith("_loop") else trained)(given, way):
        steps += 1
        used = seconds + time.process_time() - begin
        if steps in marks:
            along.append([steps, _figures(judged(start, few, SETTINGS[way]))["acc"]])
            print(name, given.held_out, *along[-1], f"{used:.0f} s", flush=True)
            seconds, begin = used, time.process_time()
        if used > 60 * given.minutes:
            break
    seconds += time.process_time() - begin
    found = {"steps": steps, "of": total, "seconds": round(seconds, 1), "along": along}
    return _figures(judged(start, tasks, SETTINGS[way])) | found


def _figures(found: list[float]) -> dict[str, Any]:
    values = torch.tensor(found, dtype=torch.float64)
    error = float(values.std() / len(found) ** 0.5)
    return {"acc": round(float(values.mean()), 5), "error": round(error, 5), "tasks": len(found)}


def timed(given: argparse.Namespace, way: str) -> tuple[float, float]:
    """CPU seconds of an update of bettyc and of the loop: the means over `--time` of each in turn,
    after three that are not counted.
    """
    runs = (trained(given, way), looped(given, way))
    seconds = [0.0, 0.0]
    for k in range(given.time + 3):
        for j, run in enumerate(runs):
            begin = time.process_time()
            next(run)
            if k >= 3:
                seconds[j] += time.process_time() - begin
    return seconds[0] / given.time, seconds[1] / given.time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path")
    parser.add_argument("names", nargs="*", default=WAYS)
    parser.add_argument("--steps", type=int, default=0, help="in place of the program's")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--tasks", type=int, default=600)
    parser.add_argument("--held-out", default="Latin", help="an alphabet, or all in turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--characters", type=int, default=5, help="of a task")
    parser.add_argument("--shots", type=int, default=1, help="drawings of each to adapt to")
    parser.add_argument("--again", action="store_true")
    parser.add_argument(
        "--time", type=int, default=0, help="updates to time, in place of a training"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.time:
        for way in [name for name in given.names if name in SETTINGS]:
            ours, loop = timed(given, way)
            print(f"{way}: {1000 * ours:.1f} ms, loop {1000 * loop:.1f} ms, {ours / loop:.2f}")
        return
    chosen = sorted(read(given.path)) if given.held_out == "all" else [given.held_out]
    for name in given.names:
        for given.held_out in chosen:
            path = place(name, given.held_out, given.seed, f"{given.characters}x{given.shots}")
            if path.exists() and not given.again:
                continue
            tasks = drawn(given, train=False, count=given.tasks)
            found = measured(given, name, tasks)
            print(name, given.held_out, found, flush=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found) + "\n")
            write_tables()


if __name__ == "__main__":
    main()
