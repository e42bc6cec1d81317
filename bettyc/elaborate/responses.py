"""Responses of levels (`fit*.w`), and what belongs to a level."""

from __future__ import annotations

from bettyc.diagnostics.model import Edit, Label, Suggestion
from bettyc.diagnostics.span import Span
from bettyc.elaborate import names
from bettyc.elaborate.context import Context
from bettyc.elaborate.scope import Scope
from bettyc.elaborate.values import BAD, Bad, LevelName, Meaning, Net, Replica
from bettyc.grammar import ast


def response(ctx: Context, node: ast.Response, scope: Scope) -> Meaning:
    base = names.base_of(ctx, node.base, scope, starred=True)
    if isinstance(base, LevelName | Replica):
        level = base.name if isinstance(base, LevelName) else base.level
        if scope.level is not None and scope.level.name == level and scope.where != "metric":
            return _own_response(ctx, node, level, scope)
        if scope.where == "metric":
            bare = f"{names.text_of(node.base)}.{node.name.text}"
            ctx.report(
                "MLO0320",
                node.span,
                scope,
                read=f"{names.text_of(node.base)}*.{node.name.text}",
                label="metrics are evaluated without gradient",
                suggestions=[
                    Suggestion("drop the star", (Edit(node.span, bare),), "machine-applicable")
                ],
            )
        return of_level(
            ctx, level, node.name, "response", node.span, scope, isinstance(base, Replica)
        )
    if not isinstance(base, Bad):
        ctx.report(
            "MLO0201",
            node.base.span,
            scope,
            name=names.text_of(node.base),
            label="not a level",
            suggestions=names.nearest(names.text_of(node.base), scope.unit.levels, node.base.span),
        )
    return BAD


def _own_response(ctx: Context, node: ast.Response, level: str, scope: Scope) -> Meaning:
    """MLO0302; read on as the variable itself."""
    name = node.name.text
    edit = Edit(node.span, name)
    cure = f"inside its own level a variable is just `{name}`"
    ctx.report(
        "MLO0302",
        node.span,
        scope,
        level=level,
        label="its own solution",
        suggestions=[Suggestion(cure, (edit,), "machine-applicable")],
    )
    with ctx.recording():
        return of_level(ctx, level, node.name, "value", node.span, scope, False)


def of_level(
    ctx: Context, level: str, ident: ast.Ident, mode: str, span: Span, scope: Scope, replica: bool
) -> Meaning:
    """`q.v` and `q*.v`: a variable or network of a level, a `foreach` level's task."""
    decl = scope.unit.levels.get(level) or ctx.main.levels[level]
    name = ident.text
    task = decl.node.task
    if replica and task is not None and task.text == name:
        return names.task_columns(ctx, level)
    if task is not None and not replica and scope.level is not decl:
        ctx.report(
            "MLO0203",
            ident.span,
            scope,
            level=level,
            name=name,
            label=f"`{level}` has one `{name}` per task: write `... for a in {level}`",
        )
        return BAD
    member = decl.members.get(name)
    if isinstance(member, ast.Draw):
        ctx.report(
            "MLO0207",
            span,
            scope,
            level=level,
            name=name,
            label="batches are local",
            notes=["draw it at top level to share it"],
            secondary=[Label(member.name.span, "drawn here")],
        )
        return BAD
    if isinstance(member, ast.Var):
        ctx.read(level, name, mode, span)
        return names.variable(ctx, level, name)
    if isinstance(member, ast.Module):
        ctx.read(level, name, mode, span)
        return Net(level, name) if (level, name) in ctx.networks else BAD
    owned = [n for n, m in decl.members.items() if isinstance(m, ast.Var | ast.Module)]
    near = [*owned, *([task.text] if replica and task is not None else [])]
    notes = [
        f"it declares {', '.join(f'`{n}`' for n in owned)}" if owned else "it declares no variables"
    ]
    if isinstance(member, ast.Let):
        notes = ["a `let` is local to its level; write a `def` to share a formula"]
    ctx.report(
        "MLO0203",
        ident.span,
        scope,
        level=level,
        name=name,
        label="no such variable",
        notes=notes,
        suggestions=names.nearest(name, near, ident.span),
    )
    return BAD
