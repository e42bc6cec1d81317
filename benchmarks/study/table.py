"""study.json as a page of tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from programs import PROGRAMS

HEAD = """\
# Strategies side by side

Made by `benchmarks/study/study.py`, torch {torch}, {threads} thread; times are of one
hypergradient, without the inner steps. The error is relative, against

- `solution`: the hypergradient of the nested problem, dense, in float64, all levels solved;
- `point`: the dense float64 solve at the lower level's present variables and batch;
- `steps`: the float64 derivative of the inner steps since their start.

`right` are the strategies whose error is within the accuracy that the row states; the fastest of
them is the best, and the last column is the time of `auto` over its time.
"""


def right(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows within the stated accuracy, the fastest first; `auto` is not one of them."""
    rows = [r for r in found["rows"] if "ms" in r and r["strategy"] != "auto"]
    return sorted((r for r in rows if r["error"] <= found["accuracy"]), key=lambda r: r["ms"])


BOME = (
    "What `penalty(rule = bome)` leaves is the method's own, in two parts. Its stationary points",
    "are those of a Neumann series with as many terms as it has `steps`: of hyper_cleaning it",
    "leaves 3.6e-02, 1.4e-02 and 8.6e-03 with 5, 20 and 80. And its direction divides by the norm",
    "of the gradient that it has to make vanish, so that with fixed learning rates it stops about",
    "a step away: of logistic it leaves 2.8e-03, 6.5e-04 and 4.4e-04 with both learning rates at",
    "1, 0.3 and 0.1 of the program's; 4.1e-04 is what the Neumann series of 5 terms leaves with",
    "the lower level solved.",
)


def auto_of(found: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(r for r in found["rows"] if r["strategy"] == "auto")  # type: ignore[no-any-return]


def ratio(found: Mapping[str, Any]) -> float:
    """Time of `auto` over that of the best right strategy."""
    return float(auto_of(found)["ms"]) / min(r["ms"] for r in [auto_of(found), *right(found)])


def written(study: Mapping[str, Any]) -> str:
    """The whole page."""
    lines = [HEAD.format(**study)]
    lines += ["## `auto` against the best", ""]
    lines.append("| program | truth | accuracy | `auto` takes | error | ms | best | ms | ratio |")
    lines.append("|---|---|---|---|---|---|---|---|---|")
    known = [p.name for p in PROGRAMS if p.name in study["programs"]]
    for name in known:
        found = study["programs"][name]
        auto, best = auto_of(found), (right(found) or [auto_of(found)])[0]
        chosen = ", ".join(dict.fromkeys(auto["chosen"].values()))
        lines.append(
            f"| {name} | {found['truth']} | {found['accuracy']:g} | {chosen}"
            f" | {auto['error']:.1e} | {auto['ms']:.3g} | {best['strategy']} | {best['ms']:.3g}"
            f" | {ratio(found):.2f} |"
        )
    for name in known:
        lines += ["", *_program(name, study["programs"][name])]
    if "runs" in study:
        lines += ["", *_runs(study["runs"])]
    return "\n".join(lines) + "\n"


def _program(name: str, found: Mapping[str, Any]) -> list[str]:
    lines = [f"## {name}: {found['what']}", ""]
    lines += ["| strategy | error | ms | KiB | right |", "|---|---|---|---|---|"]
    for row in found["rows"]:
        if "ms" in row:
            good = "yes" if row["error"] <= found["accuracy"] else ""
            kib = "–" if row["kib"] is None else f"{row['kib']:.0f}"
            cells = f"{row['error']:.1e} | {row['ms']:.3g} | {kib} | {good}"
        else:
            cells = f"{row.get('failed') or 'refused: ' + row['refused']} | | |"
        lines.append(f"| `{row['strategy']}` | {cells} |")
    return lines


def _runs(runs: Mapping[str, Any]) -> list[str]:
    """Where whole runs end up."""
    lines = ["## Whole runs", ""]
    lines.append("Share of the gap between the start and the best that is left, by updates of the")
    lines.append("top level. The best is what 2000 updates along exact hypergradients reach.")
    lines += ["", *BOME]
    for name, found in runs.items():
        marks = found["updates"]
        lines += ["", f"### {name}", ""]
        lines.append("| strategy | " + " | ".join(str(k) for k in marks) + " |")
        lines.append("|---" * (len(marks) + 1) + "|")
        for strategy, left in found["left"].items():
            lines.append(f"| `{strategy}` | " + " | ".join(f"{x:.2e}" for x in left) + " |")
    return lines
