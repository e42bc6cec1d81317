"""The folder of a run: what was run, what came out, and from where it can go on.

resolved.mlo            the program with all values from outside, formatted, paths for this folder
plan.json               the plan
environment.json        what it runs on: versions, device, threads
metrics.jsonl           one line per update of the top level, or per `log = every(n)`
    metrics.csv             the same numbers, where `log = csv` asks for it
loggers.json            under what number Weights & Biases and MLflow know the run, where they do
checkpoints/            where a run can be resumed
variables.safetensors   every variable at the end, named level.variable; averages where a level has
                        an `average`
export.safetensors      those that `run.export` names
result.json             updates, seconds, last numbers; written when a run is done, by no other
report.html             a page about all this, however the run ended
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from bettyc.cli.common import said, write
from bettyc.model import Call, Ref

if TYPE_CHECKING:
    from bettyc.cli.loggers import Logger
    from bettyc.plan import Plan
    from bettyc.runtime.run import Output, Run

_CHECKPOINT = re.compile(r"step-(\d+)\.ckpt")


class Folder:
    """A new folder. Raises OSError if it cannot be made, `click.UsageError` if it is taken.

    `done`: the folder is that of a run which goes on in it after so many updates; None: a new one.
    """

    def __init__(self, path: str | None, program: str, done: int | None = None) -> None:
        if path is None:
            self.path = claim_next(program)
        else:
            self.path = _claim(path) if done is None else path
        self._done = done
        if done is not None:
            _rewind(path or "", done)
        mode = "x" if done is None else "a"
        self._metrics = open(self.file("metrics.jsonl"), mode, encoding="utf-8")  # noqa: SIM115
        self.loggers: list[Logger] = []
        self._kept: list[str] = []
        self._written: list[str] = []
        self._best: tuple[float, str] | None = None
        self._begun = False

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._metrics.close()
        for logger in self.loggers:
            logger.close(kind is not None)
        if self._begun:
            self._report()

    def file(self, *name: str) -> str:
        """The path of a file in it."""
        return os.path.join(self.path, *name)

    def begin(self, plan: Plan, device: str) -> None:
        """Write what is run and on what, and open the loggers that it asks for."""
        from bettyc.cli.loggers import loggers
        from bettyc.environment import of_run
        from bettyc.relocate import relocate

        self.loggers = loggers(plan, self.path, self._done)
        self._remember(plan)
        source = relocate(plan.source, plan.folder, os.path.abspath(self.path))
        for name, text in (
            ("resolved.mlo", source),
            ("plan.json", plan.to_json() + "\n"),
            ("environment.json", json.dumps(of_run(device), indent=2) + "\n"),
        ):
            write(self.file(name), text)
        self._begun = True

    def log(self, line: Mapping[str, Any]) -> None:
        """Add a line to `metrics.jsonl`; it is on disk when this returns."""
        self._metrics.write(json.dumps(line) + "\n")
        self._metrics.flush()

    def checkpoint(self, run: Run, step: int) -> str:
        """Write a checkpoint of `step` finished updates; its path."""
        os.makedirs(self.file("checkpoints"), exist_ok=True)
        return str(run.save(self.file("checkpoints", f"step-{step:06d}.ckpt")))

    def regular(self, run: Run, output: Output, setting: Call) -> None:
        """What `checkpoint = every(n, keep, best, mode)` asks for after an update: the last `keep`
        of the regular ones stay (0: all), and besides them the best so far.
        """
        n, keep = _count(setting, "n"), _count(setting, "keep")
        step = output.step + 1
        best = setting.get("best")
        better = self._better(best, setting.get("mode"), output) if isinstance(best, Ref) else False
        if not better and (n == 0 or step % n):
            return
        path = self.checkpoint(run, step)
        self._written.append(path)
        if better and isinstance(best, Ref):
            self._best = (_score(best, output), path)
        if n and step % n == 0:
            self._kept = [*self._kept, path][-keep if keep else 0 :]
        wanted = {*self._kept, *([self._best[1]] if self._best else [])}
        for old in [w for w in self._written if w not in wanted]:
            self._written.remove(old)
            os.remove(old)

    def _remember(self, plan: Plan) -> None:
        """Of a run that goes on: the regular checkpoints that are there, and the best of them."""
        setting = plan.model.setting("checkpoint")
        if not self._done or not isinstance(setting, Call):
            return
        n, best = _count(setting, "n"), setting.get("best")
        present = {step: path for step, path in checkpoints(self.path) if step <= self._done}
        self._kept = [path for step, path in present.items() if n and step % n == 0]
        self._written = list(self._kept)
        if not isinstance(best, Ref):
            return
        sign = -1 if setting.get("mode") == "min" else 1
        scores = [
            (sign * score, -step, present[step])
            for step, score in _scores(best, self.file("metrics.jsonl"))
            if step in present
        ]
        if scores:
            score, _, path = max(scores)
            self._best = (sign * score, path)
            self._written += [path] if path not in self._written else []

    def _better(self, best: Ref, mode: Any, output: Output) -> bool:
        score = _score(best, output)
        if math.isnan(score):
            return False
        sign = -1 if mode == "min" else 1
        return self._best is None or sign * score > sign * self._best[0]

    def end(self, run: Run, plan: Plan, last: Output | None, seconds: float) -> None:
        """Write the variables and the result."""
        from safetensors.torch import save_file

        tensors = {
            f"{level}.{name}": value.contiguous().cpu()
            for level in plan.order
            for name, value in run.averaged(level).values().items()
        }
        save_file(tensors, self.file("variables.safetensors"))
        wanted = _exported(plan.model.setting("export"), tensors)
        if wanted:
            save_file({k: tensors[k] for k in wanted}, self.file("export.safetensors"))
        result = {
            "schema": 1,
            "updates": run.step_count,
            "seconds": round(seconds, 3),
            "stopped": last.stopped if last is not None else "",
            "loss": _finite(last.loss) if last is not None else {},
            "metrics": _finite(last.metrics) if last is not None else {},
        }
        write(self.file("result.json"), json.dumps(result, indent=2) + "\n")

    def _report(self) -> None:
        """Write the page; a run is not lost because its page cannot be written."""
        from bettyc.report.curves import Group
        from bettyc.report.page import page
        from bettyc.report.record import read_all

        records, found = read_all([self.path])
        groups = [Group(record.label, (record,)) for record in records]
        try:
            write(self.file("report.html"), page(records[0].label, groups, found))
        except OSError as error:
            said(f"warning: no report: {error.strerror}")


def _count(setting: Call, name: str) -> int:
    value = setting.get(name)
    return value if isinstance(value, int) else 0


def _score(best: Ref, output: Output) -> float:
    """The metric or level's loss that a checkpoint is judged by; NaN where it was not evaluated."""
    level, _, field = best.path.partition(".")
    if field == "loss":
        return output.loss.get(level, math.nan)
    return output.metrics.get(best.path, math.nan)


def _scores(best: Ref, metrics: str) -> Iterator[tuple[int, float]]:
    """Finished updates and scores of all lines that have one."""
    level, _, field = best.path.partition(".")
    with open(metrics, encoding="utf-8") as file:
        for line in map(json.loads, file):
            found = line["loss"].get(level) if field == "loss" else line["metrics"].get(best.path)
            if found is not None:
                yield line["step"] + 1, found


def checkpoints(path: str) -> list[tuple[int, str]]:
    """The checkpoints in the folder of a run, with their finished updates, earliest first."""
    folder = os.path.join(path, "checkpoints")
    names = os.listdir(folder) if os.path.isdir(folder) else []
    found = [(_CHECKPOINT.fullmatch(name), os.path.join(folder, name)) for name in names]
    return sorted((int(match[1]), where) for match, where in found if match)


def _rewind(path: str, done: int) -> None:
    """Take back what was logged after `done` updates, half a line at the end included, and the
    result of a run that goes on after it was finished.
    """
    for name, step_of in (("metrics.jsonl", _step_of_line), ("metrics.csv", _step_of_row)):
        file = os.path.join(path, name)
        if not os.path.isfile(file):
            continue
        with open(file, encoding="utf-8", errors="replace", newline="") as lines:
            kept = [line for line in lines if line.endswith("\n") and step_of(line) < done]
        write(file, "".join(kept))
    if os.path.isfile(os.path.join(path, "result.json")):
        os.remove(os.path.join(path, "result.json"))


def _step_of_line(line: str) -> float:
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf
    return step if isinstance(step, int) else math.inf


def _step_of_row(row: str) -> float:
    word = row.split(",", 1)[0]
    if word == "step":
        return -1
    return int(word) if word.isdecimal() else math.inf


def _exported(setting: Any, known: Mapping[str, Any]) -> list[str]:
    """The tensors of the variables and networks that `export` names."""
    refs = setting if isinstance(setting, tuple) else ()
    paths = [r.path for r in refs if isinstance(r, Ref)]
    return [k for k in known if any(k == p or k.startswith(f"{p}.") for p in paths)]


def _claim(path: str) -> str:
    """Make the folder that `-o` names; one with files in it is taken."""
    os.makedirs(path, exist_ok=True)
    if os.listdir(path):
        raise click.UsageError(f"`{path}` has files in it; a run never overwrites another")
    return path


def claim_next(program: str) -> str:
    """Make the next free `runs/PROGRAM-N`; two runs that start together get two."""
    os.makedirs("runs", exist_ok=True)
    number = 1 + max((_number(name, program) for name in os.listdir("runs")), default=0)
    while True:
        path = os.path.join("runs", f"{program}-{number}")
        try:
            os.mkdir(path)
        except FileExistsError:
            number += 1
        else:
            return path


def _number(name: str, program: str) -> int:
    tail = name.removeprefix(f"{program}-")
    return int(tail) if name != tail and tail.isdecimal() else 0


def line_of(output: Output) -> dict[str, Any]:
    """An output as JSON; numbers that are not finite become null, as JSON has none."""
    return {
        "step": output.step,
        "loss": _finite(output.loss),
        "metrics": _finite(output.metrics),
        "grad_norm": _finite(output.grad_norm),
        "solves": [
            {"level": r.level, "root": r.root, "strategy": r.strategy, "products": r.products,
             "iterations": r.iterations, "converged": r.converged,
             "relative_residual": _number_or_null(r.relative_residual),
             "min_ritz": _number_or_null(r.min_ritz), "bound": _number_or_null(r.bound),
             "note": r.note}
            for r in output.reports
        ],
    }  # fmt: skip


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _number_or_null(value) for name, value in values.items()}


def _number_or_null(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def listed(values: Mapping[str, float] | Sequence[tuple[str, float]]) -> str:
    """`tune 0.0735, fit 0.041`."""
    pairs = values.items() if isinstance(values, Mapping) else values
    return ", ".join(f"{name} {value:.5g}" for name, value in pairs)
