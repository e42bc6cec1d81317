"""A whole program: units of files to the model, its graph and everything wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bettyc.diagnostics.model import Diagnostic
from bettyc.diagnostics.span import Span
from bettyc.elaborate import constants, data, formula, levels
from bettyc.elaborate.constants import NotConstant
from bettyc.elaborate.context import Context
from bettyc.elaborate.scope import Scope, Unit
from bettyc.elaborate.values import BAD, Cell
from bettyc.expr import Graph
from bettyc.grammar import ast
from bettyc.hierarchy import Hierarchy, Mentions
from bettyc.inference import infer
from bettyc.model import Level, Metric, Model, Setting
from bettyc.types import Poison, tensors


@dataclass(frozen=True)
class Elaborated:
    """`model` is None when a level did not come out; `hierarchy` when there is no order."""

    model: Model | None
    graph: Graph
    spans: Mapping[int, Span]
    hierarchy: Hierarchy | None
    diagnostics: tuple[Diagnostic, ...]
    context: Context


def elaborate(
    unit: Unit, name: str, sizes: Mapping[str, int], origins: Mapping[str, str]
) -> Elaborated:
    """Resolve names, types and settings of a program, infer its hierarchy, check that gradients
    arrive.
    """
    ctx = Context(unit, sizes)
    scope = Scope(unit)
    _globals(ctx, unit)
    for level in unit.levels.values():
        levels.declare(ctx, level, scope)
    for node in unit.of(ast.Draw):
        data.declare_draw(ctx, node, scope, None)
    built = [levels.build(ctx, level, scope, dict(origins)) for level in unit.levels.values()]
    metrics = _metrics(ctx, unit)
    run = _run(ctx, unit, dict(origins))
    _unused_definitions(ctx, unit)
    _never_bound(ctx, unit)
    found = [level for level in built if level is not None]
    mentions = [_mentions(ctx, unit, level) for level in found]
    hierarchy: Hierarchy | None = None
    if len(found) == len(built):
        hierarchy, wrong = infer(mentions)
        ctx.found += wrong
        if wrong:
            hierarchy = None
    model = (
        _model(ctx, name, found, metrics, run, dict(origins)) if len(found) == len(built) else None
    )
    if not unit.file.items:
        ctx.report("MLO0309", unit.file.span, name=name, label="the file is empty")
    if model is not None and hierarchy is not None and not ctx.errors():
        from bettyc import analysis

        ctx.found += analysis.check(model, ctx.graph, hierarchy, ctx.spans, unit)
    return Elaborated(model, ctx.graph, ctx.spans, hierarchy, tuple(ctx.found), ctx)


def _globals(ctx: Context, unit: Unit) -> None:
    """What formulas may mention besides levels: externs, params, data, splits. Imported files
    first.
    """
    for imported in unit.imports.values():
        _globals(ctx, imported)
    scope = Scope(unit, where="setting")
    for node in unit.names.values():
        if isinstance(node, ast.ExternFn | ast.ExternModule | ast.ExternSource):
            data.declare_extern(ctx, node, unit.prefix)
        elif isinstance(node, ast.Param):
            try:
                constants.param(ctx, node, scope)
            except NotConstant:
                continue
        elif isinstance(node, ast.DimDecl) and node.value is not None:
            try:
                constants.dimension(ctx, node, scope)
            except NotConstant:
                continue
    if unit is not ctx.main:
        return
    for node in unit.of(ast.Data):
        data.declare_data(ctx, node, Scope(unit))
    for item in unit.file.items:
        if isinstance(item, ast.Split):
            data.declare_split(ctx, item, Scope(unit))


# What a program says of a level that others are above, and how much it tells.
INNER = {"hypergrad": 2, "start": 1, "steps": 1, "curvature": 1}


def _mentions(ctx: Context, unit: Unit, level: Level) -> Mentions:
    own = any(node.attr("level") == level.name for _, node in ctx.graph.leaves(level.objective))
    written = {s.path.rpartition(".")[2] for s in level.settings if s.span is not None}
    inner = sum(weight for key, weight in INNER.items() if key in written)
    inner += 2 * (level.task is not None) + ("optimizer" not in written)
    return Mentions(level.name, level.reads, _lets(unit, level.name), own, inner)


def _lets(unit: Unit, level: str) -> tuple[tuple[str, Span], ...]:
    return tuple(
        (m.name.text, m.span) for m in unit.levels[level].members.values() if isinstance(m, ast.Let)
    )


def _metrics(ctx: Context, unit: Unit) -> list[Metric]:
    nodes = [(m, None) for m in unit.of(ast.Metric)]
    nodes += [(m, level) for level in unit.levels.values() for m in level.metrics]  # type: ignore[misc]
    found = []
    for node, level in nodes:
        with ctx.recording():
            index = formula.tensor(ctx, node.value, Scope(unit, level, where="metric"))
        if index is None or isinstance(ctx.graph[index].type, Poison):
            continue
        name = f"{level.name}.{node.name.text}" if level is not None else node.name.text
        found.append(Metric(name, index, node.name.span))
    return found


def _run(ctx: Context, unit: Unit, origins: dict[str, Any]) -> tuple[Setting, ...]:
    blocks = [item for item in unit.file.items if isinstance(item, ast.Run)]
    for extra in blocks[1:]:
        ctx.report("MLO0204", extra.span, name="run", label="a second run block")
    nodes = list(blocks[0].settings) if blocks else []
    return levels.block(ctx, "run", "run", nodes, Scope(unit, where="setting"), origins, [])


def _never_bound(ctx: Context, unit: Unit) -> None:
    """MLO0411 of dims that a variable needs and no data set can bind."""
    if len(ctx.data) < sum(1 for _ in unit.of(ast.Data)):
        return  # one that is wrong might have
    bindable = {
        n
        for type_ in (
            *(d.type for d in ctx.data.values()),
            *(d.type for d in ctx.draws.values()),
        )
        for _, t in tensors(type_)
        for dim in t.shape
        for n in dim.names
    }
    needed = {n for v in ctx.variables.values() for dim in v.type.shape for n in dim.names}
    for decl in unit.of(ast.DimDecl):
        name = decl.name.text
        if decl.value is None and name in needed - bindable:
            ctx.report(
                "MLO0411",
                decl.name.span,
                name=name,
                label="its size is not known",
                notes=[f"give it a value (`dim {name} = 10`), or use it in the type of a data set"],
            )


def _unused_definitions(ctx: Context, unit: Unit) -> None:
    """Definitions that nobody calls are still looked into, for unknown names."""
    for node in unit.of(ast.Def):
        if node.name.text in unit.used:
            continue
        local = {f.name.text: Cell(BAD, ()) for f in node.formals}
        with ctx.recording():
            formula.meaning(ctx, node.body, Scope(unit, None, local, "def", (), (node.name.text,)))


def _model(
    ctx: Context,
    name: str,
    found: list[Level],
    metrics: list[Metric],
    run: tuple[Setting, ...],
    origins: dict[str, Any],
) -> Model:
    dims = []
    for decl in ctx.main.of(ast.DimDecl):
        try:
            dims.append((decl.name.text, constants.dimension(ctx, decl, Scope(ctx.main)).value))
        except NotConstant:
            continue
    params = tuple(
        Setting(s.path, s.value, origins.get(s.path, s.origin), s.span)
        for (unit, _), s in sorted(ctx.params.items())
        if s is not None and unit == ctx.main.name
    )
    return Model(
        name,
        tuple(dims),
        params,
        tuple(ctx.externs.values()),
        tuple(ctx.data.values()),
        tuple(ctx.splits.values()),
        tuple(ctx.draws.values()),
        tuple(sorted(found, key=lambda level: level.name)),
        tuple(sorted(metrics, key=lambda m: m.name)),
        run,
    )
