"""From a checked program to its plan."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from graphlib import CycleError

from bettyc import __version__
from bettyc.diagnostics.model import Diagnostic, Label
from bettyc.diagnostics.registry import report
from bettyc.driver import Checked
from bettyc.expr import Graph
from bettyc.graph import edges
from bettyc.hierarchy import Hierarchy
from bettyc.model import Call, Model
from bettyc.plan import FORMAT, Candidate, Cost, LevelPlan, Plan, Pull, Repeat, Solve, Step
from bettyc.planner import choose, cost
from bettyc.planner.facts import Facts, gather, is_zero_sum, span_of, word
from bettyc.planner.schedule import ConflictError, Pace, schedule


def make_plan(checked: Checked, *, opt: int = 1, device: str | None = None,
              seed: int | None = None) -> tuple[Plan | None, list[Diagnostic]]:
    """The plan of a program without errors, or what prevents one."""
    model, h = checked.model, checked.hierarchy
    if model is None or h is None:
        return None, []
    facts = gather(model, checked.graph, h)
    sweeps, found = _sweeps(model, h)
    choices, problems = decide(facts, h)
    found += problems
    if any(d.severity == "error" for d in found):
        return None, found
    run_steps = model.setting("steps")
    paces = {n: pace(facts[n], choices[n][0].call) for n in facts}
    try:
        program = schedule(h, paces, sweeps, run_steps if isinstance(run_steps, int) else 100)
    except ConflictError as error:
        return None, [*found, _conflict(facts, error)]
    precision = word(model.setting("precision"), "fp32")
    levels = tuple(_level(checked, h, facts[n], choices[n], sweeps) for n in h.order)
    warnings = tuple(w for level in levels for w in _warnings(level))
    text = checked.resolved
    plan = Plan(
        FORMAT, __version__, hashlib.sha256(text.encode()).hexdigest(), text, checked.folder, model,
        tuple(checked.graph.nodes), edges(model, h, checked.sources), h.order, levels, program,
        _cost(checked.graph, model, facts, program, precision), seed if seed is not None else _seed(model),
        precision, device or word(model.setting("device"), "auto"), opt, warnings)
    return plan, found


def decide(facts: dict[str, Facts], h: Hierarchy) -> tuple[dict[str, tuple[choose.Choice, choose.Choice]], list[Diagnostic]]:
    """The optimizer and the strategy of every level."""
    found: list[Diagnostic] = []
    choices: dict[str, tuple[choose.Choice, choose.Choice]] = {}
    for name in h.levels:
        f = facts[name]
        optimizer, problems = choose.optimizer(f, span_of(f.level, "optimizer"))
        found += problems
        if optimizer is None:
            continue
        readers = [p for p in h.levels if name in h.starred[p]]
        frozen = not readers and any(name in h.frozen[p] for p in h.levels)
        zero_sum = len(readers) == 1 and is_zero_sum(f, facts[readers[0]])
        if not readers and not frozen and not any(name in h.below[p] for p in h.levels):
            none = choose.filled(choose.STRATEGIES, "none")
            choices[name] = (optimizer, choose.Choice(
                none, (choose.Verdict("none", "no level reads its response", True),)))
            continue
        choices[name] = (optimizer, choose.strategy(f, optimizer.call, frozen, zero_sum,
                                                    span_of(f.level, "hypergrad")))
    return choices, found


def pace(f: Facts, optimizer: Call) -> Pace:
    from bettyc.optimizers import OPTIMIZERS

    return Pace(f.steps or 1, OPTIMIZERS[optimizer.name].solves or f.stop is not None, f.start)


def _sweeps(model: Model, h: Hierarchy) -> tuple[dict[str, tuple[Pull, ...]], list[Diagnostic]]:
    sweeps: dict[str, tuple[Pull, ...]] = {}
    found = []
    for level in model.levels:
        try:
            sweeps[level.name] = tuple(Pull(q, into) for q, into in h.sweep(level.name))
        except CycleError as error:
            chain = " → ".join(error.args[1])
            found.append(report("MLO0308", level.span, level=level.name, chain=chain,
                                label="its gradient would have to go round in circles"))
    return sweeps, found


def _conflict(facts: dict[str, Facts], error: ConflictError) -> Diagnostic:
    first, second = facts[error.first].level, facts[error.second].level
    span = span_of(second, "steps") or second.span
    return report("MLO0615", span, lower=error.lower, first=error.first, second=error.second,
                  secondary=[Label(span_of(first, "steps") or first.span, f"`{error.first}` takes another number")],
                  notes=[f"`{error.lower}` is below both: give them the same `steps`"])


def _seed(model: Model) -> int:
    value = model.setting("seed")
    return value if isinstance(value, int) else 0


def _level(checked: Checked, h: Hierarchy, f: Facts, chosen: tuple[choose.Choice, choose.Choice],
           sweeps: dict[str, tuple[Pull, ...]]) -> LevelPlan:
    optimizer, strategy = chosen
    level = f.level
    p = pace(f, optimizer.call)
    schedule_call = level.setting("lr_schedule")
    clip, freeze = level.setting("clip"), level.setting("freeze") or ()
    accumulate, precision = level.setting("accumulate"), level.setting("precision")
    dropped = _dropped(checked, h, f, sweeps)
    return LevelPlan(
        level.name, optimizer.call, strategy.call, schedule_call if isinstance(schedule_call, Call) else None,
        None if p.solves else p.steps, f.start, f.stop, float(clip) if isinstance(clip, int | float) else None,
        accumulate if isinstance(accumulate, int) else 1,
        word(precision, word(checked.model.setting("precision") if checked.model else None, "fp32")),
        freeze if isinstance(freeze, tuple) else (str(freeze),),  # type: ignore[arg-type]
        str(f.curvature), f.curvature.convex, f.curvature.mu, f.size, "direct", dropped,
        _candidates(checked, optimizer.verdicts), _candidates(checked, strategy.verdicts))


def _candidates(checked: Checked, verdicts: Sequence[choose.Verdict]) -> tuple[Candidate, ...]:
    result = []
    for v in verdicts:
        line = column = None
        if v.span is not None and v.span.file in checked.sources:
            line, column = checked.sources[v.span.file].position(v.span.start)
        result.append(Candidate(v.name, v.taken, v.reason, line, column))
    return tuple(result)


def _dropped(checked: Checked, h: Hierarchy, f: Facts, sweeps: dict[str, tuple[Pull, ...]]) -> tuple[str, ...]:
    """What `curvature = direct` leaves out of this level's Hessian and cross terms, where someone differentiates it."""
    if not any(pull.level == f.name for sweep in sweeps.values() for pull in sweep):
        return ()
    return tuple(
        f"the response of `{q}` inside the gradient of `{f.name}`: its Hessian and cross terms hold `{q}` fixed"
        for q in sorted(h.starred[f.name]) if h.depends(q, f.name))


def _warnings(level: LevelPlan) -> list[str]:
    return [f"`{level.name}` is differentiated with `curvature = direct`, which drops {d}" for d in level.dropped]


def _cost(graph: Graph, model: Model, facts: dict[str, Facts], program: Sequence[object],
          precision: str) -> Cost:
    """One update of the top levels: gradients cost about three evaluations, a product with the Hessian six."""
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

