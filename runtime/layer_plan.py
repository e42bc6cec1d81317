"""The part of a plan that a layer is: which levels it solves, what they depend on, and how they
are differentiated through.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from bettyc.diagnostics.registry import report
from bettyc.diagnostics.suggest import closest
from bettyc.failures import InputError
from bettyc.model import Call
from bettyc.plan import LevelPlan, Plan, Pull, Solve, Step, walk
from bettyc.runtime.fragment import Fragment, fragment
from bettyc.runtime.nesting import Nest
from bettyc.runtime.through import DATA, ROOT
from bettyc.strategies import STRATEGIES

# Of levels that no other level stars, so that the plan has no strategy for them: up to this many
# variables their Hessian is factorised.
DENSE = 512


@dataclass(frozen=True)
class Part:
    """group: the level and those below it, lowest first. above: the levels whose variables they
    read, lowest first. reads: by level of the group, those that carry gradient into it.
    """

    plan: Plan
    level: str
    group: tuple[str, ...]
    above: tuple[str, ...]
    reads: dict[str, tuple[str, ...]]
    fragment: Fragment

    def nest(self, of_data: Collection[str]) -> Nest:
        """Who depends on whom, with the user's loss on top. of_data: levels that read data that
        carry gradient.
        """
        reads = {
            name: (*self.reads[name], *((DATA,) if name in of_data else ())) for name in self.group
        }
        others = {name: (name,) for name in (*self.above, DATA)}
        order = (*self.group, *self.above, DATA, ROOT)
        return Nest({**reads, **others, ROOT: (ROOT, self.level)}, order)

    def sweep(self, nest: Nest, wanted: frozenset[str]) -> tuple[Pull, ...]:
        """The pulls that lead from the level to what is wanted, and no others."""
        levels = {p.name: p for p in self.plan.levels}
        total = frozenset(n for n in self.group if levels[n].total == "total" and nest.inner(n))
        useful, found = set(wanted), []
        for pull in reversed(nest.sweep(ROOT, total, wanted) if wanted else ()):
            into = tuple(name for name in pull.into if name in useful)
            if into:
                useful.add(pull.level)
                found.append(Pull(pull.level, into))
        return tuple(reversed(found))


def part(plan: Plan, level: str, warm: bool | None) -> Part:
    """Raises InputError: MLO0201, MLO0602."""
    if level not in plan.order:
        near = closest(level, plan.order)
        notes = [f"did you mean `{near[0]}`?"] if near else []
        notes.append(f"levels here: {', '.join(plan.order)}")
        raise InputError(report("MLO0201", None, name=level, notes=notes))
    reads, seen = _reads(plan)
    whole = Nest(reads, plan.order)
    below = whole.below(level)
    group = tuple(n for n in plan.order if n in below or n == level)
    above = {r for q in group for r in seen[q]} - set(group)
    top = not any(level in whole.below(p) for p in plan.order)
    plan = _planned(plan, group, level, warm)
    own = plan.level(level)
    solves = any(isinstance(i, Solve) and i.level == level for i in walk(plan.program))
    return Part(
        plan,
        level,
        group,
        tuple(n for n in plan.order if n in above),
        {q: reads[q] for q in group},
        fragment(
            plan.program,
            level,
            group,
            repeated=not solves and (top or own.steps != 1),
            start=own.start != "warm",
        ),
    )


def _reads(plan: Plan) -> tuple[dict[str, tuple[str, ...]], dict[str, set[str]]]:
    """By level: what carries gradient into its solution, itself first; and all that it reads, in
    formulas, in settings and where its start is copied from.
    """
    graph = plan.graph()
    reads = {name: [name] for name in plan.order}
    seen = {
        level.name: {
            str(n.attr("level"))
            for _, n in graph.leaves(level.objective)
            if n.op in ("var", "module")
        }
        | {read.level for read in level.reads}
        for level in plan.model.levels
    }
    for edge in plan.edges:
        reader, read = {
            "l2u": (edge.upper, edge.lower),
            "u2l": (edge.lower, edge.upper),
        }.get(edge.kind, ("", ""))
        if reader and read not in reads[reader]:
            reads[reader].append(read)
            seen[reader].add(read)
    return {name: tuple(found) for name, found in reads.items()}, seen


def _planned(plan: Plan, group: Collection[str], level: str, warm: bool | None) -> Plan:
    """The plan with a start as asked for, and a strategy for every level of the group."""
    pulled = {
        pull.level for i in walk(plan.program) if isinstance(i, Step | Solve) for pull in i.pulls
    }
    levels = []
    for one in plan.levels:
        if one.name == level and warm is not None:
            start = one.start if one.start.startswith("copy") else "reset"
            one = replace(one, start="warm" if warm else start)
        if one.name in group:
            if one.name not in pulled:
                one = _differentiated(plan, one)
            _check(one)
        levels.append(one)
    return replace(plan, levels=tuple(levels))


def _differentiated(plan: Plan, one: LevelPlan) -> LevelPlan:
    """A level that nothing in the program differentiates through: as its settings say, or exactly
    where it is small, by its steps where they begin anew, else by conjugate gradient.
    """
    level = plan.model.level(one.name)
    asked = level.setting("hypergrad")
    if isinstance(asked, Call) and asked.name in STRATEGIES and asked.name != "auto":
        strategy = asked
    elif one.steps is not None and one.stop is None and one.start != "warm":
        strategy = Call("unroll")
    elif one.size is not None and one.size <= DENSE:
        strategy = Call("exact")
    else:
        strategy = Call("cg", named=(("tol", 1e-10 if plan.precision == "fp64" else 1e-6),))
    direct = level.setting("curvature")
    total = "direct" if direct in ("direct", Call("direct")) else "total"
    return replace(one, strategy=strategy, total=total)


def _check(one: LevelPlan) -> None:
    """MLO0602: strategies that move more than the level, or are right for one loss only."""
    strategy = one.strategy
    rule = strategy.get("rule")
    bome = strategy.name == "penalty" and rule in ("bome", Call("bome"))
    if strategy.name in ("danskin", "score", "single_loop") or bome:
        text = f"{strategy.name}(rule = bome)" if bome else strategy.name
        raise InputError(
            report(
                "MLO0602",
                None,
                kind="strategy of a layer",
                name=text,
                notes=[
                    f"it moves more than level `{one.name}`, or depends on the loss above it;"
                    f' compile with set={{"{one.name}.hypergrad": "cg"}}, for example'
                ],
            )
        )
