"""From a checked program to its plan."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from bettyc import __version__
from bettyc.diagnostics.model import Diagnostic
from bettyc.diagnostics.registry import report
from bettyc.driver import Checked
from bettyc.expr import Graph
from bettyc.graph import edges
from bettyc.hierarchy import Hierarchy
from bettyc.model import Call, Model, Value
from bettyc.options import OPT
from bettyc.plan import FORMAT, Candidate, Cost, LevelPlan, Plan, Repeat, Solve, Step
from bettyc.planner import choose, compat, cost
from bettyc.planner.decide import Decisions, decide, inner, pace
from bettyc.planner.facts import Facts, gather, word
from bettyc.planner.graphs import graphs
from bettyc.planner.kernels import kernels


def make_plan(
    checked: Checked, *, opt: int = OPT, device: str | None = None, seed: int | None = None
) -> tuple[Plan | None, list[Diagnostic]]:
    """The plan of a program without errors, or what prevents one."""
    model, h = checked.model, checked.hierarchy
    if model is None or h is None:
        return None, []
    if not model.levels:
        return None, [
            report("MLO0309", None, name=model.name, notes=["write `level name { ... }`"])
        ]
    facts = gather(model, checked.graph, h)
    made, found = decide(model, facts, h)
    if made is None or any(d.severity == "error" for d in found):
        return None, found
    precision = word(model.setting("precision"), "fp32")
    scratch = _copied(checked.graph) if opt and made.pulled else Graph()
    levels = tuple(_level(checked, h, facts[n], made, precision, scratch, opt) for n in h.order)
    warnings = tuple(w for level in levels for w in _warnings(level))
    text = checked.resolved
    plan = Plan(
        FORMAT,
        __version__,
        hashlib.sha256(text.encode()).hexdigest(),
        text,
        checked.folder,
        model,
        tuple(checked.graph.nodes),
        edges(model, h, checked.sources),
        h.order,
        levels,
        made.program,
        _cost(checked.graph, model, facts, made.program, precision),
        seed if seed is not None else _seed(model),
        precision,
        device or word(model.setting("device"), "auto"),
        opt,
        warnings,
        compat.NAME if compat.is_betty(model) else "",
    )
    taken = graphs(model, levels, {n: plan.sweep(n) for n in h.order}, plan.compat)
    # auto is off: nobody has measured yet, on a GPU, that graphs are right and faster there
    asked = word(model.setting("cuda_graphs"), "auto") == "on"
    plan = replace(plan, cuda_graphs="on" if asked else "off", graphs=taken)
    missed = _without_graphs(plan) if asked and plan.device != "cpu" else []
    return replace(plan, warnings=(*warnings, *(d.message for d in missed))), [*found, *missed]


def _without_graphs(plan: Plan) -> list[Diagnostic]:
    """MLO0809: what cannot be recorded although the program asks for it."""
    span = next((s.span for s in plan.model.run if s.path == "run.cuda_graphs"), None)
    return [
        report("MLO0809", span, work=f"{g.work} of {g.level}", problem=g.reason)
        for g in plan.graphs
        if g.reason
    ]


def _seed(model: Model) -> int:
    value = model.setting("seed")
    return value if isinstance(value, int) else 0


def _copied(graph: Graph) -> Graph:
    """The same nodes in a graph of their own, for derivatives that are no part of the plan."""
    found = Graph()
    for node in graph.nodes:
        found.make(node.op, node.args, node.type, **dict(node.attrs))
    return found


def _level(
    checked: Checked,
    h: Hierarchy,
    f: Facts,
    made: Decisions,
    precision: str,
    scratch: Graph,
    opt: int,
) -> LevelPlan:
    optimizer, strategy = made.optimizers[f.name], made.strategies[f.name]
    level = f.level
    p = pace(f, optimizer.call)
    schedule = level.setting("lr_schedule")
    clip, freeze = level.setting("clip"), level.setting("freeze")
    accumulate = level.setting("accumulate")
    clip_value, average = level.setting("clip_value"), level.setting("average")
    groups = level.setting("groups")
    found = (
        kernels(scratch, level, strategy.call, made.totals[f.name], f.precision)
        if opt and f.name in made.pulled
        else []
    )
    return LevelPlan(
        level.name,
        optimizer.call,
        strategy.call,
        schedule if isinstance(schedule, Call) else None,
        None if (p.solves or f.stop is not None) and f.steps is None else p.steps,
        f.start,
        f.stop,
        float(clip) if isinstance(clip, int | float) else None,
        accumulate if isinstance(accumulate, int) else 1,
        word(level.setting("precision"), precision),
        patterns(freeze),
        str(f.curvature),
        f.curvature.convex,
        # beside what is not convex mu is a damping, and bounds nothing
        f.curvature.mu if f.curvature.convex else None,
        f.size,
        made.totals[f.name],
        _dropped(h, f, made),
        _candidates(checked, optimizer.verdicts),
        _candidates(checked, strategy.verdicts),
        tuple(g for g in groups if isinstance(g, Call)) if isinstance(groups, tuple) else (),
        average if isinstance(average, Call) else None,
        float(clip_value) if isinstance(clip_value, int | float) else None,
        patterns(level.setting("recompute")),
        # Betty's own solves are loops in torch
        tuple(k for k in found if k.work != "solve" or not compat.is_betty(checked.model)),
    )


def patterns(value: Value) -> tuple[str, ...]:
    """The names that a setting of patterns lists; `true` is every one."""
    if isinstance(value, bool) or value is None:
        return ("*",) if value else ()
    return tuple(map(str, value)) if isinstance(value, tuple) else (str(value),)


def _candidates(checked: Checked, verdicts: Sequence[choose.Verdict]) -> tuple[Candidate, ...]:
    result = []
    for v in verdicts:
        line = column = None
        if v.span is not None and v.span.file in checked.sources:
            line, column = checked.sources[v.span.file].position(v.span.start)
        result.append(Candidate(v.name, v.taken, v.reason, line, column))
    return tuple(result)


def _dropped(h: Hierarchy, f: Facts, made: Decisions) -> tuple[str, ...]:
    """What `curvature = direct` leaves out of this level's Hessian and cross terms, where
    someone differentiates it.
    """
    if f.name not in made.pulled or made.totals[f.name] == "total":
        return ()
    return tuple(
        f"the response of `{q}` inside the gradient of `{f.name}`:"
        f" its Hessian and cross terms hold `{q}` fixed"
        for q in inner(h, f.name)
    )


def _warnings(level: LevelPlan) -> list[str]:
    return [
        f"`{level.name}` is differentiated with `curvature = direct`, which drops {d}"
        for d in level.dropped
    ]


def _cost(
    graph: Graph, model: Model, facts: dict[str, Facts], program: Sequence[object], precision: str
) -> Cost:
    """One update of the top levels: gradients cost about three evaluations, a product with the
    Hessian six.
    """
    total: int | None = 0
    body = program[0].body  # type: ignore[attr-defined]
    for instruction, times in _counted(body, 1):
        level = model.level(instruction.level)
        one = cost.flops(graph, [level.objective])
        if one is None or total is None:
            total = None
            break
        total += times * 3 * one
        for pull in instruction.pulls:
            lower = cost.flops(graph, [model.level(pull.level).objective])
            size = facts[pull.level].size
            if lower is None or size is None:
                total = None
                break
            total += times * 6 * lower * min(size, 100)
    peak = [cost.memory(graph, [level.objective], precision) for level in model.levels]
    known = [p for p in peak if p is not None]
    return Cost(total, 2 * max(known) if len(known) == len(peak) and known else None)


def _counted(body: Sequence[object], times: int) -> list[tuple[Step | Solve, int]]:
    result: list[tuple[Step | Solve, int]] = []
    for instruction in body:
        if isinstance(instruction, Repeat):
            result += _counted(instruction.body, times * instruction.times)
        elif isinstance(instruction, Step | Solve):
            result.append((instruction, times))
    return result
