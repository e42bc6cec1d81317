"""Checks that need the whole model: gradients, curvature, strategies, data, and the lints.

Each takes the facts it needs and returns diagnostics. Later ones assume that earlier ones found no
error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bettyc import gradients, held_out, lints, sampling
from bettyc.diagnostics.model import Diagnostic, Label, Suggestion
from bettyc.diagnostics.registry import report
from bettyc.diagnostics.span import Span
from bettyc.diagnostics.suggest import closest
from bettyc.elaborate.scope import Unit
from bettyc.expr import Graph
from bettyc.hierarchy import Hierarchy
from bettyc.model import Call, Model, Ref
from bettyc.optimizers import OPTIMIZERS
from bettyc.planner.compat import is_betty
from bettyc.planner.decide import decide
from bettyc.planner.facts import Facts, gather, is_zero_sum, span_of
from bettyc.strategies import STRATEGIES


def check(
    model: Model, graph: Graph, hierarchy: Hierarchy, spans: Mapping[int, Span], unit: Unit
) -> list[Diagnostic]:
    """Everything wrong with a program whose names, types and hierarchy are right."""
    flow = gradients.Flow(model, graph, spans)
    found = sampling.missing(model) or gradients.check(flow, hierarchy)
    if any(d.severity == "error" for d in found):
        return found
    facts = gather(model, graph, hierarchy)
    found += decide(model, facts, hierarchy)[1]
    found += _constant_in_upper(model, graph, hierarchy, spans)
    for f in facts.values():
        found += _curvature(f, graph, spans)
        found += _strategy(f, facts, model, hierarchy)
        found += sampling.check(f, model, graph, hierarchy)
        found += _follows(f)
        found += _start(f, model, hierarchy)
        found += held_out.batch_sum(f, model, graph, spans)
    found += held_out.same_data(model, graph, hierarchy, unit)
    found += held_out.metrics(model, graph, hierarchy, spans)
    found += _references(model, hierarchy)
    found += lints.check(model, graph, hierarchy, facts, spans, unit)
    return found


def _constant_in_upper(
    model: Model, graph: Graph, h: Hierarchy, spans: Mapping[int, Span]
) -> list[Diagnostic]:
    """MLO0321: a level reads an upper variable only in terms without its own variables, so its
    solution does not move with it.
    """
    found = []
    for level in model.levels:
        terms = _terms(graph, level.objective)
        own = [{graph[i].attr("level") for i in _moving(graph, t)} for t in terms]
        if level.networks and any(n.extern for n in level.networks):
            own = [
                o | ({level.name} if _has_module(graph, t, level.name) else set())
                for o, t in zip(own, terms, strict=True)
            ]
        for upper, read in h.value[level.name].items():
            if not any(upper in o for o in own):
                continue  # detached or behind a flat function: other codes
            moves = any(
                upper in o and (level.name in o or any(q in o for q in h.starred[level.name]))
                for o in own
            )
            if not moves:
                found.append(
                    report(
                        "MLO0321",
                        read.span,
                        lower=level.name,
                        read=f"{read.level}.{read.name}",
                        label="in a term without variables of this level",
                        notes=[
                            "its derivative in the level's own variables is identically zero: "
                            "is a factor missing?"
                        ],
                    )
                )
    return found


def _has_module(graph: Graph, root: int, level: str) -> bool:
    return any(n.op == "module" and n.attr("level") == level for _, n in graph.leaves(root))


def _moving(graph: Graph, root: int) -> set[int]:
    """The variables and networks that carry gradient into a node."""
    found: set[int] = set()
    seen, stack = {root}, [root]
    while stack:
        index = stack.pop()
        if graph[index].op in gradients.OWNED:
            found.add(index)
        for a in gradients.passes(graph, index):
            if a not in seen:
                seen.add(a)
                stack.append(a)
    return found


def _terms(graph: Graph, root: int) -> list[int]:
    """The summands of a scalar: through +, -, negation and factors that are constants."""
    result, stack = [], [root]
    while stack:
        index = stack.pop()
        node = graph[index]
        if node.op in ("add", "sub", "neg"):
            stack.extend(node.args)
        elif node.op in ("mul", "div") and any(graph[a].op == "const" for a in node.args):
            stack.extend(a for a in node.args if graph[a].op != "const")
        else:
            result.append(index)
    return result


def _curvature(f: Facts, graph: Graph, spans: Mapping[int, Span]) -> list[Diagnostic]:
    """MLO0322 and MLO0323: no finite solution."""
    level, c = f.level, f.curvature
    free = [v for v in level.variables if v.domain is None]
    if f.nested or not free or f.opaque:
        return []
    if c.kind == "affine":
        return [
            report(
                "MLO0322",
                level.objective_span,
                level=level.name,
                name=f"{level.name}.{free[0].name}",
                label="linear: it goes down for ever",
                notes=["add regularisation (`+ l2 * sumsq(...)`), or give the variable a domain"],
            )
        ]
    other = "maximize" if level.sense == "minimize" else "minimize"
    if c.kind == "quadratic" and not c.convex and f.turned.convex:
        up = level.sense == "maximize"
        return [
            report(
                "MLO0323",
                level.objective_span,
                sense=level.sense,
                curvature="convex" if up else "concave",
                label=f"it goes {'up' if up else 'down'} for ever",
                notes=[f"did you mean `{other}`?"],
            )
        ]
    return []


def _strategy(f: Facts, facts: Mapping[str, Facts], model: Model, h: Hierarchy) -> list[Diagnostic]:
    """MLO0603 to MLO0610 and MLO0904: a strategy that does not suit its level."""
    level, call = f.level, f.strategy
    span = span_of(level, "hypergrad")
    found: list[Diagnostic] = []
    if span is None:
        return found
    name = call.name
    options = dict(call.named)
    table = OPTIMIZERS.get(f.optimizer.name)
    at = Label(level.objective_span, f"{f.curvature}")
    undamped = not (options.get("damping") or is_betty(model))  # Betty's cg has no damping
    if _replays(name) and table is not None and not _replayable(name, table):
        where = span_of(level, "optimizer")
        found.append(
            report(
                "MLO0604",
                span,
                strategy=name,
                optimizer=f.optimizer.name,
                secondary=[Label(where, "cannot be unrolled")] if where else [],
                notes=["use `sgd` or `adam`, or an implicit strategy such as `cg`"],
            )
        )
    elif name == "cg" and undamped and f.curvature.mu is None and not f.curvature.convex:
        found.append(
            report(
                "MLO0605",
                span,
                strategy=name,
                level=level.name,
                reason="is constrained"
                if f.constraint
                else f"{level.sense}s what is not known to be {f.wanted}",
                secondary=[at],
                notes=[f.constraint, "use `minres` where it is solved, or `damping > 0`"]
                if f.constraint
                else [
                    f"use `neumann`, `damping > 0`, or an objective that is known to be {f.wanted}"
                ],
            )
        )
    elif name == "exact" and not f.quadratic:
        found.append(
            report(
                "MLO0606",
                span,
                level=level.name,
                curvature="constrained" if f.constraint else str(f.curvature),
                secondary=[at],
                notes=[f.constraint] if f.constraint else [],
            )
        )
    elif name == "danskin":
        readers = [p for p in h.levels if level.name in h.starred[p]]
        wrong = next((p for p in readers if not is_zero_sum(f, facts[p])), None)
        if wrong is not None:
            found.append(
                report(
                    "MLO0607",
                    span,
                    lower=level.name,
                    upper=wrong,
                    secondary=[
                        Label(level.objective_span, f"`{level.name}` {level.sense}s this"),
                        Label(
                            facts[wrong].level.objective_span,
                            f"`{wrong}` {facts[wrong].level.sense}s this",
                        ),
                    ],
                )
            )
    if name == "unroll":
        unrolled = options.get("truncate") or 0
        if isinstance(unrolled, int) and f.steps is not None and unrolled > f.steps:
            found.append(
                report(
                    "MLO0608",
                    span,
                    unrolled=unrolled,
                    level=level.name,
                    steps=_steps(f.steps),
                    secondary=[],
                )
            )
        elif f.start == "warm" and not f.solves:
            found.append(
                report(
                    "MLO0609",
                    span,
                    steps=f.steps or 1,
                    level=level.name,
                    notes=[
                        "`start = reset` unrolls the whole path; an implicit strategy needs no path"
                    ],
                )
            )
    if name == "cg" and f.noisy and undamped and f.curvature.mu is None:
        found.append(
            report(
                "MLO0610",
                span,
                strategy=name,
                level=level.name,
                notes=["each solve sees one batch only: `damping` keeps it well-conditioned"],
            )
        )
    return found


def _follows(f: Facts) -> list[Diagnostic]:
    """MLO0603: settings of steps that `penalty(rule = bome)` takes from a level, whose only update
    is one along with the level above.
    """
    if f.strategy.name != "penalty" or f.strategy.get("rule") != "bome":
        return []
    level, optimizer = f.level, OPTIMIZERS.get(f.optimizer.name)
    wrong = {
        "steps": (f.steps not in (None, 1), f.steps, "1"),
        "start": (f.start != "warm", f"`{f.start.partition(':')[0]}`", "`warm`"),
        "stop": (f.stop is not None, "given", "left out"),
        "warmup": (bool(level.setting("warmup")), level.setting("warmup"), "0"),
        "optimizer": (
            optimizer is None or optimizer.solves,
            f"`{f.optimizer.name}`",
            "one that takes steps",
        ),
    }
    return [
        report(
            "MLO0603",
            span_of(level, key) or span_of(level, "hypergrad"),
            setting=f"{level.name}.{key}",
            value=value,
            expected=f"{expected} with `penalty(rule = bome)`",
            notes=["bome moves the level and the one above it together, one step each"],
        )
        for key, (bad, value, expected) in wrong.items()
        if bad
    ]


def _replays(strategy: str) -> bool:
    return strategy in STRATEGIES and STRATEGIES[strategy].needs == "trajectory"


def _replayable(strategy: str, optimizer: Any) -> bool:
    """Does the optimizer take steps that the strategy can go through again? Random perturbations
    need no derivative of them.
    """
    return not optimizer.solves and (strategy == "zeroth_order" or optimizer.differentiable)


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def _start(f: Facts, model: Model, h: Hierarchy) -> list[Diagnostic]:
    """MLO0611: `start = copy(other.module)`."""
    value = f.level.setting("start")
    if not isinstance(value, Call) or value.name != "copy":
        return []
    span = span_of(f.level, "start")
    source = value.positional[0].path if isinstance(value.positional[0], Ref) else "?"
    owner, _, name = source.partition(".")
    reason = None
    other = next((lv for lv in model.levels if lv.name == owner), None)
    if other is None:
        reason = f"there is no level `{owner}`"
    elif f.name not in h.below[owner]:
        reason = f"`{owner}` is not above it"
    else:
        theirs = _structure(model, owner, name)
        mine = [_structure(model, f.name, n.name) for n in f.level.networks]
        mine += [_structure(model, f.name, v.name) for v in f.level.variables if "." not in v.name]
        if theirs is None:
            reason = f"`{owner}` has no `{name}`"
        elif theirs not in mine:
            reason = "their structures differ"
    if reason is None:
        return []
    return [report("MLO0611", span, level=f.name, source=source, reason=reason)]


def _structure(model: Model, level: str, name: str) -> object:
    """What two networks or variables must share to be copied."""
    owner = model.level(level)
    for network in owner.networks:
        if network.name == name:
            if network.extern is not None:
                return (network.extern, network.arguments)
            return [
                (v.name.partition(".")[2], v.type)
                for v in owner.variables
                if v.name in network.variables
            ]
    return next((v.type for v in owner.variables if v.name == name), None)


def _references(model: Model, h: Hierarchy) -> list[Diagnostic]:
    """MLO0801 and MLO0203: metrics and variables that run settings name."""
    found: list[Diagnostic] = []
    names = [m.name for m in model.metrics] + [f"{lv.name}.loss" for lv in model.levels]
    for setting in model.run:
        key = setting.path.partition(".")[2]
        if setting.span is None or not isinstance(setting.value, Call | tuple):
            continue
        refs: list[tuple[str, str]] = []
        if isinstance(setting.value, Call):
            for argument, use in (("of", "stop on"), ("best", "keep the best by")):
                value = setting.value.get(argument)
                if isinstance(value, Ref):
                    refs.append((value.path, use))
        for path, use in refs:
            if path not in names:
                near = closest(path, names)
                found.append(
                    report(
                        "MLO0801",
                        setting.span,
                        name=path,
                        use=use,
                        suggestions=[
                            Suggestion(f"did you mean `{n}`?", (), "maybe-incorrect") for n in near
                        ],
                        notes=[f"known: {', '.join(names)}"],
                    )
                )
        if key == "export" and isinstance(setting.value, tuple):
            for ref in setting.value:
                if isinstance(ref, Ref) and not _exists(model, ref.path):
                    level, _, name = ref.path.partition(".")
                    if level not in h.levels:
                        found.append(report("MLO0201", setting.span, name=level))
                    else:
                        found.append(report("MLO0203", setting.span, level=level, name=name))
    return found


def _exists(model: Model, path: str) -> bool:
    level, _, name = path.partition(".")
    owner = next((lv for lv in model.levels if lv.name == level), None)
    return owner is not None and name in {
        *(v.name for v in owner.variables),
        *(n.name for n in owner.networks),
    }
