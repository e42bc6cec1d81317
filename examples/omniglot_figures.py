"""The figures of maml_omniglot.mlo on alphabets that it was not trained on.

    python examples/omniglot_figures.py ZIP                           Latin held out
    python examples/omniglot_figures.py ZIP maml --held-out all       five runs, one alphabet each
    python examples/omniglot_figures.py ZIP maml imaml_loop --again   measure again what is kept

ZIP: images_background_small1.zip. `maml_loop`, `first_order_loop` and `imaml_loop` are the same
algorithms as loops over tasks in plain torch (omniglot_loop.py): as many meta-steps from the same
start on the same tasks. All trained starts are judged by the same plain torch on the same tasks;
`nearest` is pixel nearest neighbour. Each run is kept in figures/omniglot/ as soon as it is done,
with its accuracy on 100 tasks half the way, and left out when asked for again: a series that was
cut off goes on where it was. A run ends after `--minutes` of its own CPU time, done or not.
`error` is the standard error over the tasks. The table of examples/README.md is brought up to
date. One thread.
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

import bettyc
from bettyc.runtime.run import Run

HERE = Path(__file__).parent
PROGRAM = HERE / "maml_omniglot.mlo"
KEPT = HERE / "figures" / "omniglot"
README = HERE / "README.md"
BEGIN, END = "<!-- omniglot: made by omniglot_figures.py -->", "<!-- end of omniglot -->"
TITLES = {"maml": "MAML", "first_order": "first-order MAML", "imaml": "iMAML"}
WAYS = ["nearest", *(way + end for way in TITLES for end in ("", "_loop"))]
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


def place(name: str, alphabet: str, seed: int, characters: int = 5, shots: int = 1) -> Path:
    other = "" if (characters, shots) == (5, 1) else f"-{characters}x{shots}"
    return KEPT / f"{name}-{alphabet}-{seed}{other}.json"


def kept(name: str, alphabet: str, seed: int) -> dict[str, Any] | None:
    path = place(name, alphabet, seed)
    return json.loads(path.read_text()) if path.exists() else None


def table(seed: int) -> str:
    """Accuracies by held-out alphabet, updates and CPU seconds; the mean of full columns."""
    alphabets = sorted({path.stem.split("-")[1] for path in KEPT.glob(f"*-{seed}.json")})
    heads = ["pixels", *(t for title in TITLES.values() for t in (title, "its loop"))]
    lines = ["| held out | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    columns: list[list[float]] = [[] for _ in WAYS]
    for alphabet in alphabets:
        cells = []
        for name, column in zip(WAYS, columns, strict=True):
            found = kept(name, alphabet, seed)
            if found:
                column.append(found["acc"])
            cells.append(_cell(found))
        lines.append(f"| {alphabet} | " + " | ".join(cells) + " |")
    means = [f"{100 * sum(c) / len(c):.1f}" if len(c) == len(alphabets) else "" for c in columns]
    return "\n".join([*lines, "| mean | " + " | ".join(means) + " |"])


def _cell(found: dict[str, Any] | None) -> str:
    if not found:
        return ""
    text = f"{100 * found['acc']:.1f} ± {100 * found['error']:.1f}"
    if "steps" in found:
        text += f" ({found['steps']}, {found['seconds']:.0f} s)"
    return text


def write_table() -> None:
    text = README.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    README.write_text(f"{head}{BEGIN}\n{table(seed=0)}\n{END}{tail}")


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
    given = parser.parse_args()
    torch.set_num_threads(1)
    KEPT.mkdir(parents=True, exist_ok=True)
    chosen = sorted(read(given.path)) if given.held_out == "all" else [given.held_out]
    for name in given.names:
        for given.held_out in chosen:
            path = place(name, given.held_out, given.seed, given.characters, given.shots)
            if path.exists() and not given.again:
                continue
            tasks = drawn(given, train=False, count=given.tasks)
            found = measured(given, name, tasks)
            print(name, given.held_out, found, flush=True)
            path.write_text(json.dumps(found) + "\n")
            write_table()


if __name__ == "__main__":
    main()
