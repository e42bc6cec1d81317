"""The figures of maml_omniglot.mlo on an alphabet that it was not trained on.

    python examples/omniglot_figures.py ZIP [maml first_order imaml loop nearest] [--steps 700]

ZIP: images_background_small1.zip. `loop` is MAML as a loop over tasks in plain torch: as many
meta-steps from the same start on the same tasks as `maml`. All trained starts are judged by the
same plain torch on the same tasks; `nearest` gives a query the label of the nearest drawing, by
pixels. Kept in figures/, with what was run; `acc_error` is the standard error over the tasks.
examples/README.md is brought up to date. One thread.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import figures
import torch
from omniglot import Task, Tasks, conv4, omniglot
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

import bettyc
from bettyc.runtime.run import Run

PROGRAM = Path(__file__).parent / "maml_omniglot.mlo"
WAYS = ["maml", "first_order", "imaml", "loop", "nearest"]
LR, META_LR = 0.4, 3e-3  # as in the program
STEPS = {"maml": 2, "first_order": 2, "imaml": 4, "loop": 2}
NEAR = {"imaml": 0.5}
NET = conv4(5, 48)
Weights = dict[str, Tensor]


def program(given: argparse.Namespace, way: str) -> Run:
    """The program with the profile of this name, before its first step."""
    values = {
        "drawings": f'"{given.path}"',
        "held_out": f'"{given.held_out}"',
        "run.steps": given.steps,
    }
    profile = way if way in ("first_order", "imaml") else None
    return bettyc.load(PROGRAM, profile=profile, set=values).compile().start(seed=given.seed)


def start_of(run: Run) -> Weights:
    """The weights that the tasks start from."""
    found = {name.removeprefix("net."): value for name, value in run["meta"].values().items()}
    return {name: found[name].detach().clone() for name, _ in NET.named_parameters()}


def trained(given: argparse.Namespace, way: str) -> Weights:
    """The start that bettyc finds."""
    run = program(given, way)
    for out in run:
        if out.metrics:
            print(way, out.step, {k: round(v, 4) for k, v in out.metrics.items()}, flush=True)
    return start_of(run)


def looped(given: argparse.Namespace) -> Weights:
    """The start that a loop by hand finds."""
    run = program(given, "maml")
    start = {name: w.requires_grad_() for name, w in start_of(run).items()}
    order = run.tasks["adapt"].sampler
    train = omniglot(given.path, given.held_out, True, ways=5, shots=1, queries=3, count=100000)
    optimizer = torch.optim.Adam(start.values(), lr=META_LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, given.steps)
    for _ in range(given.steps):
        optimizer.zero_grad()
        rows = order.next().tolist()
        for i in rows:
            task = train[i]
            w = adapted(start, task, "loop", graph=True)
            loss = F.cross_entropy(
                functional_call(NET, w, (task["query"]["x"],)), task["query"]["y"]
            )
            (loss / len(rows)).backward()
        optimizer.step()
        schedule.step()
    return {name: w.detach() for name, w in start.items()}


def adapted(start: Weights, task: Task, way: str, graph: bool) -> Weights:
    """The weights after the steps on the drawings to adapt to."""
    x, y = task["support"]["x"], task["support"]["y"]
    near = NEAR.get(way, 0.0)
    w = start
    for _ in range(STEPS[way]):
        loss = F.cross_entropy(functional_call(NET, w, (x,)), y)
        grads = torch.autograd.grad(loss, list(w.values()), create_graph=graph)
        w = {
            name: p - LR * (g + near * (p - start[name]))
            for (name, p), g in zip(w.items(), grads, strict=True)
        }
        if not graph:
            w = {name: p.detach().requires_grad_() for name, p in w.items()}
    return w


def judged(start: Weights, tasks: Tasks, way: str) -> list[float]:
    """Accuracy on each task after adaptation."""
    start = {name: w.clone().requires_grad_() for name, w in start.items()}
    found = []
    for task in tasks:
        w = adapted(start, task, way, graph=False)
        with torch.no_grad():
            found.append(accuracy(functional_call(NET, w, (task["query"]["x"],)).argmax(1), task))
    return found


def nearest(tasks: Tasks) -> list[float]:
    """The same of the nearest drawing by pixels."""
    found = []
    for task in tasks:
        x, near = task["query"]["x"].flatten(1), task["support"]["x"].flatten(1)
        found.append(accuracy(task["support"]["y"][torch.cdist(x, near).argmin(1)], task))
    return found


def accuracy(labels: Tensor, task: Task) -> float:
    return float((labels == task["query"]["y"]).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path")
    parser.add_argument("ways", nargs="*", default=WAYS)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--held-out", default="Latin")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    tasks = omniglot(given.path, given.held_out, False, 5, 1, 3, given.tasks)
    for way in given.ways:
        begin = time.process_time()
        ran = {"held_out": given.held_out, "tasks": given.tasks}
        if way == "nearest":
            found = nearest(tasks)
        else:
            ran |= {"seed": given.seed, "steps": given.steps}
            found = judged(looped(given) if way == "loop" else trained(given, way), tasks, way)
        seconds = time.process_time() - begin
        values = torch.tensor(found, dtype=torch.float64)
        mean, error = float(values.mean()), float(values.std() / len(found) ** 0.5)
        print(f"{way}: {mean:.4f} ± {error:.4f} in {seconds:.0f} s of one CPU; {ran}", flush=True)
        name = "maml_omniglot" if way == "maml" else f"maml_omniglot_{way}"
        metrics = {"acc": {"after": [mean]}, "acc_error": {"after": [error]}}
        figures.keep(name, metrics, seconds, ran)
    figures.write_table()


if __name__ == "__main__":
    main()
