"""The decisions of a plan that a check can already make: optimizers, strategies, sweeps,
schedule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError

from bettyc.diagnostics.model import Diagnostic, Label
from bettyc.diagnostics.registry import report
from bettyc.hierarchy import Hierarchy
from bettyc.model import Call, Model
from bettyc.optimizers import OPTIMIZERS
from bettyc.plan import ENDLESS, Instruction, Pull
from bettyc.planner import choose, compat
from bettyc.planner.facts import Facts, is_zero_sum, span_of
from bettyc.planner.schedule import ConflictError, Pace, schedule
from bettyc.strategies import STRATEGIES

# strategies that replay a level's updates, which works while those do not themselves take a
# hypergradient
REPLAYS = ("unroll", "forward", "score")
# strategies that are a linear solve, so that a response can be differentiated again
IMPLICIT = ("exact", "cg", "minres", "gmres")


@dataclass(frozen=True)
class Decisions:
    """optimizer and strategy of every level, what its Hessian means ("direct" or "total", DESIGN
    3), the adjoint sweeps, the schedule of the whole run.
    """

    optimizers: Mapping[str, choose.Choice]
    strategies: Mapping[str, choose.Choice]
    totals: Mapping[str, str]
    sweeps: Mapping[str, tuple[Pull, ...]]
    program: tuple[Instruction, ...]

    @cached_property
    def pulled(self) -> frozenset[str]:
        """The levels that some hypergradient goes through."""
        return frozenset(pull.level for sweep in self.sweeps.values() for pull in sweep)


def decide(
    model: Model, facts: Mapping[str, Facts], h: Hierarchy
) -> tuple[Decisions | None, list[Diagnostic]]:
    """All decisions, or what stands against them."""
    found: list[Diagnostic] = []
    betty = compat.is_betty(model)
    optimizers: dict[str, choose.Choice] = {}
    strategies: dict[str, choose.Choice] = {}
    for name in h.levels:
        f = facts[name]
        optimizer, problems = choose.optimizer(f, span_of(f.level, "optimizer"))
        found += problems
        if optimizer is not None:
            optimizers[name] = optimizer
            strategies[name] = _strategy(f, facts, h, optimizer.call, betty)
    if found:
        return None, found
    dense = _dense(facts, strategies, h)
    totals = {n: "direct" if betty else _total(facts, h, n, dense) for n in h.levels}
    sweeps, circular = _sweeps(h, totals, betty)
    found += [_circular(facts[n]) for n in circular if _said(facts[n]) == "total"]
    totals = {n: "direct" if n in circular else word for n, word in totals.items()}
    found += _too_long(facts, strategies, sweeps)
    paces = {n: pace(facts[n], optimizers[n].call) for n in h.levels}
    if betty:
        solves = frozenset(n for n, p in paces.items() if p.solves)
        paces = compat.paces(h, facts, solves)
        calls = {n: choice.call for n, choice in strategies.items()}
        found += compat.differences(h, facts, calls, sweeps, solves)
    steps = model.setting("steps")
    try:
        program = schedule(h, paces, sweeps, steps if isinstance(steps, int) else 100)
    except ConflictError as error:
        return None, [*found, _conflict(facts, error)]
    return Decisions(optimizers, strategies, totals, sweeps, program), found


def _sweeps(
    h: Hierarchy, totals: Mapping[str, str], betty: bool
) -> tuple[dict[str, tuple[Pull, ...]], frozenset[str]]:
    """The adjoint sweep of every level, and the levels whose total curvature had to be given up:
    levels that move together and meet in a level below are functions of each other.
    """
    if betty:
        return {n: tuple(Pull(*p) for p in h.sweep(n, walk=True)) for n in h.levels}, frozenset()
    total = frozenset(n for n, word in totals.items() if word == "total")
    try:
        return {n: tuple(Pull(*p) for p in h.sweep(n, total)) for n in h.levels}, frozenset()
    except CycleError:
        return {n: tuple(Pull(*p) for p in h.sweep(n)) for n in h.levels}, total


def _said(f: Facts) -> str:
    said = f.level.setting("curvature")
    return said.name if isinstance(said, Call) else "auto"


def _circular(f: Facts) -> Diagnostic:
    return report(
        "MLO0617",
        span_of(f.level, "curvature") or f.level.span,
        level=f.name,
        label="its solution and another's are functions of each other",
        notes=["write `curvature = direct`, or star one of the levels that share a lower level"],
    )


def inner(h: Hierarchy, level: str) -> list[str]:
    """The levels that `level` stars and whose solutions move with its variables."""
    return sorted(q for q in h.starred[level] if h.depends(q, level))


def _dense(
    facts: Mapping[str, Facts], strategies: Mapping[str, choose.Choice], h: Hierarchy
) -> frozenset[str]:
    """The levels that are small and known, with all below them small, known and solved for."""
    found: set[str] = set()
    for name in h.order:
        f = facts[name]
        small = f.size is not None and f.size <= choose.DENSE and not f.noisy
        below = h.direct(name)
        solved = all(q in found and strategies[q].call.name in IMPLICIT for q in below)
        if small and f.level.task is None and solved:
            found.add(name)
    return frozenset(found)


def _total(facts: Mapping[str, Facts], h: Hierarchy, level: str, dense: frozenset[str]) -> str:
    """Direct or total curvature. `auto` takes total where every level inside is small, known and
    solved for.
    """
    said = facts[level].level.setting("curvature")
    inside = inner(h, level)
    if isinstance(said, Call) and said.name != "auto":
        return said.name
    if not inside or facts[level].level.task is not None:
        return "direct"
    return "total" if level in dense else "direct"


def _strategy(
    f: Facts, facts: Mapping[str, Facts], h: Hierarchy, optimizer: Call, betty: bool
) -> choose.Choice:
    readers = h.readers(f.name)
    frozen = not readers and f.name in h.constant
    if f.name not in h.lower:
        none = choose.filled(STRATEGIES, "none")
        return choose.Choice(none, (choose.Verdict("none", "no level reads its response", True),))
    if betty and f.strategy.name == "auto" and not frozen:
        call = choose.filled(STRATEGIES, "finite_diff")
        return choose.Choice(call, (choose.Verdict("finite_diff", "Betty's default", True),))
    zero_sum = len(readers) == 1 and is_zero_sum(f, facts[readers[0]])
    return choose.strategy(f, optimizer, frozen, zero_sum, span_of(f.level, "hypergrad"))


def pace(f: Facts, optimizer: Call) -> Pace:
    """A level that stars others and has a `stop` repeats its steps with what is below them,
    until it is met.
    """
    warmup = f.level.setting("warmup")
    first = warmup if isinstance(warmup, int) else 0
    if f.stop is not None and f.nested:
        return Pace(f.steps or ENDLESS, False, f.start, first)
    solves = OPTIMIZERS[optimizer.name].solves or f.stop is not None
    return Pace(f.steps or 1, solves, f.start, first)


def _too_long(
    facts: Mapping[str, Facts],
    strategies: Mapping[str, choose.Choice],
    sweeps: Mapping[str, tuple[Pull, ...]],
) -> list[Diagnostic]:
    """MLO0612: replaying the updates of a level that itself follows a hypergradient."""
    pulled = {pull.level for sweep in sweeps.values() for pull in sweep}
    return [
        report(
            "MLO0612",
            span_of(facts[n].level, "hypergrad") or facts[n].level.span,
            strategy=choice.call.name,
            level=n,
            longest=1,
            label=f"every update of `{n}` is itself a hypergradient",
            notes=["use an implicit strategy here, such as `cg` or `exact`"],
        )
        for n, choice in strategies.items()
        if n in pulled and choice.call.name in REPLAYS and facts[n].nested
    ]


def _conflict(facts: Mapping[str, Facts], error: ConflictError) -> Diagnostic:
    first, second = facts[error.first].level, facts[error.second].level
    span = span_of(second, "steps") or second.span
    return report(
        "MLO0615",
        span,
        lower=error.lower,
        first=error.first,
        second=error.second,
        secondary=[
            Label(span_of(first, "steps") or first.span, f"`{error.first}` takes another number")
        ],
        notes=[f"`{error.lower}` is below both: give them the same `steps`"],
    )
