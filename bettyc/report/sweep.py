"""The folder of a sweep: `sweep.json` and the folders of its runs, read as groups over seeds."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bettyc.diagnostics.model import Diagnostic
from bettyc.diagnostics.registry import report
from bettyc.report.curves import Group, mean_and_error
from bettyc.report.record import METRICS, Record, read

SWEEP = "sweep.json"


@dataclass(frozen=True)
class Planned:
    """One run of a sweep: the name of its folder in the sweep's, what is set, the seed."""

    folder: str
    settings: tuple[tuple[str, str], ...]
    seed: int

    @property
    def label(self) -> str:
        """`tune.optimizer.lr = 0.1, fit.steps = 5`; empty where nothing is swept but seeds."""
        return ", ".join(f"{path} = {value}" for path, value in self.settings)


def is_sweep(path: str) -> bool:
    return os.path.isfile(os.path.join(path, SWEEP))


def sweep_of(path: str) -> tuple[dict[str, Any], list[Planned]]:
    """What `sweep.json` says, and the runs in it. Raises ValueError where it is none."""
    with open(os.path.join(path, SWEEP), encoding="utf-8") as file:
        content = json.load(file)
    try:
        return content, [
            Planned(
                str(run["folder"]),
                tuple((str(path), str(value)) for path, value in run["settings"]),
                int(run["seed"]),
            )
            for run in content["runs"]
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"it lacks {error}") from None


def read_sweep(path: str) -> tuple[list[Group], list[Diagnostic]]:
    """A group per setting with the runs that have begun; findings about those that are damaged."""
    try:
        _, runs = sweep_of(path)
    except ValueError as error:
        problem = f"is not the list of a sweep: {error}"
        return [], [report("MLO0806", None, path=os.path.join(path, SWEEP), problem=problem)]
    found: list[Diagnostic] = []
    groups: dict[str, list[Record]] = {}
    for run in runs:
        where = os.path.join(path, run.folder)
        members = groups.setdefault(run.label or os.path.basename(os.path.normpath(path)), [])
        if not os.path.isfile(os.path.join(where, METRICS)):
            continue
        record, problems = read(where, run.folder)
        found += problems
        if record is not None:
            members.append(record)
    return [Group(label, tuple(members)) for label, members in groups.items() if members], found


def summary(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Per group the mean and standard error over its finished runs of every last number."""
    return [_summed(group) for group in groups]


def _summed(group: Group) -> dict[str, Any]:
    finished = [run for run in group.runs if run.result]
    content: dict[str, Any] = {"setting": group.label, "runs": len(group.runs),
                               "finished": len(finished)}  # fmt: skip
    for kind in ("loss", "metrics"):
        content[kind] = {
            name: _statistics([run.result[kind][name] for run in finished
                               if run.result.get(kind, {}).get(name) is not None])
            for name in names(finished, kind)
        }  # fmt: skip
    return content


def names(runs: Sequence[Record], kind: str) -> list[str]:
    """Of all losses or metrics that a finished run ended with."""
    return list(dict.fromkeys(name for run in runs for name in run.result.get(kind, {})))


def _statistics(values: Sequence[float]) -> dict[str, Any]:
    """Of the finite ones; the error is None where there are too few for one."""
    if not values:
        return {"mean": None, "error": None, "count": 0}
    mean, error = mean_and_error(values)
    return {"mean": mean, "error": error if len(values) > 1 else None, "count": len(values)}


def shown(statistics: Mapping[str, Any], runs: int) -> str:
    """`0.123 ± 0.004`, and of how many runs where that is not all of them."""
    if not statistics["count"]:
        return ""
    text = f"{statistics['mean']:.5g}"
    if statistics["error"] is not None:
        text += f" ± {statistics['error']:.2g}"
    lacking = statistics["count"] < runs
    return f"{text} ({statistics['count']} of {runs})" if lacking else text
