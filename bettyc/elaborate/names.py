"""What names and their fields mean: variables, columns, params, dims, levels."""

from __future__ import annotations

from typing import Any

from bettyc.diagnostics.model import Edit, Suggestion
from bettyc.diagnostics.span import Span
from bettyc.diagnostics.suggest import closest
from bettyc.elaborate import constants, formula, hints, responses
from bettyc.elaborate.constants import NotConstant
from bettyc.elaborate.context import Context
from bettyc.elaborate.scope import LevelDecl, Scope
from bettyc.elaborate.values import (
    BAD,
    Bad,
    Cell,
    Columns,
    LevelName,
    Literal,
    Meaning,
    Namespace,
    Net,
    Replica,
    Tens,
    describe,
)
from bettyc.grammar import ast
from bettyc.types import REAL, Record, Tensor

LEVEL_PARTS = ("loss",)


def of_name(ctx: Context, node: ast.Name, scope: Scope) -> Meaning:
    name = node.id
    if name in scope.local:
        bound = scope.local[name]
        if isinstance(bound, Cell):
            ctx.replay(bound.reads)
            return bound.meaning
        return bound  # type: ignore[no-any-return]
    if scope.level is not None and scope.where != "def":
        member = scope.level.members.get(name)
        if member is not None:
            return _member(ctx, scope.level, member, node.span, scope)
        task = scope.level.node.task
        if task is not None and task.text == name:
            return task_columns(ctx, scope.level.name)
    declared = scope.unit.names.get(name)
    if declared is not None:
        scope.unit.used.add(name)
        return _global(ctx, declared, node, scope)
    if name in scope.unit.imports:
        return Namespace(scope.unit.imports[name])
    if name in ("new", "inf"):
        where = "inside an index" if name == "new" else "inside a domain"
        ctx.report("MLO0212", node.span, scope, name=name, where=where)
        return BAD
    from bettyc.ops import FUNCTIONS

    if name in FUNCTIONS:
        ctx.report(
            "MLO0404",
            node.span,
            scope,
            expected="a tensor",
            found=f"the function `{name}`",
            label=f"call it: `{FUNCTIONS[name].signature}`",
        )
        return BAD
    constants.unknown(ctx, node, scope, _visible(scope))
    return BAD


def _visible(scope: Scope) -> list[str]:
    """The names that an expression may use, nearest first."""
    level = scope.level if scope.where != "def" else None
    task = level.node.task if level is not None else None
    own = [*level.members, *([task.text] if task is not None else [])] if level is not None else []
    return [*scope.local, *own, *scope.unit.names, *scope.unit.imports]


def _member(ctx: Context, level: LevelDecl, member: Any, span: Span, scope: Scope) -> Meaning:
    """A level's own name, from inside."""
    name = member.name.text
    if isinstance(member, ast.Var):
        return variable(ctx, level.name, name)
    if isinstance(member, ast.Module):
        return Net(level.name, name) if (level.name, name) in ctx.networks else BAD
    if isinstance(member, ast.Draw):
        return columns(ctx, f"{level.name}.{name}", "batch")
    return formula.let(ctx, ctx.lets[level.name, name], span, scope)


def variable(ctx: Context, level: str, name: str) -> Meaning:
    known = ctx.variables.get((level, name))
    if known is None:
        return BAD
    return Tens(ctx.graph.leaf("var", known.type, level=level, name=name))


def columns(ctx: Context, name: str, leaf: str) -> Meaning:
    """A data set, split part or batch by its qualified name."""
    key = "draw" if leaf == "batch" else "data"
    type_ = ctx.draws[name].type if leaf == "batch" and name in ctx.draws else ctx.columns.get(name)
    if type_ is None:
        return BAD

    def make(field: str) -> int:
        at = _field_type(type_, field)
        return ctx.graph.leaf(leaf, at, field=field, **{key: name})

    if isinstance(type_, Record):
        return Columns(name, type_, make)
    return Tens(make(""))


def task_columns(ctx: Context, level: str) -> Meaning:
    draw = ctx.tasks.get(level)
    if draw is None or not isinstance(draw.type, Record):
        return BAD
    type_ = draw.type
    return Columns(
        f"{level}.{draw.name}",
        type_,
        lambda f: ctx.graph.leaf("task", _field_type(type_, f), level=level, field=f),
    )


def _field_type(type_: Record | Tensor, field: str) -> Any:
    found: Any = type_
    for part in field.split(".") if field else []:
        found = found.get(part)
    return found


def _global(ctx: Context, declared: Any, node: ast.Name, scope: Scope) -> Meaning:
    if isinstance(declared, ast.Data | ast.Part):
        return columns(ctx, node.id, "data")
    if isinstance(declared, ast.Draw):
        return columns(ctx, node.id, "batch")
    if isinstance(declared, ast.Level):
        return LevelName(node.id)
    if isinstance(declared, ast.Param):
        return _param(ctx, declared, scope)
    if isinstance(declared, ast.DimDecl):
        return _dim(ctx, declared, scope)
    if isinstance(declared, ast.Metric):
        ctx.report(
            "MLO0404",
            node.span,
            scope,
            expected="a tensor",
            found="a metric",
            label="metrics are for reports and stopping rules",
        )
        return BAD
    ctx.report(
        "MLO0404",
        node.span,
        scope,
        expected="a tensor",
        found=f"the name of a function, `{node.id}`",
        label=f"call it: `{node.id}(...)`",
    )
    return BAD


def _param(ctx: Context, declared: ast.Param, scope: Scope) -> Meaning:
    try:
        v = constants.param(ctx, declared, scope)
    except NotConstant:
        return BAD
    if isinstance(v, int | float) and not isinstance(v, bool):
        return Tens(ctx.number(v))
    return Literal(v) if isinstance(v, str | bool) else BAD


def _dim(ctx: Context, declared: ast.DimDecl, scope: Scope) -> Meaning:
    try:
        found = constants.dimension(ctx, declared, scope)
    except NotConstant:
        return BAD
    if found.value is not None:
        return Tens(ctx.number(found.value))
    return Tens(ctx.graph.make("size", (), REAL, dim=found.terms))


def base_of(ctx: Context, node: ast.Expr, scope: Scope, starred: bool) -> Meaning:
    """What stands before a dot. A name that is nowhere and is starred, or nearest to a level, is
    MLO0201.
    """
    if isinstance(node, ast.Name) and not _known(node.id, scope):
        levels = scope.unit.levels
        near = closest(node.id, (*_visible(scope), *levels))
        if starred or (near and near[0] in levels):
            ctx.report(
                "MLO0201",
                node.span,
                scope,
                name=node.id,
                label="no such level",
                suggestions=nearest(node.id, _levels(scope), node.span),
                notes=[f"levels here: {', '.join(levels) or 'none'}"],
            )
            return BAD
    return formula.meaning(ctx, node, scope)


def _levels(scope: Scope) -> list[str]:
    """What may stand before a star: levels, and replicas of one."""
    replicas = [name for name, bound in scope.local.items() if isinstance(bound, Replica)]
    return [*replicas, *scope.unit.levels]


def _known(name: str, scope: Scope) -> bool:
    level = scope.level
    task = level.node.task if level is not None else None
    return (
        name in scope.local
        or name in scope.unit.names
        or name in scope.unit.imports
        or (level is not None and scope.where != "def" and name in level.members)
        or (task is not None and task.text == name)
    )


def of_field(ctx: Context, node: ast.Field, scope: Scope) -> Meaning:
    base = base_of(ctx, node.base, scope, starred=False)
    name = node.name.text
    if isinstance(base, Columns):
        return _column(ctx, base, node, scope)
    if isinstance(base, LevelName | Replica):
        level = base.name if isinstance(base, LevelName) else base.level
        return responses.of_level(
            ctx, level, node.name, "value", node.span, scope, isinstance(base, Replica)
        )
    if isinstance(base, Namespace):
        declared = base.unit.names.get(name)
        if isinstance(declared, ast.Param | ast.DimDecl):
            base.unit.used.add(name)
            inner = Scope(base.unit)
            return (
                _param(ctx, declared, inner)
                if isinstance(declared, ast.Param)
                else _dim(ctx, declared, inner)
            )
        ctx.report(
            "MLO0202",
            node.name.span,
            scope,
            name=name,
            label=f"not in `{base.unit.name}`",
            suggestions=nearest(name, base.unit.names, node.name.span),
        )
        return BAD
    if not isinstance(base, Bad):
        if isinstance(base, Net):
            ctx.report(
                "MLO0408", node.span, scope, name=base.name, label="a network has no fields here"
            )
        else:
            text = hints.text(node.base) if isinstance(base, Tens) else ""
            suggestions, notes = hints.method(node, text)
            ctx.report(
                "MLO0404",
                node.base.span,
                scope,
                expected="a record or a level",
                found=describe(base),
                label="followed by a dot",
                notes=notes if isinstance(base, Tens) else [],
                suggestions=suggestions,
            )
    return BAD


def _column(ctx: Context, base: Columns, node: ast.Field, scope: Scope) -> Meaning:
    name = node.name.text
    found = base.type.get(name)
    path = f"{base.prefix}.{name}" if base.prefix else name
    if found is None:
        names = [n for n, _ in base.type.fields]
        if name == "index":
            ctx.report(
                "MLO0508",
                node.span,
                scope,
                batch=base.name,
                label="has no stable row numbers",
                notes=["only batches drawn from a data set with rows have an `index`"],
            )
            return BAD
        ctx.report(
            "MLO0202",
            node.name.span,
            scope,
            name=name,
            label=f"`{base.name}` has {', '.join(f'`{n}`' for n in names)}",
            suggestions=nearest(name, names, node.name.span),
        )
        return BAD
    if isinstance(found, Record):
        return Columns(f"{base.name}.{name}", found, base.make, path)
    return Tens(base.make(path)) if isinstance(found, Tensor) else BAD


def nearest(name: str, candidates: Any, span: Span) -> list[Suggestion]:
    return [
        Suggestion(f"did you mean `{n}`?", (Edit(span, n),), "maybe-incorrect")
        for n in closest(name, tuple(candidates))
    ]


def text_of(node: ast.Expr) -> str:
    return node.id if isinstance(node, ast.Name) else "..."
