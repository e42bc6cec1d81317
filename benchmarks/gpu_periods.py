"""Work recorded in CUDA graphs for benchmarks/gpu.py, each beside the same without a graph: solves,
and whole updates of a program. Without a GPU nothing is recorded; rows say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

import bettyc
from bettyc.kernels.cg import cg
from bettyc.runtime.graphs import Arguments, Graphs, Work, engine

PROGRAM = """
mlo 0.1
dim n, d
data train : { x: real[n, d], y: int<2>[n] } from memory()
data val : { x: real[n, d], y: int<2>[n] } from memory()
level fit {
  var w : real[d] = zeros
  minimize mean(bce(train.x @ w, train.y)) + 0.5 * sum(exp(tune.log_wd) * w^2)
  optimizer = OPTIMIZER
  steps     = STEPS
  start     = START
  hypergrad = STRATEGY
}
level tune {
  var log_wd : real[d] = fill(-3)
  minimize mean(bce(val.x @ fit*.w, val.y))
  optimizer = adam(lr = 0.01)
}
run { steps = 1000000 }
"""
PERIODS = {
    "sgd, cg": ("sgd(lr = 0.1)", "warm", "cg(iters = 20)"),
    "adam, unroll": ("adam(lr = 0.01)", "reset", "unroll"),
}


class Period(NamedTuple):
    """A row: what is timed, and what it is compared with. got, want: the same computed by both."""

    name: str
    recorded: Callable[[], object]
    rivals: dict[str, Callable[[], object]]
    got: Tensor
    want: Tensor


def solve(
    title: str,
    matvec: Callable[[Tensor], Tensor],
    b: Tensor,
    steps: int,
    rivals: dict[str, Callable[[], object]],
) -> Period:
    """A solve by conjugate gradient of a fixed number of steps."""

    def plain(given: dict[str, Tensor]) -> Work:
        return Work({"x": cg(matvec, given["b"], tol=0.0, max_iters=steps)[0]})

    def alone() -> Tensor:
        return plain({"b": b}).tensors["x"]

    recorder = engine(b.device)
    if recorder is None:
        return Period(f"{title} (no graph: no GPU)", alone, rivals, alone(), alone())
    graphs = Graphs(recorder)

    def call() -> Tensor:
        work = graphs.call(title, plain, Arguments({"b": b}))
        return b if work is None else work.tensors["x"]

    for _ in range(4):
        found = call()
    if graphs.refused:
        raise SystemExit(f"{title}: {graphs.refused}")
    return Period(f"{title} in a graph", call, {"no graph": alone, **rivals}, found, alone())


def programs(device: str, rows: int, columns: int, steps: int) -> Iterator[Period]:
    """Whole updates of the upper level: the steps below it, the solve or the way back, its own."""
    for title, (optimizer, start, strategy) in PERIODS.items():
        text = PROGRAM.replace("OPTIMIZER", optimizer).replace("START", start)
        text = text.replace("STRATEGY", strategy).replace("STEPS", str(steps))
        runs = {word: _run(text, word, device, rows, columns) for word in ("on", "off")}
        for run in runs.values():
            for _ in range(5):
                run.step()
        on, off = runs["on"], runs["off"]
        refused = {k: v for k, v in on.cuda_graphs.items() if v != "recorded"}
        if refused:
            raise SystemExit(f"{title}: {refused}")
        name = f"update, {steps} steps, {title}, {rows} x {columns}"
        got, want = on["tune"].log_wd.clone(), off["tune"].log_wd.clone()
        if not on.cuda_graphs:
            yield Period(f"{name} (no graph: no GPU)", off.step, {}, got, want)
        else:
            yield Period(f"{name} in graphs", on.step, {"no graph": off.step}, got, want)


def _run(text: str, word: str, device: str, rows: int, columns: int) -> bettyc.Run:
    g = torch.Generator().manual_seed(0)
    data = {}
    for name in ("train", "val"):
        x = torch.randn(rows, columns, generator=g)
        data[name] = {"x": x, "y": (x[:, 0] + torch.randn(rows, generator=g) > 0).long()}
    program = bettyc.loads(text, set={"run.cuda_graphs": word})
    return program.compile(data=data, device=device).start(seed=0)
