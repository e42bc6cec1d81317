"""Calls: which of functions, `def`s, functions from Python and networks it is."""

from __future__ import annotations

from typing import Any

from bettyc.diagnostics.model import Edit, Label, Suggestion
from bettyc.diagnostics.span import Span
from bettyc.diagnostics.suggest import closest
from bettyc.elaborate import arguments, externs, formula, functions, hints
from bettyc.elaborate.context import Context
from bettyc.elaborate.scope import Scope, Unit
from bettyc.elaborate.values import BAD, Bad, Cell, Meaning, Namespace, Net, describe
from bettyc.grammar import ast
from bettyc.ops import FUNCTIONS

DEEPEST = 100  # nested `def` calls


def call(ctx: Context, node: ast.Call, scope: Scope) -> Meaning:
    function = node.function
    if isinstance(function, ast.Name):
        name = function.id
        bound = scope.local.get(name)
        if bound is None and scope.level is not None and scope.where != "def":
            bound = scope.level.members.get(name)
        if bound is None:
            declared = scope.unit.names.get(name)
            if isinstance(declared, ast.Def | ast.ExternFn):
                scope.unit.used.add(name)
                return arguments.declared(ctx, declared, node, scope, scope.unit)
            if name in FUNCTIONS:
                return functions.builtin(ctx, name, node, scope)
            if declared is None and name not in scope.unit.imports:
                return _unknown_function(ctx, name, node, function.span, scope)
    elif isinstance(function, ast.Field):
        of = function.base
        imported = isinstance(of, ast.Name) and of.id in scope.unit.imports
        base = formula.meaning(ctx, of, scope) if imported else BAD
        if isinstance(base, Namespace):
            declared = base.unit.names.get(function.name.text)
            if isinstance(declared, ast.Def | ast.ExternFn):
                base.unit.used.add(function.name.text)
                return arguments.declared(ctx, declared, node, scope, base.unit)
            return _unknown_function(
                ctx, function.name.text, node, function.name.span, scope, base.unit
            )
    found = formula.meaning(ctx, function, scope)
    if isinstance(found, Net):
        return externs.network(ctx, found, node, scope)
    if not isinstance(found, Bad):
        ctx.report(
            "MLO0404",
            function.span,
            scope,
            expected="a function or a network",
            found=describe(found),
        )
    visit(ctx, node, scope)
    return BAD


def visit(ctx: Context, node: ast.Call, scope: Scope) -> None:
    """Look into the arguments of a call that is wrong, for what else is wrong."""
    for arg in node.args:
        if isinstance(arg, ast.Arg):
            formula.meaning(ctx, arg.value, scope)


def _unknown_function(
    ctx: Context, name: str, node: ast.Call, span: Span, scope: Scope, unit: Unit | None = None
) -> Meaning:
    known = _callables(scope, unit)
    suggestions = [
        Suggestion(f"did you mean `{n}`?", (Edit(span, n),), "maybe-incorrect")
        for n in closest(name, known)
    ]
    for level in scope.unit.levels.values() if unit is None else ():
        if isinstance(level.members.get(name), ast.Module):
            where = f"`{name}` is a network of level `{level.name}`"
            write = f"`{level.name}.{name}` or `{level.name}*.{name}`"
            edit = Edit(span, f"{level.name}.{name}")
            suggestions.append(Suggestion(f"{where}: write {write}", (edit,), "maybe-incorrect"))
    named, notes = hints.function(name, span)
    suggestions += named
    if not suggestions and not notes:
        declared = f'`extern fn {name}(...) -> real from "module:{name}"`'
        suggestions.append(Suggestion(f"declare it: {declared}", (), "has-placeholders"))
    ctx.report(
        "MLO0208",
        span,
        scope,
        name=name,
        label="no such function",
        notes=notes,
        suggestions=suggestions,
    )
    visit(ctx, node, scope)
    return BAD


def _callables(scope: Scope, unit: Unit | None) -> list[str]:
    """What may be called by its name alone: networks and `let`s here, functions of the file or of
    the imported `unit`, those of the language.
    """
    names = (unit or scope.unit).names
    functions = [n for n, d in names.items() if isinstance(d, ast.Def | ast.ExternFn)]
    if unit is not None:
        return functions
    level = scope.level if scope.where != "def" else None
    members = level.members if level is not None else {}
    own = [n for n, m in members.items() if isinstance(m, ast.Module | ast.Let)]
    return [*scope.local, *own, *functions, *FUNCTIONS]


def inline(
    ctx: Context,
    declared: ast.Def,
    given: dict[str, ast.Arg],
    node: ast.Call,
    scope: Scope,
    unit: Unit,
) -> Meaning:
    name = declared.name.text
    if name in scope.defs or len(scope.defs) >= DEEPEST:
        ctx.report(
            "MLO0206",
            node.span,
            scope,
            name=name,
            label="called from its own definition",
            secondary=[Label(declared.name.span, "defined here")],
        )
        return BAD
    local: dict[str, Any] = {}
    for formal in declared.formals:
        argument = given[formal.name.text].value
        with ctx.recording() as reads:
            found = formula.meaning(ctx, argument, scope)
            if formal.type is not None:
                found = formula.annotated(ctx, found, formal.type, argument, Scope(unit))
        local[formal.name.text] = Cell(found, tuple(reads))
    inner = Scope(
        unit,
        None,
        local,
        "metric" if scope.where == "metric" else "def",
        (*scope.calls, node.span),
        (*scope.defs, name),
    )
    found = formula.meaning(ctx, declared.body, inner)
    if declared.returns is not None:
        found = formula.annotated(ctx, found, declared.returns, declared.body, inner)
    return found
