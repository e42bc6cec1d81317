"""The Omniglot tables of README.md, from the runs that omniglot_figures.py keeps."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

HERE = Path(__file__).parent
KEPT = HERE / "figures" / "omniglot"
README = HERE / "README.md"
BEGIN, END = "<!-- omniglot: made by omniglot_figures.py -->", "<!-- end of omniglot -->"
TITLES = {"maml": "MAML", "first_order": "first-order MAML", "imaml": "iMAML"}
WAYS = ["nearest", *(way + end for way in TITLES for end in ("", "_loop"))]
HEADS = ["pixels", *(head for title in TITLES.values() for head in (title, "its loop"))]
SIZES = {"5x5": "5 characters, 5 drawings each", "20x1": "20 characters, 1 drawing each"}
Kept = dict[str, Any]


def place(name: str, alphabet: str, seed: int, size: str = "5x1") -> Path:
    """Where a run is kept. size: of its tasks, characters x drawings to adapt to."""
    return KEPT / f"{name}-{alphabet}-{seed}{'' if size == '5x1' else f'-{size}'}.json"


def kept(name: str, alphabet: str, size: str = "5x1") -> dict[int, Kept]:
    """By seed."""
    found = {}
    for path in KEPT.glob(f"{name}-{alphabet}-*.json"):
        _, _, seed, *other = path.stem.split("-")
        if other == ([] if size == "5x1" else [size]):
            found[int(seed)] = json.loads(path.read_text())
    return found


def write_tables() -> None:
    text = README.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    tables = [table for table in (accuracies(), differences(), others()) if table]
    README.write_text(f"{head}{BEGIN}\n" + "\n\n".join(tables) + f"\n{END}{tail}")


def accuracies() -> str:
    """By held-out alphabet; the mean of full columns; updates and seconds of a training."""
    columns = [[kept(name, alphabet) for alphabet in _alphabets()] for name in WAYS]
    lines = [["held out", *HEADS]]
    lines += [[a, *(_cell(c[k]) for c in columns)] for k, a in enumerate(_alphabets())]
    lines.append(["mean", *(_percent(map(_acc, c)) if all(c) else "" for c in columns)])
    for title, key in (("updates", "steps"), ("CPU seconds", "seconds")):
        each = [[run[key] for runs in c for run in runs.values() if key in run] for c in columns]
        lines.append([title, *(f"{mean(values):.0f}" if values else "" for values in each)])
    return _table(lines)


def differences() -> str:
    """What bettyc is above the loop, in points; of all pairs the mean and its standard error."""
    lines = [["above the loop", *_alphabets(), "mean", "pairs"]]
    for way, title in TITLES.items():
        apart = [_apart(way, alphabet) for alphabet in _alphabets()]
        pairs = [points for found in apart for points in found]
        error = f" ± {stdev(pairs) / len(pairs) ** 0.5:.1f}" if len(pairs) > 1 else ""
        cells = [_signed(found) for found in (*apart, pairs)]
        lines.append([title, *cells[:-1], cells[-1] + error, str(len(pairs))])
    return _table(lines)


def others() -> str:
    """Tasks of other sizes, after how many updates; empty where none is kept."""
    lines = [["held out, tasks", *HEADS]]
    for size, title in SIZES.items():
        for alphabet in sorted({path.stem.split("-")[1] for path in KEPT.glob(f"*-{size}.json")}):
            found = [kept(name, alphabet, size) for name in WAYS]
            lines.append([f"{alphabet}, {title}", *(_cell(runs) + _after(runs) for runs in found)])
    return _table(lines) if lines[1:] else ""


def _alphabets() -> list[str]:
    return sorted({path.stem.split("-")[1] for path in KEPT.glob("*.json")})


def _apart(way: str, alphabet: str) -> list[float]:
    """Per seed."""
    ours, loops = kept(way, alphabet), kept(f"{way}_loop", alphabet)
    return [100 * (ours[seed]["acc"] - loops[seed]["acc"]) for seed in sorted(ours.keys() & loops)]


def _acc(runs: dict[int, Kept]) -> float:
    return mean(run["acc"] for run in runs.values())


def _signed(points: list[float]) -> str:
    return f"{round(mean(points), 1) + 0.0:+.1f}" if points else ""  # +0.0 rather than -0.0


def _percent(values: Any) -> str:
    return f"{100 * mean(values):.1f}"


def _cell(runs: dict[int, Kept]) -> str:
    """Percent, the mean over seeds, and the standard error over tasks, which the seeds share."""
    if not runs:
        return ""
    error = 100 * mean(run["error"] for run in runs.values())
    seeds = f" ({len(runs)})" if len(runs) > 1 else ""
    return f"{_percent([_acc(runs)])} ± {error:.1f}{seeds}"


def _after(runs: dict[int, Kept]) -> str:
    steps = {run["steps"] for run in runs.values() if "steps" in run}
    return f", {'/'.join(str(n) for n in sorted(steps))} updates" if steps else ""


def _table(lines: list[list[str]]) -> str:
    rows = ["| " + " | ".join(cells) + " |" for cells in lines]
    return "\n".join([rows[0], "|---" * len(lines[0]) + "|", *rows[1:]])
