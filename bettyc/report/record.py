"""Reading the folder of a run: `bettyc.cli.folder` says what is in it. Needs no torch.

A run that was killed leaves half a line, one that failed at once leaves none: what can be read is
read, and what cannot is a finding.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bettyc.diagnostics.model import Diagnostic
from bettyc.diagnostics.registry import report
from bettyc.plan import Plan, from_json

METRICS, PLAN = "metrics.jsonl", "plan.json"
Json = Mapping[str, Any]


@dataclass(frozen=True)
class Record:
    """A run as its folder tells it.

    label: the shortest name by which the runs of a page can be told apart. lines: one object per
    logged update, by rising step, each step once. plan: None where there is none or this bettyc
    cannot read it. environment, result: the files of those names, empty where they are missing (a
    run that did not end has no result).
    """

    path: str
    label: str
    lines: tuple[Json, ...]
    plan: Plan | None = None
    environment: Json = field(default_factory=dict)
    result: Json = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Updates that it got to, 0 before the first line."""
        return int(self.lines[-1]["step"]) + 1 if self.lines else 0

    def last(self, group: str) -> dict[str, float]:
        """The last finite number of every loss, metric or grad_norm."""
        found: dict[str, float] = {}
        for line in self.lines:
            found.update({k: v for k, v in line.get(group, {}).items() if v is not None})
        return found


def read_all(paths: Sequence[str]) -> tuple[list[Record], list[Diagnostic]]:
    """The runs that can be read, and findings about all of them; errors are about those that
    cannot. Raises OSError for a file that is there and cannot be read.
    """
    records, found = [], []
    for path, label in zip(paths, labels(paths), strict=True):
        record, problems = read(path, label)
        found += problems
        if record is not None:
            records.append(record)
    return records, found


def labels(paths: Sequence[str]) -> list[str]:
    """The ends of the paths that tell them apart: as few parts as that takes, the same for all."""
    parts = [os.path.normpath(os.path.abspath(path)).split(os.sep) for path in paths]
    for count in range(1, max(map(len, parts), default=1) + 1):
        found = ["/".join(p[-count:]) for p in parts]
        if len(set(found)) == len(set(map(tuple, parts))):
            break
    return found if paths else []


def read(path: str, label: str) -> tuple[Record | None, list[Diagnostic]]:
    """One run, None when the folder is not that of a run."""
    why = _no_run(path)
    if why:
        note = "the folder of a run is what `bettyc run` names at its end"
        return None, [report("MLO0805", None, path=path, problem=why, notes=[note])]
    lines, found = _lines(os.path.join(path, METRICS))
    if not lines:
        found.append(report("MLO0807", None, path=path))
    plan, problem = _plan(os.path.join(path, PLAN))
    if problem:
        found.append(_damaged(os.path.join(path, PLAN), problem))
    extra = {}
    for name in ("environment", "result"):
        extra[name], problem = _object(os.path.join(path, f"{name}.json"))
        if problem:
            found.append(_damaged(os.path.join(path, f"{name}.json"), problem))
    return Record(path, label, tuple(lines), plan, **extra), found


def _no_run(path: str) -> str:
    if not os.path.exists(path):
        return "is not there"
    if not os.path.isdir(path):
        return "is a file"
    if not os.path.isfile(os.path.join(path, METRICS)):
        return f"has no `{METRICS}`"
    return ""


def _damaged(path: str, problem: str, *notes: str) -> Diagnostic:
    return report("MLO0806", None, path=path, problem=problem, notes=notes)


def _lines(path: str) -> tuple[list[Json], list[Diagnostic]]:
    """The good lines by step, the later of two with the same step; one finding about the bad."""
    with open(path, "rb") as file:
        rows = file.read().split(b"\n")
    good: dict[int, Json] = {}
    bad: list[tuple[int, str]] = []
    for number, row in enumerate(rows, 1):
        if not row.strip():
            continue
        line, problem = _line(row)
        if problem:
            bad.append((number, problem))
        else:
            good[line["step"]] = line
    found = []
    if bad:
        number, problem = bad[0]
        cut = len(bad) == 1 and number == len(rows)  # the last line, without its line break
        problem = "ends in the middle of a line" if cut else f"line {number}: {problem}"
        more = f"and {len(bad) - 1} more such lines" if len(bad) > 1 else ""
        kept = f"the report shows the {len(good)} lines that can be read"
        found.append(_damaged(path, problem, *filter(None, (more, kept))))
    return [good[step] for step in sorted(good)], found


def _line(row: bytes) -> tuple[dict[str, Any], str]:
    """A line of metrics, or what is wrong with it."""
    try:
        line = json.loads(row)
    except ValueError as error:  # of JSON and of UTF-8
        return {}, f"not JSON ({str(error).partition(':')[0]})"
    if not isinstance(line, dict) or not _count(line.get("step")):
        return {}, "no step"
    for group in ("loss", "metrics", "grad_norm"):
        if not _numbers(line.get(group, {})):
            return {}, f"`{group}` is not numbers by name"
    solves = line.get("solves", [])
    if not isinstance(solves, list) or not all(map(_solve, solves)):
        return {}, "`solves` is not a list of solves"
    return line, ""


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _numbers(values: Any) -> bool:
    return isinstance(values, dict) and all(map(_number, values.values()))


def _number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _solve(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    texts: Iterable[Any] = (value.get("level"), value.get("root"), value.get("strategy"))
    numbers = (value.get("relative_residual"), value.get("products"))
    return all(isinstance(t, str) for t in texts) and all(map(_number, numbers))


def _plan(path: str) -> tuple[Plan | None, str]:
    if not os.path.isfile(path):
        return None, ""
    try:
        with open(path, encoding="utf-8") as file:
            return from_json(file.read()), ""
    except (ValueError, KeyError, TypeError) as error:
        return None, f"is not a plan that this bettyc can read: {error}"


def _object(path: str) -> tuple[dict[str, Any], str]:
    if not os.path.isfile(path):
        return {}, ""
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except ValueError as error:
        return {}, f"is not JSON: {error}"
    return (value, "") if isinstance(value, dict) else ({}, "is not an object")
