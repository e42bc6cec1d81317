"""`compat = "betty"`: Betty's schedule and choices in the terms of a plan, and what they leave out.

Betty (betty-ml 0.2.1, `problems/problem.py`) counts micro-steps, of one gradient each; the G-th of
`accumulate = G` updates. A level calls those above at its every U G-th micro-step, U being `steps`,
once more than W of them are done, W being `warmup`; a level above makes one micro-step when all
levels right under it have called. So with I(q) = max of I(c) U_c G_c over the levels c under q, or
1, every level makes a micro-step per I(q) rounds of the engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bettyc.diagnostics.model import Diagnostic
from bettyc.diagnostics.registry import report
from bettyc.diagnostics.span import Span
from bettyc.hierarchy import Hierarchy
from bettyc.model import Call, Model
from bettyc.plan import Pull
from bettyc.planner.facts import Facts, span_of
from bettyc.planner.schedule import Pace, under
from bettyc.strategies import STRATEGIES

NAME = "betty"
SOLVES = ("cg", "neumann")
DIFFERENCES = ("finite_diff", "sama")
PRECONDITIONED = ("sgd", "adam", "adamw")


def paces(h: Hierarchy, facts: Mapping[str, Facts], solves: frozenset[str]) -> dict[str, Pace]:
    """The paces in micro-steps. solves: levels that run until they have converged."""
    rounds = _rounds(h, facts, solves)
    uppers = _uppers(h)
    found = {}
    for name in h.levels:
        own = _call(facts[name], solves)
        above = [rounds[p] for p in uppers[name]]
        steps = max(above) // rounds[name] if above else 1
        warmup = _count(facts[name], "warmup", 0) // own * own
        found[name] = Pace(max(steps, 1), name in solves, facts[name].start, warmup)
    return found


def _count(f: Facts, key: str, default: int = 1) -> int:
    value = f.level.setting(key)
    return value if isinstance(value, int) else default


def _call(f: Facts, solves: frozenset[str]) -> int:
    """U G: micro-steps from one call of the levels above to the next."""
    return 1 if f.name in solves else (f.steps or 1) * _count(f, "accumulate")


def _rounds(h: Hierarchy, facts: Mapping[str, Facts], solves: frozenset[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in h.order:
        below = [c for cluster in under(h, [name]) for c in cluster]
        found[name] = max((found[c] * _call(facts[c], solves) for c in below), default=1)
    return found


def _uppers(h: Hierarchy) -> dict[str, list[str]]:
    """The levels that each is right under."""
    found: dict[str, list[str]] = {name: [] for name in h.levels}
    for p in h.levels:
        for cluster in under(h, [p]):
            for c in cluster:
                found[c].append(p)
    return found


def differences(
    h: Hierarchy,
    facts: Mapping[str, Facts],
    strategies: Mapping[str, Call],
    sweeps: Mapping[str, tuple[Pull, ...]],
    solves: frozenset[str],
) -> list[Diagnostic]:
    """MLO0619: where a run is not what Betty's would be."""
    pulled = {pull.level for sweep in sweeps.values() for pull in sweep}
    met = {name for name in pulled if _meets(h, name, sweeps)}
    found = []
    for name in h.levels:
        f = facts[name]
        rows = [*_uneven(f, h, facts, solves), *_of_level(f, solves)]
        if name in pulled:
            rows += _of_strategy(f, strategies[name], bool(sweeps[name]), name in met)
        found += [
            report("MLO0619", _place(f, key), level=name, what=what, notes=[note])
            for key, what, note in rows
        ]
    return found


def _place(f: Facts, key: str) -> Span:
    return span_of(f.level, key) or f.level.span


def _meets(h: Hierarchy, level: str, sweeps: Mapping[str, tuple[Pull, ...]]) -> bool:
    """Does an adjoint come to the level along several paths?"""
    return any(
        sum(level in pull.into for pull in sweep) + (level in h.starred[root]) > 1
        for root, sweep in sweeps.items()
        if any(pull.level == level for pull in sweep)
    )


Row = tuple[str, str, str]  # the setting to point at, what differs, what is done


def _of_strategy(f: Facts, call: Call, nested: bool, met: bool) -> Iterator[Row]:
    name, options = call.name, dict(call.named)
    if name not in (*SOLVES, *DIFFERENCES, "none"):
        yield "hypergrad", f"has no `{name}`", "it is taken as it is without `compat`"
    default = STRATEGIES[name]()
    ignored = [
        key
        for key in ("damping", "precond", "warm")
        if name == "cg" and options.get(key) != getattr(default, key)
    ]
    if ignored:
        listed = ", ".join(f"`{key}`" for key in ignored)
        yield "hypergrad", f"has no {listed} of `cg`", "they are ignored"
    if name in SOLVES and nested:
        yield "hypergrad", f"refuses `{name}` for a level that has others below", "it is taken"
    if name == "sama" and (f.optimizer.name not in PRECONDITIONED or f.level.setting("groups")):
        yield (
            "hypergrad",
            "has no right derivative of this optimizer for `sama`",
            "that of the optimizer's own update is taken",
        )
    if name in DIFFERENCES and f.masked:
        yield "hypergrad", "draws new random masks for each of the two gradients", "both see one"
    if name in DIFFERENCES and met:
        yield (
            "hypergrad",
            "takes a difference for every path that leads here",
            "their sum is taken once, which differs by the error of differences",
        )


def _of_level(f: Facts, solves: frozenset[str]) -> Iterator[Row]:
    curvature = f.level.setting("curvature")
    if isinstance(curvature, Call) and curvature.name == "total":
        yield "curvature", "has no total curvature", "`direct` is taken"
    if f.name in solves or f.stop is not None:
        key = "stop" if f.stop is not None else "optimizer"
        yield key, "has no level that runs until it is solved", "it is one micro-step"
    if f.level.task is not None:
        yield "", "has no replicas of a level", "each has a hypergradient of its own"
    momentum = f.optimizer.name != "sgd" or bool(dict(f.optimizer.named).get("momentum"))
    if f.start != "warm" and momentum and f.name not in solves:
        yield "start", "would keep the optimizer's memory at a start", "it starts anew"


def _uneven(
    f: Facts, h: Hierarchy, facts: Mapping[str, Facts], solves: frozenset[str]
) -> Iterator[Row]:
    rounds, uppers = _rounds(h, facts, solves), _uppers(h)
    above = {rounds[p] for p in uppers[f.name]}
    if len(above) > 1 or any(r % rounds[f.name] for r in above):
        note = "they move together, each time after the same number of steps of the others"
        yield "steps", "would move levels above or beside it at an uneven pace", note
    beside = {c for p in uppers[f.name] for cluster in under(h, [p]) for c in cluster}
    if len(beside) > 1 and f.level.setting("warmup"):
        yield "warmup", "would go on with the levels beside it", "they wait"


def is_betty(model: Model | None) -> bool:
    return model is not None and model.setting("compat") == NAME
