"""A plan as people read it: what `bettyc plan` prints; with `why` the reason for each choice."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from bettyc.graph import below, ends
from bettyc.model import Call, Formula, Level, Value
from bettyc.optimizers import OPTIMIZERS
from bettyc.plan import Candidate, Instruction, LevelPlan, Plan, Pull, Repeat, Solve, Start, Step
from bettyc.schedules import SCHEDULES
from bettyc.settings import show
from bettyc.strategies import STRATEGIES

COMMENT = 34  # column where the remark on an instruction begins


def text(plan: Plan, why: bool = False) -> str:
    """The whole plan. Lines and columns are those of the program as it was read."""
    sections = [
        ("schedule", _schedule(plan, plan.program, 1)),
        ("levels", _levels(plan)),
        ("hypergradients", _hypergradients(plan, why)),
        ("optimizers", _optimizers(plan) if why else ()),
        ("cuda graphs", _graphs(plan) if plan.cuda_graphs == "on" else ()),
    ]
    parts = [_header(plan)]
    parts += [[title, *lines] for title, found in sections if (lines := list(found))]
    parts += [_cost(plan), _warnings(plan)]
    return "\n\n".join("\n".join(part) for part in parts)


def _header(plan: Plan) -> list[str]:
    m = plan.model
    dims = ", ".join(f"{name} = {'?' if size is None else size}" for name, size in m.dims)
    free = _free_pairs(plan)
    lines = [
        f"program    {m.name}   (bettyc {plan.bettyc}, sha256 {plan.hash[:12]})",
        *([f"dims       {dims}"] if dims else []),
        f"run        seed {plan.seed}, {plan.precision}, device {plan.device}, -O{plan.opt}"
        + (f", as {plan.compat} counts and computes" if plan.compat else ""),
        f"order      {' < '.join(plan.order)}",
    ]
    if free:
        lines.append(f"           free in the graph, fixed by name: {', '.join(free)}")
    return lines


def _free_pairs(plan: Plan) -> list[str]:
    """Neighbours in the order of which neither is below the other."""
    under = below(plan)
    pairs = zip(plan.order, plan.order[1:], strict=False)
    return [f"{a} and {b}" for a, b in pairs if a not in under[b]]


# The schedule


def _schedule(plan: Plan, program: Sequence[Instruction], depth: int) -> Iterator[str]:
    indent = "  " * depth
    for instruction in program:
        if isinstance(instruction, Repeat):
            yield from _repeat(plan, instruction, depth)
            continue
        level = plan.level(instruction.level)
        if isinstance(instruction, Start):
            yield _line(f"{indent}start {level.name}", _started(level))
            continue
        for pull in instruction.pulls:
            yield _line(f"{indent}adjoint {_flow(pull)}", call(plan.level(pull.level).strategy))
        yield _line(f"{indent}{_verb(instruction)} {level.name}", _moved(level, instruction))


def _repeat(plan: Plan, repeat: Repeat, depth: int) -> Iterator[str]:
    """`repeat 100: step fit` on one line where the body is a single step."""
    indent = "  " * depth
    inner = repeat.body[0] if len(repeat.body) == 1 else None
    if depth > 1 and isinstance(inner, Step | Solve) and not inner.pulls:
        level = plan.level(inner.level)
        head = f"{indent}repeat {repeat.times}: {_verb(inner)} {inner.level}"
        yield _line(head, _moved(level, inner))
        return
    yield _line(f"{indent}repeat {repeat.times}", "run.steps" if depth == 1 else "")
    yield from _schedule(plan, repeat.body, depth + 1)


def _verb(instruction: Step | Solve) -> str:
    return "step" if isinstance(instruction, Step) else "solve"


def _flow(pull: Pull) -> str:
    return f"{pull.level} -> {', '.join(pull.into)}"


def _started(level: LevelPlan) -> str:
    if level.start.startswith("copy:"):
        return f"a copy of {level.start[5:]}"
    return "at its initial value"


def _moved(level: LevelPlan, instruction: Step | Solve) -> str:
    remark = call(level.optimizer)
    if isinstance(instruction, Solve):
        if level.stop is not None:
            remark += f", until |grad| < {level.stop:g}"
        remark += f", {level.start.partition(':')[0]} start"
    if level.schedule is not None:
        remark += f", lr {call(level.schedule)}"
    if level.clip is not None:
        remark += f", |grad| clipped to {level.clip:g}"
    if level.clip_value is not None:
        remark += f", entries of grad clipped to {level.clip_value:g}"
    if level.accumulate > 1:
        remark += f", gradients of {level.accumulate} batches"
    if level.freeze:
        remark += f", {', '.join(level.freeze)} frozen"
    if level.groups:
        remark += f", groups {', '.join(str(g.positional[0]) for g in level.groups)}"
    if level.average is not None:
        remark += f", averaged by {call(level.average)}"
    if level.recompute:
        remark += f", {', '.join(level.recompute)} recomputed"
    return remark


def _line(head: str, remark: str) -> str:
    return f"{head:<{COMMENT}}# {remark}" if remark else head


# Levels


def _levels(plan: Plan) -> Iterator[str]:
    width = max(len(name) for name in plan.order)
    for name in reversed(plan.order):
        level, planned = plan.model.level(name), plan.level(name)
        pad = " " * (width + 4)
        each = f" foreach {level.task.name.split('.')[-1]} in {level.task.of}" if level.task else ""
        size = "" if planned.size is None else f"   {_count(planned.size)} scalars"
        yield f"  {name:<{width}}  {level.sense}{each}   {_owned(level)}{size}"
        reads = _reads(plan, name)
        if reads:
            yield f"{pad}reads {reads}"
        shape = f"{pad}class {planned.curvature}"
        if planned.curvature == "constant":
            shape += ": its own variables enter through responses only"
        elif planned.mu is not None and planned.mu > 0:
            shape += f", strongly {_curved(level)} (at least {planned.mu:g})"
        elif planned.convex:
            shape += f", {_curved(level)}"
        yield shape


def _curved(level: Level) -> str:
    """What `convex`, which speaks of the objective as it is minimised, is in its own sense."""
    return "concave" if level.sense == "maximize" else "convex"


def _owned(level: Level) -> str:
    inside = {name for network in level.networks for name in network.variables}
    words = [f"{v.name} : {v.type}" for v in level.variables if v.name not in inside]
    return ", ".join([*words, *(f"{n.name} : {n.type}" for n in level.networks)])


def _reads(plan: Plan, name: str) -> str:
    """What the level mentions of the others, with the place of the first mention."""
    words = []
    for edge in plan.edges:
        if edge.kind != "implied" and ends(edge)[1] == name:
            words.append(f"{edge.text} ({edge.line}:{edge.column})")
    return ", ".join(words)


# Choices and their reasons


def _hypergradients(plan: Plan, why: bool) -> Iterator[str]:
    seen = set()
    for root in reversed(plan.order):
        sweep = plan.sweep(root)
        if not sweep:
            continue
        yield f"  {root}: {', then '.join(f'through {_flow(pull)}' for pull in sweep)}"
        for pull in sweep:
            level = plan.level(pull.level)
            line = f"    {level.name}   {call(level.strategy)}"
            if pull.level not in seen:
                yield from _strategy(level, line, why)
            else:
                yield f"{line}   (as above)"
            seen.add(pull.level)


def _strategy(level: LevelPlan, line: str, why: bool) -> Iterator[str]:
    yield f"{line}   curvature {level.total}" if level.dropped or level.total == "total" else line
    shown = level.strategy_candidates if why else [c for c in level.strategy_candidates if c.taken]
    yield from _reasons(shown, "      ")
    for kernel in level.kernels:
        yield f"      {kernel.work:<8}{kernel.name}{f': {kernel.reason}' if why else ''}"
    for dropped in level.dropped:
        yield f"      drops  {dropped}"


def _optimizers(plan: Plan) -> Iterator[str]:
    for name in reversed(plan.order):
        level = plan.level(name)
        yield f"  {name}   {call(level.optimizer)}"
        yield from _reasons(level.optimizer_candidates, "    ")


def _reasons(candidates: Sequence[Candidate], indent: str) -> Iterator[str]:
    for c in candidates:
        place = f" ({c.line}:{c.column})" if c.line is not None else ""
        if c.taken:
            yield f"{indent}why    {c.reason}{place}"
        else:
            yield f"{indent}not    {c.name}: {c.reason}{place}"


def call(value: Call) -> str:
    """`cg(tol = 1e-10)`: the options not at their defaults, and the learning rate of steps."""
    defaults = _defaults(value.name)
    steps = value.name in OPTIMIZERS and not OPTIMIZERS[value.name].solves
    words = [show_value(v) for v in value.positional]
    words += [
        f"{k} = {show_value(v)}"
        for k, v in value.named
        if (k == "lr" and steps) or defaults.get(k, ...) != v
    ]
    return f"{value.name}({', '.join(words)})" if words else value.name


def _defaults(name: str) -> dict[str, object]:
    """The defaults of an optimizer, strategy or schedule; only `exact` is two, both without any."""
    for known in ({**OPTIMIZERS, **STRATEGIES}, SCHEDULES):
        if name in known:
            return {f.name: f.default for f in dataclasses.fields(known[name])}
    return {}


def show_value(value: Value) -> str:
    """A value as the language writes it; a formula by its name."""
    return "(formula)" if isinstance(value, Formula) else show(value)


def _graphs(plan: Plan) -> Iterator[str]:
    """What a GPU launches as one; where the program asks for it."""
    yield f"  on a GPU; on a CPU everything runs without them   (device {plan.device})"
    width = max(len(f"{g.work} of {g.level}") for g in plan.graphs)
    for g in plan.graphs:
        work = f"{g.work} of {g.level}"
        yield f"    {work:<{width}}   {f'not: {g.reason}' if g.reason else 'recorded'}"


# Cost


def _cost(plan: Plan) -> list[str]:
    cost = plan.cost
    flops = "not known" if cost.flops is None else _scaled(cost.flops, 1000, "flop")
    size = "not known" if cost.bytes is None else _scaled(cost.bytes, 1024, "B")
    lines = [f"cost       {flops} per update of the top, {size} at the peak   (estimates)"]
    if cost.flops is None or cost.bytes is None:
        lines.append("           sizes are known once data or --mock binds the dims")
    return lines


def _scaled(number: int, base: int, unit: str) -> str:
    value, letters = float(number), ["", "k", "M", "G", "T", "P"]
    while value >= base and len(letters) > 1:
        value /= base
        letters.pop(0)
    return f"{value:.3g} {letters[0]}{unit}"


def _count(number: int) -> str:
    return f"{number:,}"


def _warnings(plan: Plan) -> list[str]:
    if not plan.warnings:
        return ["warnings   none"]
    return ["warnings", *(f"  {warning}" for warning in plan.warnings)]
