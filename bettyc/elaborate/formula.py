"""Formulas: expressions of the language to nodes of the graph.

`def` and `let` are inlined; a `let` and an argument of a `def` are built once and their reads of
other levels counted at each use, so that `detach(loss)` detaches what `loss` reads only there.
"""

from __future__ import annotations

from typing import Any

from bettyc.diagnostics.model import Edit, Label, Suggestion
from bettyc.diagnostics.span import Span
from bettyc.diagnostics.suggest import closest
from bettyc.elaborate import calls, constants, hints
from bettyc.elaborate.constants import NotConstant
from bettyc.elaborate.context import Context
from bettyc.elaborate.declared import type_of
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
    Pending,
    Replica,
    Tens,
    describe,
)
from bettyc.grammar import ast
from bettyc.ops import ShapeError
from bettyc.types import POISON, REAL, Poison, Record, Tensor, symbol

BINARY = {
    "+": "add",
    "-": "sub",
    "*": "mul",
    "/": "div",
    "^": "pow",
    "**": "pow",
    "@": "matmul",
    "and": "and",
    "or": "or",
}
COMPARE = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
LEVEL_PARTS = ("loss",)


def tensor(ctx: Context, node: ast.Expr, scope: Scope) -> int | None:
    """The node of a tensor expression, or None after a diagnostic."""
    return as_tensor(ctx, meaning(ctx, node, scope), node.span, scope)


def as_tensor(ctx: Context, found: Meaning, span: Span, scope: Scope) -> int | None:
    if isinstance(found, Tens):
        return found.node
    if isinstance(found, Literal) and isinstance(found.value, bool):
        return ctx.number(found.value, span)
    if isinstance(found, Net):
        ctx.report(
            "MLO0408",
            span,
            scope,
            name=found.name,
            label=f"`{found.name}(x)` applies it, `params({found.name})` is its parameter vector",
        )
    elif not isinstance(found, Bad):
        ctx.report("MLO0404", span, scope, expected="a tensor", found=describe(found))
    return None


def meaning(ctx: Context, node: ast.Expr, scope: Scope) -> Meaning:
    """What an expression stands for; BAD after a diagnostic."""
    handler = HANDLERS.get(type(node))
    if handler is None:
        ctx.report("MLO0404", node.span, scope, expected="a formula", found="another expression")
        return BAD
    found: Meaning = handler(ctx, node, scope)
    if isinstance(found, Tens):
        ctx.place(found.node, node.span)
    return found


def apply(
    ctx: Context,
    op: str,
    operands: list[int | None],
    nodes: list[ast.Expr],
    span: Span,
    scope: Scope,
    **attrs: Any,
) -> Meaning:
    """An operator on evaluated operands; reports what does not fit, with the operands labelled."""
    if any(o is None for o in operands):
        return BAD
    known = [o for o in operands if o is not None]
    if any(isinstance(ctx.graph[o].type, Poison) for o in known):
        return BAD
    try:
        return Tens(calls.build(ctx.graph, op, known, attrs))
    except ShapeError as error:
        calls.misfit(ctx, error, op, known, nodes, span, scope)
        return BAD


def _number(ctx: Context, node: ast.Number, scope: Scope) -> Meaning:
    return Tens(ctx.number(node.value))


def _bool(ctx: Context, node: ast.Bool, scope: Scope) -> Meaning:
    return Literal(node.value)


def _string(ctx: Context, node: ast.String, scope: Scope) -> Meaning:
    return Literal(node.value)


def _name(ctx: Context, node: ast.Name, scope: Scope) -> Meaning:
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
    return let(ctx, ctx.lets[level.name, name], span, scope)


def let(ctx: Context, pending: Pending, span: Span, scope: Scope) -> Meaning:
    """The value of a `let`, built at first use."""
    if pending.busy:
        ctx.report(
            "MLO0206",
            span,
            scope,
            name=pending.node.name.text,
            label="needed for its own definition",
            secondary=[Label(pending.node.name.span, "defined here")],
        )
        return BAD
    if pending.cell is None:
        pending.busy = True
        with ctx.recording() as reads:
            inner = Scope(scope.unit, pending.level, where="let")
            found = meaning(ctx, pending.node.value, inner)
            annotation = getattr(pending.node, "type", None)
            if annotation is not None:
                found = annotated(ctx, found, annotation, pending.node.value, inner)
        pending.cell = Cell(found, tuple(reads))
        pending.busy = False
    ctx.replay(pending.cell.reads)
    return pending.cell.meaning


def annotated(
    ctx: Context, found: Meaning, annotation: ast.Type, node: ast.Expr, scope: Scope
) -> Meaning:
    """Check a value against a written type; the written dims that are not declared are generic."""
    from bettyc.elaborate.values import unify

    if not isinstance(found, Tens):
        return found
    generic: set[str] = set()
    declared = type_of(ctx, annotation, scope, generic)
    given = ctx.graph[found.node].type
    if declared != POISON and not unify(declared, given, {}, frozenset(generic)):
        ctx.report(
            "MLO0404",
            node.span,
            scope,
            expected=f"`{declared}`",
            found=f"`{given}`",
            secondary=[Label(annotation.span, "declared here")],
        )
        return BAD
    return found


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


def _base(ctx: Context, node: ast.Expr, scope: Scope, starred: bool) -> Meaning:
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
                suggestions=_near(node.id, _levels(scope), node.span),
                notes=[f"levels here: {', '.join(levels) or 'none'}"],
            )
            return BAD
    return meaning(ctx, node, scope)


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


def _field(ctx: Context, node: ast.Field, scope: Scope) -> Meaning:
    base = _base(ctx, node.base, scope, starred=False)
    name = node.name.text
    if isinstance(base, Columns):
        return _column(ctx, base, node, scope)
    if isinstance(base, LevelName | Replica):
        level = base.name if isinstance(base, LevelName) else base.level
        return of_level(ctx, level, node.name, "value", node.span, scope, isinstance(base, Replica))
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
            suggestions=_near(name, base.unit.names, node.name.span),
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
            suggestions=_near(name, names, node.name.span),
        )
        return BAD
    if isinstance(found, Record):
        return Columns(f"{base.name}.{name}", found, base.make, path)
    return Tens(base.make(path)) if isinstance(found, Tensor) else BAD


def _near(name: str, candidates: Any, span: Span) -> list[Suggestion]:
    return [
        Suggestion(f"did you mean `{n}`?", (Edit(span, n),), "maybe-incorrect")
        for n in closest(name, tuple(candidates))
    ]


def _response(ctx: Context, node: ast.Response, scope: Scope) -> Meaning:
    base = _base(ctx, node.base, scope, starred=True)
    if isinstance(base, LevelName | Replica):
        level = base.name if isinstance(base, LevelName) else base.level
        if scope.level is not None and scope.level.name == level and scope.where != "metric":
            return _own_response(ctx, node, level, scope)
        if scope.where == "metric":
            bare = f"{_text(node.base)}.{node.name.text}"
            ctx.report(
                "MLO0320",
                node.span,
                scope,
                read=f"{_text(node.base)}*.{node.name.text}",
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
            name=_text(node.base),
            label="not a level",
            suggestions=_near(_text(node.base), scope.unit.levels, node.base.span),
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


def _text(node: ast.Expr) -> str:
    return node.id if isinstance(node, ast.Name) else "..."


def of_level(
    ctx: Context, level: str, ident: ast.Ident, mode: str, span: Span, scope: Scope, replica: bool
) -> Meaning:
    """`q.v` and `q*.v`: a variable or network of a level, a `foreach` level's task."""
    decl = scope.unit.levels.get(level) or ctx.main.levels[level]
    name = ident.text
    task = decl.node.task
    if replica and task is not None and task.text == name:
        return task_columns(ctx, level)
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
        return variable(ctx, level, name)
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
        suggestions=_near(name, near, ident.span),
    )
    return BAD


def _unary(ctx: Context, node: ast.Unary, scope: Scope) -> Meaning:
    if node.op == "-" and isinstance(node.operand, ast.Number):
        return Tens(ctx.number(-node.operand.value))
    operand = tensor(ctx, node.operand, scope)
    return apply(
        ctx, "neg" if node.op == "-" else "not", [operand], [node.operand], node.span, scope
    )


def _binary(ctx: Context, node: ast.Binary, scope: Scope) -> Meaning:
    left, right = tensor(ctx, node.left, scope), tensor(ctx, node.right, scope)
    if (
        left is not None
        and right is not None
        and not calls.same_structure(ctx, left, right, node, scope)
    ):
        return BAD
    return apply(ctx, BINARY[node.op], [left, right], [node.left, node.right], node.span, scope)


def _compare(ctx: Context, node: ast.Compare, scope: Scope) -> Meaning:
    operands = [tensor(ctx, node.left, scope), tensor(ctx, node.right, scope)]
    return apply(ctx, COMPARE[node.op], operands, [node.left, node.right], node.span, scope)


def _if(ctx: Context, node: ast.If, scope: Scope) -> Meaning:
    condition = meaning(ctx, node.condition, scope)
    if isinstance(condition, Literal) and isinstance(condition.value, bool):
        return _static_if(ctx, node, condition.value, scope)
    nodes = [node.condition, node.then, node.otherwise]
    operands = [
        as_tensor(ctx, condition, node.condition.span, scope),
        tensor(ctx, node.then, scope),
        tensor(ctx, node.otherwise, scope),
    ]
    return apply(ctx, "where", operands, nodes, node.span, scope)


def _static_if(ctx: Context, node: ast.If, condition: bool, scope: Scope) -> Meaning:
    """A condition known at compile time chooses an arm; the other is checked, and does not count
    as read.
    """
    chosen, other = (node.then, node.otherwise) if condition else (node.otherwise, node.then)
    with ctx.recording():
        left_out = meaning(ctx, other, scope)
    found = meaning(ctx, chosen, scope)
    if isinstance(found, Tens) and isinstance(left_out, Tens):
        types = [ctx.graph[m.node].type for m in (found, left_out)]
        shapes = [t.shape if isinstance(t, Tensor) else None for t in types]
        if shapes[0] != shapes[1]:
            left, right = types if condition else types[::-1]
            ctx.report(
                "MLO0414",
                node.span,
                scope,
                left=left,
                right=right,
                secondary=[
                    Label(node.then.span, f"`{left}`"),
                    Label(node.otherwise.span, f"`{right}`"),
                ],
            )
            return BAD
    return found


def _subscript(ctx: Context, node: ast.Subscript, scope: Scope) -> Meaning:
    base = tensor(ctx, node.base, scope)
    spec: list[tuple[Any, ...]] = []
    operands: list[int | None] = [base]
    nodes: list[ast.Expr] = [node.base]
    for item in node.indices:
        if isinstance(item, ast.Slice):
            try:
                bounds = [_bound(ctx, b, scope) for b in (item.low, item.high)]
            except NotConstant:
                return BAD
            spec.append(("all",) if bounds == [None, None] else ("slice", *bounds))
        elif isinstance(item, ast.Name) and item.id == "new":
            spec.append(("new",))
        else:
            index = tensor(ctx, item, scope)
            if index is None:
                return BAD
            constant = ctx.graph[index]
            if constant.op == "const" and isinstance(constant.attr("value"), int):
                spec.append(("at", constant.attr("value")))
                continue
            spec.append(("take", len(operands)))
            operands.append(index)
            nodes.append(item)
            if base is not None:
                calls.same_rows(ctx, base, index, len(spec) - 1, item.span, scope)
    return apply(ctx, "index", operands, nodes, node.span, scope, spec=tuple(spec))


def _bound(ctx: Context, node: ast.Expr | None, scope: Scope) -> Any:
    if node is None:
        return None
    found = constants.dim(ctx, node, scope)
    return found.value if found.value is not None else found.terms


def _list(ctx: Context, node: ast.List, scope: Scope) -> Meaning:
    """`[a, b, c]` of scalars is a vector."""
    operands = [tensor(ctx, item, scope) for item in node.items]
    return apply(ctx, "stack", operands, list(node.items), node.span, scope)


def _call(ctx: Context, node: ast.Call, scope: Scope) -> Meaning:
    return calls.call(ctx, node, scope)


HANDLERS: dict[type, Any] = {
    ast.Number: _number,
    ast.Bool: _bool,
    ast.String: _string,
    ast.Name: _name,
    ast.Field: _field,
    ast.Response: _response,
    ast.Unary: _unary,
    ast.Binary: _binary,
    ast.Compare: _compare,
    ast.If: _if,
    ast.Subscript: _subscript,
    ast.List: _list,
    ast.Call: _call,
}

__all__ = ["apply", "as_tensor", "meaning", "symbol", "tensor"]
