"""Everything that a run's future depends on, kept in memory or on disk; a resumed run has the
same bits.

Variables, optimizer states, counters, samplers and the batches at hand, the frames between steps,
recorded trajectories, solver memories, early stopping, the place in the program, and the random
generators that the user's own code may use. What follows from the plan, the data and the seed is
not kept.
"""

from __future__ import annotations

import difflib
import random
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bettyc.diagnostics.registry import report
from bettyc.failures import InputError
from bettyc.runtime import archive
from bettyc.runtime.data.stream import Stream
from bettyc.runtime.feed import Feed
from bettyc.runtime.objective import Frame
from bettyc.runtime.report import Report
from bettyc.runtime.state import State
from bettyc.runtime.trajectory import Record, Trajectory
from bettyc.schedules import whole_run

if TYPE_CHECKING:
    from bettyc.runtime.run import Run

FORMAT = 1
_RUN_STEPS = re.compile(r"^(run \{[^}]*?)\bsteps\s*=\s*\d+", re.MULTILINE)


# In memory: what a look ahead (a hypergradient with `respond`) must not change


def capture(run: Run) -> dict[str, Any]:
    """A copy of what changes. Streams keep what they give from here on, so that it can be given
    again.
    """
    streams = [s.pause() for s in run.sources.values() if isinstance(s, Stream)]
    return {**_held(run), "streams": streams, "random": _random_state()}


def _held(run: Run) -> dict[str, Any]:
    return {
        "state": run.state.snapshot(),
        "draws": {name: draw.hold() for name, draw in run.draws.items()},
        "tasks": {name: task.hold() for name, task in run.tasks.items()},
        "frames": {name: stage.feed.frame for name, stage in run.stages.items()},
        "trajectories": {
            name: (deque(s.trajectory.records), s.trajectory.dropped, s.trajectory.copied)
            for name, s in run.stages.items()
            if s.trajectory is not None
        },
        "stale": {name: stage.stale for name, stage in run.stages.items()},
        "losses": {name: list(stage.losses) for name, stage in run.stages.items()},
        "reports": dict(run.reports),
        "norms": dict(run.norms),
    }


def restore(run: Run, kept: Mapping[str, Any]) -> None:
    """Put back what `capture` took."""
    _put(run, kept)
    for stream in kept["streams"]:
        stream.rewind()
    _set_random_state(kept["random"])


def mirror(run: Run, other: Run) -> None:
    """Make `other`, a run of the same program, stand where `run` stands, with the batches at
    hand. The graphs of recorded gradients are left out: they are made of `run`'s derivatives.
    """
    held = _held(run)
    bare = {
        name: (deque(r._replace(slope=None) for r in records), dropped, copied)
        for name, (records, dropped, copied) in held["trajectories"].items()
    }
    _put(other, {**held, "trajectories": bare})


def _put(run: Run, kept: Mapping[str, Any]) -> None:
    run.state.assign(kept["state"])
    for name, held in kept["draws"].items():
        run.draws[name].put(held)
    for name, held in kept["tasks"].items():
        run.tasks[name].put(held)
    for name, stage in run.stages.items():
        stage.feed.frame = kept["frames"][name]
        stage.stale = kept["stale"][name]
        stage.losses[:] = kept["losses"][name]
        if stage.trajectory is not None:
            records, dropped, copied = kept["trajectories"][name]
            stage.trajectory.records = records
            stage.trajectory.dropped, stage.trajectory.copied = dropped, copied
    run.reports.clear()
    run.reports.update(kept["reports"])
    run.norms.clear()
    run.norms.update(kept["norms"])


# On disk


def save(run: Run, path: Path) -> Path:
    """Write a checkpoint. Raises OSError; an earlier file of that name is then unharmed."""
    state = run.state
    tree = {
        "format": FORMAT,
        "program": run.plan.model.name,
        "hash": run.plan.hash,
        "source": run.plan.source,
        "seed": run.seed,
        "step": run.executor.step,
        "total": run.total,
        "position": run.executor.position,
        "finished": run.finished,
        "early": None if run.early is None else asdict(run.early),
        "theta": state.theta,
        "optimizer": state.optimizer,
        "gradients": state.gradients,
        "updates": state.updates,
        "starts": state.starts,
        "buffers": state.buffers,
        "memory": state.memory,
        "draws": {name: draw.state() for name, draw in run.draws.items()},
        "tasks": {name: task.state() for name, task in run.tasks.items()},
        "levels": {name: _level(stage) for name, stage in run.stages.items()},
        "hooks": None if run.hooks is None else run.hooks.hooks.state(),
        "reports": {name: [asdict(r) for r in found] for name, found in run.reports.items()},
        "norms": dict(run.norms),
        "random": _random_state(),
    }
    archive.write(path, tree)
    return path


def load(run: Run, path: Path) -> None:
    """Continue `run` from a checkpoint. Raises InputError."""
    tree = _read(run, path)
    run.seed = int(tree["seed"])
    run.state.assign(
        State(
            tree["theta"], tree["optimizer"], tree["gradients"], tree["updates"], tree["starts"],
            tree["buffers"], tree["memory"],
        )
    )  # fmt: skip
    for name, held in tree["draws"].items():
        run.draws[name].restore(held)
    for name, held in tree["tasks"].items():
        run.tasks[name].restore(held)
    for name, held in tree["levels"].items():
        _set_level(run.stages[name], held)
    if run.early is not None and tree["early"] is not None:
        run.early.best, run.early.waited = tree["early"]["best"], tree["early"]["waited"]
    if run.hooks is not None and tree["hooks"] is not None:
        run.hooks.hooks.restore(tree["hooks"])
    # Of an update in the middle of which the run stopped, the next output tells the whole.
    run.reports.clear()
    for name, found in tree.get("reports", {}).items():
        run.reports[name] = tuple(Report(**fields) for fields in found)
    run.norms.clear()
    run.norms.update(tree.get("norms", {}))
    step, ended = int(tree["step"]), bool(tree["finished"])
    # a run that had made all of its updates goes on where the program asks for more by now
    run.finished = ended and (step < int(tree.get("total", step + 1)) or step >= run.total)
    run.executor.resume([int(i) for i in tree["position"]], int(tree["step"]))
    _set_random_state(tree["random"])


def _read(run: Run, path: Path) -> dict[str, Any]:
    try:
        tree = archive.read(path, run.device)
    except FileNotFoundError:
        raise InputError(report("MLO0506", None, path=path, problem="not found")) from None
    except (OSError, ValueError) as error:
        note = str(error)
        raise InputError(
            report("MLO0506", None, path=path, problem="is not a readable checkpoint", notes=[note])
        ) from error
    if tree.get("format") != FORMAT:
        raise InputError(
            report("MLO0506", None, path=path, problem="is a checkpoint of another version")
        )
    if tree["hash"] != run.plan.hash:
        _same_but_longer(run, path, tree)
    if int(tree["seed"]) != run.seed:
        raise InputError(
            report("MLO0803", None, path=path, notes=[f"it was written under seed {tree['seed']}"])
        )
    return tree


def _same_but_longer(run: Run, path: Path, tree: Mapping[str, Any]) -> None:
    """Raises InputError where the programs differ in more than the number of updates, or where
    updates that are done would have been others.
    """
    before, now = str(tree["source"]), run.plan.source
    if _timeless(before) != _timeless(now):
        lines = difflib.unified_diff(
            before.splitlines(), now.splitlines(), "checkpoint", "program", "", "", 1, ""
        )
        raise InputError(report("MLO0803", None, path=path, notes=["\n".join(list(lines)[:40])]))
    step = int(tree["step"])
    if run.total < step:
        note = f"it has made {step} updates already, and `run.steps` is {run.total}"
        raise InputError(report("MLO0803", None, path=path, notes=[note]))
    for level in run.plan.levels:
        if level.schedule is not None and whole_run(level.schedule):
            note = (
                f"`run.steps` has changed, and `lr_schedule = {level.schedule.name}` of"
                f" `{level.name}` goes over the whole run: updates that are done would have had"
                " other rates; a schedule that is to be taken up again wants a `total`"
            )
            raise InputError(report("MLO0803", None, path=path, notes=[note]))


def _timeless(source: str) -> list[str]:
    """The words of a program without `run.steps`."""
    text = _RUN_STEPS.sub(r"\1 ", source)
    return re.sub(r"^run \{\s*\}", "", text, flags=re.MULTILINE).split()


def _level(stage: Any) -> dict[str, Any]:
    held: dict[str, Any] = {
        "stale": stage.stale,
        "losses": [x.detach() for x in stage.losses],
        "epochs": dict(stage.epochs),
    }
    if stage.feed.frame is not None:
        held["frame"] = _frame(stage.feed, stage.feed.frame)
    if stage.options.plateaus:
        held["plateaus"] = [plateau.state() for plateau in stage.options.plateaus]
    path: Trajectory | None = stage.trajectory
    if path is not None:
        held |= {
            "dropped": path.dropped,
            "copied": path.copied,
            "records": [
                {
                    "theta": r.theta,
                    "state": r.state,
                    "frame": _frame(stage.feed, r.frame),
                    "below": dict(r.below),
                    "count": r.count,
                }
                for r in path.records
            ],
        }
    return held


def _set_level(stage: Any, held: Mapping[str, Any]) -> None:
    stage.stale = bool(held["stale"])
    stage.losses[:] = held["losses"]
    stage.epochs.update(held["epochs"])
    for plateau, state in zip(stage.options.plateaus, held.get("plateaus", ()), strict=True):
        plateau.restore(state)
    stage.feed.frame = _framed(stage.feed, held["frame"]) if "frame" in held else None
    path: Trajectory | None = stage.trajectory
    if path is not None:
        path.dropped, path.copied = int(held["dropped"]), bool(held["copied"])
        path.records = deque(
            Record(
                r["theta"], r["state"], _framed(stage.feed, r["frame"]), r["below"], int(r["count"])
            )
            for r in held["records"]
        )


def _frame(feed: Feed, frame: Frame) -> dict[str, Any]:
    """A frame without its fixed columns."""
    return {
        "columns": {
            key: column for key, column in frame.columns.items() if key not in feed.columns
        },
        "tasks": {name: [dict(t) for t in tasks] for name, tasks in frame.tasks.items()},
        "seed": frame.seed,
        "buffers": {name: dict(buffers) for name, buffers in frame.buffers.items()},
    }


def _framed(feed: Feed, held: Mapping[str, Any]) -> Frame:
    return Frame(
        {**feed.columns, **held["columns"]},
        {name: tuple(tasks) for name, tasks in held["tasks"].items()},
        seed=int(held["seed"]),
        buffers=held["buffers"],
    )


def _random_state() -> dict[str, Any]:
    """Of the generators that a user's Python may draw from."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    found: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(words), gauss],
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
    }
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_rng_state_all()
    return found


def _set_random_state(held: Mapping[str, Any]) -> None:
    torch.set_rng_state(held["torch"].cpu())
    version, words, gauss = held["python"]
    random.setstate((int(version), tuple(int(w) for w in words), gauss))
    kind, keys, position, has_gauss, cached = held["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    if "cuda" in held and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([state.cpu() for state in held["cuda"]])
