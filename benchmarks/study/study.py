"""Every strategy on every program: error against the exact hypergradient, time and memory.

python benchmarks/study/study.py [program ...]        measure these, or those not measured yet
python benchmarks/study/study.py --table              write study.md from study.json

One program at a time is measured and written to study.json, so that the study can be made in
pieces and taken up again. All strategies of a program are evaluated at one point: where the
program stands after some updates under `auto`, with the inner steps that it takes from there. Time
and memory are those of the hypergradient alone; the inner steps are the same for all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from live import peak
from programs import NAMED, PROGRAMS, Program
from table import written
from torch import Tensor

import bettyc
from bettyc.api import MloError
from bettyc.failures import RunError
from bettyc.runtime.adjoint import Lower, hypergradient
from bettyc.runtime.gradcheck import respond
from bettyc.runtime.nesting import Nest
from bettyc.runtime.response import Point, Reduced
from bettyc.runtime.run import Run
from bettyc.strategies import CG, Exact

HERE = Path(__file__).parent
STRATEGIES = (
    "auto", "exact", "cg", "minres", "gmres", "neumann", "neumann(terms = 100)",
    "nystrom(rank = 20)", "one_step", "finite_diff", "sama", "unroll", "unroll(recompute = true)",
    "forward", "fixed_point", "single_loop", "penalty", "penalty(rule = bome)", "zeroth_order",
    "danskin", "none",
)  # fmt: skip
SLOW = 0.5  # seconds from which on one call is timed, and its memory is not watched
LARGE = 1000  # from this size on the truth is found by conjugate gradient, to 1e-12


def begun(program: Program, strategy: str, truth: bool = False) -> Run:
    """A run of the program with a strategy; of its `truth`, in fp64 by plain autograd."""
    externs = {**program.externs, **(program.same if truth else {})}
    precision = "fp64" if truth else program.precision
    text = program.text.replace("HYPERGRAD", strategy)
    found = bettyc.loads(text, set={"run.precision": precision})
    plan = found.compile(data=dict(program.data()), externs=externs, opt=0 if truth else 1)
    return plan.start(seed=0)


def brought(run: Run, guide: Run, root: str) -> Any:
    """Bring a run to where the guide stands, take the inner steps from there; the frame of root."""
    state = guide.state.snapshot()
    for part in (state.theta, *state.optimizer.values(), *state.buffers.values()):
        for name, x in part.items():
            if x.is_floating_point():
                part[name] = x.to(run.stages[root].linked.dtype)
    state.memory.clear()
    run.state.assign(state)
    for name, draw in run.draws.items():
        place, count, *_ = guide.draws[name].hold()
        if draw.sampler is not None:
            draw.sampler.seek(*place)
        draw.count, draw.spent = count, True
    for name, task in run.tasks.items():
        task.take(guide.tasks[name].rows)
        task.spent = False
    for stage in run.stages.values():
        stage.feed.frame, stage.stale = None, False
    run.executor.respond(root)
    return run.stages[root].feed.next()


def guided(program: Program) -> Run:
    """The program under `auto`, after its updates."""
    run = begun(program, "auto")
    for _ in range(program.after):
        run.step()
    return run


def truth(program: Program, guide: Run) -> Tensor:
    """The exact hypergradient, flat, float64."""
    run = begun(program, "unroll" if program.truth == "steps" else "auto", truth=True)
    root = program.root
    frame = brought(run, guide, root)
    if program.truth == "steps":
        pulls = run.plan.sweep(root)
        return run._hypergradient(run.stages[root], pulls, frame).grad.flatten()
    objectives = {name: stage.objective for name, stage in run.stages.items()}
    nest = Nest({name: f.reads for name, f in objectives.items()}, run.plan.order)
    frames = {name: s.feed.current() for name, s in run.stages.items() if name != root}
    point = Point(nest, objectives, {**frames, root: frame}, dict(run.state.theta))
    if program.truth == "solution":
        point = respond(root, point)
    pulls = nest.sweep(root, frozenset(nest.order))
    size = max(point.theta[p.level].numel() for p in pulls)
    strategy = Exact() if size <= LARGE else CG(tol=1e-12, iters=5000)
    found = hypergradient(
        root,
        objectives=objectives,
        theta=point.theta,
        frames=point.frames,
        lowers={p.level: Lower(strategy, reduced=Reduced(p.level, point)) for p in pulls},
        pulls=pulls,
    )
    return found.grad.flatten()


def measured(program: Program, strategy: str, guide: Run, exact: Tensor) -> dict[str, Any]:
    """One row: the plan's choice, error, milliseconds and KiB; or why there are none."""
    row: dict[str, Any] = {"strategy": strategy}
    try:
        run = begun(program, strategy)
        frame = brought(run, guide, program.root)
        stage, pulls = run.stages[program.root], run.plan.sweep(program.root)
        began = time.perf_counter()
        found = run._hypergradient(stage, pulls, frame)
        once = time.perf_counter() - began
    except MloError as error:
        return row | {"refused": ", ".join(sorted({d.code for d in error.diagnostics}))}
    except RunError as error:
        return row | {"failed": str(error)}
    chosen = {level.name: level.strategy.name for level in run.plan.levels if level.name != "tune"}
    error = float((found.grad.flatten().double() - exact).norm() / exact.norm())
    slow = once > SLOW
    times = [once] if slow else clocked(lambda: run._hypergradient(stage, pulls, frame))
    return row | {
        "chosen": chosen,
        "error": error,
        "ms": 1e3 * statistics.median(times),
        "least": 1e3 * min(times),
        "kib": None if slow else peak(lambda: run._hypergradient(stage, pulls, frame)) / 1024,
    }


def clocked(call: Any, rounds: int = 7, each: float = 0.02) -> list[float]:
    """Seconds per call, `rounds` times."""
    began = time.perf_counter()
    call()
    once = time.perf_counter() - began
    count, rounds = max(1, round(each / once)), rounds if once < 0.3 else 2
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(count):
            call()
        found.append((time.perf_counter() - began) / count)
    return found


def study(program: Program) -> dict[str, Any]:
    """All rows of one program."""
    guide = guided(program)
    exact = truth(program, guide)
    rows = [measured(program, strategy, guide, exact) for strategy in STRATEGIES]
    return {
        "what": program.what,
        "truth": program.truth,
        "accuracy": program.accuracy,
        "precision": program.precision,
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("programs", nargs="*")
    parser.add_argument("--table", action="store_true", help="write the table only")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no program after these")
    parser.add_argument("--output", type=Path, default=HERE / "study.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(HERE))
    path, began = given.output, time.perf_counter()
    done = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"programs": {}}
    wanted = given.programs or [p.name for p in PROGRAMS if p.name not in done["programs"]]
    for name in [] if given.table else wanted:
        if time.perf_counter() - began > given.seconds:
            break
        done["programs"][name] = study(NAMED[name])
        done["torch"], done["threads"] = torch.__version__, torch.get_num_threads()
        path.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    path.with_suffix(".md").write_text(written(done), encoding="utf-8")


if __name__ == "__main__":
    main()
