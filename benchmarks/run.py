"""bettyc and its peers side by side: `make bench`, or

    python benchmarks/run.py [logistic cleaning] [--repeats 7] [--threads 1] [--output FOLDER]

All contenders of a problem take turns in one process, so that a busy machine slows them alike; read
the ratios. Before a table is made, hypergradients are compared, with each other and with that at
the solution itself: where two libraries do not compute the same thing, or bettyc's error is larger
than that of a peer with the same method, the run ends. Peers that are not installed are named.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
from bilevel import PROBLEMS, Contender, Problem
from measure import Fresh, Row, as_json, fresh, machine, resident, spread, take_turns
from peers import CONTENDERS, DIFFERENT
from picture import bars
from reference import reference

SAME = 1e-3  # relative error of a hypergradient, float32
NOISE = 1.05  # errors of equal methods differ so much by rounding


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("problems", nargs="*", default=list(PROBLEMS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", action="append", help="contenders whose name begins so")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    parser.add_argument("--fresh", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)
    torch.set_num_threads(given.threads)
    if given.fresh:
        print(json.dumps(asdict(once(*given.fresh))))
        return
    rows = {}
    for name in given.problems:
        problem = PROBLEMS[name]()
        rows[name] = compare(problem, given.repeats, given.threads, given.only)
        unit, factor = unit_of(problem)
        table(problem, rows[name])
        picture = bars(f"{name}, {given.threads} threads", unit, factor, rows[name])
        (given.output / f"{name}.svg").write_text(picture, encoding="utf-8")
    text = as_json(rows, machine(given.threads))
    (given.output / "results.json").write_text(text, encoding="utf-8")
    print(f"written: {given.output}/results.json and one picture per problem")


def compare(problem: Problem, repeats: int, threads: int, only: list[str] | None) -> list[Row]:
    """A row per contender that could be started."""
    contenders: dict[str, Contender] = {}
    errors: dict[str, float] = {}
    truths: dict[str, float] = {}
    truth, first = reference(problem.name), None
    for name, make in CONTENDERS.items():
        if only and first is not None and not any(name.startswith(o) for o in only):
            continue
        try:
            contender = make(problem)
        except ImportError as error:
            print(f"{problem.name}: {name} is not installed ({error.name})", flush=True)
            continue
        contender.round()
        found = (problem.lam - contender.lam().reshape(-1)) / problem.upper_lr
        first = found if first is None else first
        errors[name] = float((found - first).norm() / first.norm())
        truths[name] = float((found - truth).norm() / truth.norm())
        limit = problem.near if name in DIFFERENT else SAME
        if not errors[name] <= limit:
            sys.exit(f"{problem.name}: the hypergradient of {name} is off by {errors[name]:.1e}")
        contenders[name] = contender
    ours = [n for n in truths if n.startswith("bettyc")]
    for name in truths.keys() - {*ours, *DIFFERENT}:
        for own in ours:
            if truths[own] > NOISE * truths[name]:
                sys.exit(f"{problem.name}: the error of {own} is larger than that of {name}")
    losses = {name: after(problem, c) for name, c in contenders.items()}
    times = take_turns(contenders, repeats)
    rows = []
    for name, t in times.items():
        new = fresh(problem.name, name, threads)
        rows.append(
            Row(
                name, statistics.median(t), spread(t),
                new and new.start, new and new.compile, new and new.memory,
                errors[name], truths[name], losses[name], DIFFERENT.get(name, ""),
            )
        )  # fmt: skip
    return rows


def after(problem: Problem, contender: Contender, rounds: int = 4) -> float:
    """The upper loss of the steps that lam leads to, by the same code for all."""
    from peers import descend

    for _ in range(rounds):
        contender.round()
    lam = contender.lam().reshape(-1).detach()
    return float(problem.upper(descend(problem, lam)).detach())


def once(problem_name: str, name: str) -> Fresh:
    """Start-up, compile time and memory of a contender, in this process."""
    problem = PROBLEMS[problem_name]()
    before, began = resident(), time.perf_counter()
    contender = CONTENDERS[name](problem)
    made = time.perf_counter()
    rounds = []
    for _ in range(3):
        at = time.perf_counter()
        contender.round()
        rounds.append(time.perf_counter() - at)
    return Fresh(made - began, max(0.0, rounds[0] - rounds[2]), resident() - before)


def unit_of(problem: Problem) -> tuple[str, float]:
    if problem.per_step:
        return "microseconds per inner step, outer work included", 1e6 / problem.steps
    return "milliseconds per round", 1e3


def table(problem: Problem, rows: list[Row]) -> None:
    """Markdown, with ratios to the first bettyc -O1."""
    unit, factor = unit_of(problem)
    ours = next((r.median for r in rows if r.name == "bettyc -O1"), rows[0].median)
    print(f"\n{problem.name}: {unit}\n")
    print(
        "| library | time | ± | times bettyc -O1 | start, s | compile, s | MiB"
        " | error against the first | error against the solution | loss |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        start, compile_, memory = (
            "–" if value is None else f"{value:.{digits}f}"
            for value, digits in ((row.start, 2), (row.compile, 2), (row.memory, 0))
        )
        print(
            f"| {row.name} | {row.median * factor:.3g} | {row.spread:.0%} | {row.median / ours:.2f}"
            f" | {start} | {compile_} | {memory} | {row.error:.1e} | {row.truth:.1e}"
            f" | {row.loss:.4f} |"
        )
    for row in rows:
        if row.note:
            print(f"\n{row.name}: {row.note}.")
    print(flush=True)


if __name__ == "__main__":
    main()
