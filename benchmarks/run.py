"""bettyc and its peers side by side: `make bench`, or

    python benchmarks/run.py [logistic cleaning] [--repeats 7] [--threads 1] [--output FOLDER]

All contenders of a problem take turns in one process, so that a busy machine slows them alike; read
the ratios. Before a table is made, hypergradients and losses are compared: where two libraries do
not compute the same thing, the run ends. Peers that are not installed are named.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from pathlib import Path

import torch
from bilevel import PROBLEMS, Contender, Problem
from measure import Row, as_json, machine, memory_of, resident, spread, take_turns
from peers import CONTENDERS, DIFFERENT
from picture import bars

SAME = 1e-3  # relative error of a hypergradient, float32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("problems", nargs="*", default=list(PROBLEMS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", action="append", help="contenders whose name begins so")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)
    torch.set_num_threads(given.threads)
    if given.memory:
        print(peak(*given.memory))
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
    first: dict[str, float] = {}
    errors: dict[str, float] = {}
    reference = None
    for name, make in CONTENDERS.items():
        if only and reference is not None and not any(name.startswith(o) for o in only):
            continue
        began = time.perf_counter()
        try:
            contender = make(problem)
        except ImportError as error:
            print(f"{problem.name}: {name} is not installed ({error.name})", flush=True)
            continue
        contender.round()
        first[name] = time.perf_counter() - began
        hypergradient = (problem.lam - contender.lam().reshape(-1)) / problem.upper_lr
        reference = hypergradient if reference is None else reference
        errors[name] = float((hypergradient - reference).norm() / reference.norm())
        limit = problem.near if name in DIFFERENT else SAME
        if not errors[name] <= limit:
            sys.exit(f"{problem.name}: the hypergradient of {name} is off by {errors[name]:.1e}")
        contenders[name] = contender
        print(f"{problem.name}: {name} started in {first[name]:.2f} s", flush=True)
    losses = {name: after(problem, c) for name, c in contenders.items()}
    times = take_turns(contenders, repeats)
    return [
        Row(name, first[name], statistics.median(t), spread(t),
            memory_of(problem.name, name, threads), errors[name], losses[name],
            DIFFERENT.get(name, ""))
        for name, t in times.items()
    ]  # fmt: skip


def after(problem: Problem, contender: Contender, rounds: int = 4) -> float:
    """The upper loss of the steps that lam leads to, by the same code for all."""
    from peers import descend

    for _ in range(rounds):
        contender.round()
    lam = contender.lam().reshape(-1).detach()
    return float(problem.upper(descend(problem, lam)).detach())


def peak(problem_name: str, name: str) -> float:
    """MiB that the library and three rounds take above torch and the data."""
    problem = PROBLEMS[problem_name]()
    before = resident()
    contender = CONTENDERS[name](problem)
    for _ in range(3):
        contender.round()
    return resident() - before


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
        "| library | time | ± | times bettyc -O1 | first round, s | MiB | hypergradient error"
        " | loss |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        memory = "–" if row.memory is None else f"{row.memory:.0f}"
        print(
            f"| {row.name} | {row.median * factor:.3g} | {row.spread:.0%} | {row.median / ours:.2f}"
            f" | {row.first:.2f} | {memory} | {row.error:.1e} | {row.loss:.4f} |"
        )
    for row in rows:
        if row.note:
            print(f"\n{row.name}: {row.note}.")
    print(flush=True)


if __name__ == "__main__":
    main()
