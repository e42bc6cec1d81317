"""What the planner knows of a level: its curvature, size, noise, and who moves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bettyc.calculus.bounds import Bounds
from bettyc.calculus.curvature import Curvature, classify
from bettyc.diagnostics.span import Span
from bettyc.expr import Graph
from bettyc.gradients import carried, started
from bettyc.hierarchy import Hierarchy
from bettyc.model import Call, Formula, Level, Model
from bettyc.optimizers import OPTIMIZERS
from bettyc.types import product

# A variable in positive, unit, interval or simplex is a function of what the optimizer moves.
OF_UNCONSTRAINED = "what is solved for is unconstrained, and the objective another function of that"


@dataclass(frozen=True)
class Facts:
    """A level as the planner sees it.

    turned: the curvature under the opposite sense. size: number of its scalars, None while a dim
    is unbound or a network is from Python.
    noisy: its objective changes from step to step (batches, dropout). opaque: it has a part that
    only autograd can differentiate. nested: it stars other levels whose solutions move.
    masked: it draws random masks. held: of what changes, it sees only batches of levels above,
    which stay until that level has moved: it can be solved for each.
    """

    level: Level
    curvature: Curvature
    turned: Curvature
    size: int | None
    noisy: bool
    opaque: bool
    nested: bool
    precision: str
    copied: bool = False
    masked: bool = False
    held: bool = False

    @property
    def name(self) -> str:
        return self.level.name

    @property
    def quadratic(self) -> bool:
        return self.curvature.kind in ("constant", "affine", "quadratic")

    @property
    def glm(self) -> bool:
        return self.curvature.kind == "glm" and self.curvature.convex

    @property
    def wanted(self) -> str:
        """The curvature with which the Hessian of what is minimised is positive semidefinite."""
        return "concave" if self.level.sense == "maximize" else "convex"

    @property
    def constraint(self) -> str | None:
        """The first variable with a domain, and why its level is then of no class; or None."""
        for v in self.level.variables:
            if v.domain is not None:
                edge = v.domain.name in ("ball", "box")
                why = "its optimum may be at the edge" if edge else OF_UNCONSTRAINED
                return f"`{v.name}` lies in `{v.domain.name}`: {why}"
        return None

    @property
    def optimizer(self) -> Call:
        value = self.level.setting("optimizer")
        return value if isinstance(value, Call) else Call("auto")

    @property
    def strategy(self) -> Call:
        value = self.level.setting("hypergrad")
        return value if isinstance(value, Call) else Call("auto")

    @property
    def start(self) -> str:
        """ "warm", "reset" or "copy:level.module"."""
        value = self.level.setting("start")
        if isinstance(value, Call) and value.name == "copy":
            return f"copy:{value.positional[0].path}"  # type: ignore[union-attr]
        return value.name if isinstance(value, Call) else "warm"

    @property
    def stop(self) -> float | None:
        value = self.level.setting("stop")
        return float(value.positional[1]) if isinstance(value, Call) else None  # type: ignore[arg-type]

    @property
    def steps(self) -> int | None:
        """What the program says, or None."""
        value = self.level.setting("steps")
        return value if isinstance(value, int) else None

    @property
    def solves(self) -> bool:
        """Does it run until it has converged?"""
        table = OPTIMIZERS.get(self.optimizer.name)
        return bool(table is not None and table.solves) or self.stop is not None

    @property
    def formula(self) -> bool:
        """Does an optimizer setting depend on another level's variable?"""
        return any(isinstance(v, Formula) for _, v in self.optimizer.named)


def gather(model: Model, graph: Graph, hierarchy: Hierarchy) -> dict[str, Facts]:
    """The facts of every level."""
    domains = {
        (level.name, v.name): v.domain
        for level in model.levels
        for v in level.variables
        if v.domain is not None
    }
    return {lv.name: _facts(model, graph, hierarchy, lv, domains) for lv in model.levels}


def _facts(
    model: Model,
    graph: Graph,
    hierarchy: Hierarchy,
    level: Level,
    domains: Mapping[tuple[str, str], Call],
) -> Facts:
    reached = graph.reachable([level.objective])
    own = [
        i
        for i in reached
        if graph[i].op in ("var", "module") and graph[i].attr("level") == level.name
    ]
    curvature = classify(
        graph, level.objective, own, level.sense, _domains(graph, reached, level, domains)
    )
    other = "maximize" if level.sense == "minimize" else "minimize"
    turned = classify(graph, level.objective, own, other)
    constrained = [v for v in level.variables if v.domain is not None]
    if constrained and curvature.kind != "opaque":
        curvature = curvature.constrained()
    ops = {graph[i].op for i in reached}
    return Facts(
        level,
        curvature,
        turned,
        _size(level),
        _noisy(model, level) or "mask" in ops,
        bool(ops & {"apply", "extern_fn", "replicas"}),
        bool(hierarchy.starred[level.name]),
        word(level.setting("precision"), word(model.setting("precision"), "fp32")),
        bool(started(model, level) - carried(graph, level.objective)),
        "mask" in ops,
        "mask" not in ops and _held(model, hierarchy, level),
    )


def _domains(
    graph: Graph, reached: list[int], level: Level, declared: Mapping[tuple[str, str], Call]
) -> dict[int, Bounds]:
    """Bounds of what other levels own, by leaf."""
    found = {}
    for index in reached:
        node = graph[index]
        if node.op != "var" or node.attr("level") == level.name:
            continue
        domain = declared.get((node.attr("level"), node.attr("name")))
        if domain is not None:
            found[index] = _bounds(domain)
    return found


def _bounds(domain: Call) -> Bounds:
    if domain.name == "positive":
        return Bounds(0.0, strict=True)
    if domain.name in ("unit", "simplex"):
        return Bounds(0.0, 1.0, strict=True)
    if domain.name in ("interval", "box"):
        low, high = (float(v) for v in domain.positional)  # type: ignore[arg-type]
        return Bounds(low, high, strict=low > 0 or (low == 0 and domain.name == "interval"))
    radius = float(domain.positional[1])  # type: ignore[arg-type]
    return Bounds(-radius, radius)


def _size(level: Level) -> int | None:
    if any(n.extern is not None for n in level.networks):
        return None
    total = 0
    for v in level.variables:
        size = product(v.type.shape).value
        if size is None:
            return None
        total += size
    return total


def _noisy(model: Model, level: Level) -> bool:
    """Does it see another batch at every step?"""
    draws = {d.name: d for d in model.draws}
    data = {d.name for d in model.data}
    for name in level.draws:
        draw = draws[name]
        if dict(draw.options).get("batch") is not None or (
            draw.of == draw.name and draw.of in data
        ):
            return True
    return False


def _held(model: Model, hierarchy: Hierarchy, level: Level) -> bool:
    """Is each of its draws also that of a level above, which it then belongs to?"""
    above = {
        name
        for other in model.levels
        if level.name in hierarchy.below[other.name]
        for name in other.draws
    }
    return bool(level.draws) and above.issuperset(level.draws)


def is_zero_sum(lower: Facts, upper: Facts) -> bool:
    """The same formula with opposite senses."""
    return lower.level.objective == upper.level.objective and lower.level.sense != upper.level.sense


def span_of(level: Level, key: str) -> Span | None:
    """Where a setting was written; None for a default."""
    return next((s.span for s in level.settings if s.path == f"{level.name}.{key}"), None)


def word(value: object, default: str) -> str:
    """A setting whose value is a word."""
    if isinstance(value, Call):
        return value.name
    return value if isinstance(value, str) else default
