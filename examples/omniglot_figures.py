"""The figures of maml_omniglot.mlo on an alphabet that it was not trained on.

    python examples/omniglot_figures.py ZIP [maml first_order imaml loop nearest]

ZIP: images_background_small1.zip. `loop` is MAML as a loop over tasks in plain torch, as many
meta-steps on the same tasks; `nearest` gives a query the label of the nearest drawing, by pixels.
Figures are kept in figures/, and examples/README.md is brought up to date. One thread.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import figures
import torch
from omniglot import Task, Tasks, conv4, omniglot
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import bettyc

PROGRAM = Path(__file__).parent / "maml_omniglot.mlo"
HELD_OUT = "Latin"
WAYS = ["maml", "first_order", "imaml", "loop", "nearest"]
STEPS, LR, META_LR, BATCH = 2, 0.4, 3e-3, 8  # as in the program


def tests(path: str, count: int) -> Tasks:
    """Tasks of the held-out alphabet."""
    return omniglot(path, HELD_OUT, False, ways=5, shots=1, queries=3, count=count)


def trained(path: str, way: str, steps: int, tasks: Tasks) -> float:
    """Accuracy on the tasks after adaptation, of a program trained by bettyc."""
    given = {"drawings": f'"{path}"', "held_out": f'"{HELD_OUT}"', "run.steps": steps}
    profile = None if way == "maml" else way
    run = bettyc.load(PROGRAM, profile=profile, set=given).compile().start()
    for out in run:
        if out.metrics:
            print(way, out.step, {k: round(v, 4) for k, v in out.metrics.items()}, flush=True)
    # the same program on the held-out tasks, put back to the trained start before every look
    found = run["meta"].values()
    given["run.eval"] = "every(1)"
    other = bettyc.load(PROGRAM, profile=profile, set=given).compile(data={"tasks": tasks}).start()
    total = []
    for _ in range(len(tasks) // BATCH):
        other["meta"].assign(**found)
        total.append(other.step().metrics["acc"])
    return sum(total) / len(total)


def adapted(net: nn.Module, start: dict[str, Tensor], task: Task, graph: bool) -> dict[str, Tensor]:
    for _ in range(STEPS):
        x, y = task["support"]["x"], task["support"]["y"]
        loss = F.cross_entropy(functional_call(net, start, (x,)), y)
        grads = torch.autograd.grad(loss, list(start.values()), create_graph=graph)
        start = {n: p - LR * g for (n, p), g in zip(start.items(), grads, strict=True)}
    return start


def looped(path: str, steps: int, tasks: Tasks) -> float:
    """The same of a loop by hand."""
    train = omniglot(path, HELD_OUT, True, ways=5, shots=1, queries=3, count=100000)
    torch.manual_seed(0)
    net = conv4(5, 48)
    optimizer = torch.optim.Adam(net.parameters(), lr=META_LR)
    order = torch.randperm(len(train))
    for k in range(steps):
        optimizer.zero_grad()
        for i in order[k * BATCH : (k + 1) * BATCH].tolist():
            task = train[i]
            w = adapted(net, dict(net.named_parameters()), task, graph=True)
            found = functional_call(net, w, (task["query"]["x"],))
            (F.cross_entropy(found, task["query"]["y"]) / BATCH).backward()
        optimizer.step()
    return sum(
        accuracy(
            functional_call(
                net, adapted(net, dict(net.named_parameters()), t, False), (t["query"]["x"],)
            ),
            t,
        )
        for t in tasks
    ) / len(tasks)


def accuracy(scores: Tensor, task: Task) -> float:
    return float((scores.argmax(1) == task["query"]["y"]).float().mean())


def nearest(tasks: Tasks) -> float:
    """Of the nearest drawing by pixels."""
    total = 0.0
    for t in tasks:
        distance = torch.cdist(t["query"]["x"].flatten(1), t["support"]["x"].flatten(1))
        total += float((t["support"]["y"][distance.argmin(1)] == t["query"]["y"]).float().mean())
    return total / len(tasks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path")
    parser.add_argument("ways", nargs="*", default=WAYS)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--tasks", type=int, default=400)
    given = parser.parse_args()
    torch.set_num_threads(1)
    tasks = tests(given.path, given.tasks)
    for way in given.ways:
        begin = time.process_time()
        if way == "nearest":
            found = nearest(tasks)
        elif way == "loop":
            found = looped(given.path, given.steps, tasks)
        else:
            found = trained(given.path, way, given.steps, tasks)
        seconds = time.process_time() - begin
        print(f"{way}: {found:.4f} in {seconds:.0f} s of one CPU", flush=True)
        name = "maml_omniglot" if way == "maml" else f"maml_omniglot_{way}"
        figures.keep(name, {"acc": {"after": [found]}}, seconds)
    figures.write_table()


if __name__ == "__main__":
    main()
