"""The arguments of a call, beside the parameters of what is called."""

from __future__ import annotations

from bettyc.diagnostics.model import Edit, Suggestion
from bettyc.diagnostics.span import Span
from bettyc.diagnostics.suggest import closest
from bettyc.elaborate import calls, externs
from bettyc.elaborate.context import Context
from bettyc.elaborate.scope import Scope, Unit
from bettyc.elaborate.values import BAD, Meaning
from bettyc.grammar import ast


def arguments(
    ctx: Context,
    name: str,
    names: list[str],
    required: set[str],
    node: ast.Call,
    scope: Scope,
    signature: str,
) -> dict[str, ast.Arg] | None:
    """The arguments by parameter name, or None after a diagnostic."""
    given: dict[str, ast.Arg] = {}
    plain = [a for a in node.args if isinstance(a, ast.Arg)]
    if len(plain) != len(node.args):
        generator = next(a for a in node.args if not isinstance(a, ast.Arg))
        ctx.report(
            "MLO0404",
            generator.span,
            scope,
            expected="an argument",
            found="a generator",
            label="`mean(... for a in level)` and `sum(...)` take one",
        )
        return None
    positional = [a for a in plain if a.name is None]
    if len(positional) > len(names):
        extra = positional[len(names)]
        _count(ctx, name, names, required, len(plain), extra.span, scope, signature, "one too many")
        return None
    given.update(zip(names, positional, strict=False))
    for arg in plain:
        if arg.name is None:
            continue
        key = arg.name.text
        if key not in names:
            ctx.report(
                "MLO0210",
                arg.name.span,
                scope,
                function=name,
                name=key,
                label="no such argument",
                suggestions=[
                    Suggestion(f"did you mean `{n}`?", (Edit(arg.name.span, n),), "maybe-incorrect")
                    for n in closest(key, tuple(names))
                ],
                notes=[f"it is `{signature}`"],
            )
            return None
        if key in given:
            ctx.report("MLO0614", arg.name.span, scope, path=key, problem="is given twice")
            return None
        given[key] = arg
    missing = [n for n in names if n in required and n not in given]
    if missing:
        _count(
            ctx,
            name,
            names,
            required,
            len(plain),
            node.span,
            scope,
            signature,
            f"`{missing[0]}` is missing",
        )
        return None
    return given


def _count(
    ctx: Context,
    name: str,
    names: list[str],
    required: set[str],
    given: int,
    span: Span,
    scope: Scope,
    signature: str,
    label: str,
) -> None:
    low, high = len(required), len(names)
    expected = (
        f"{low} argument{'s' if low != 1 else ''}" if low == high else f"{low} to {high} arguments"
    )
    ctx.report(
        "MLO0209",
        span,
        scope,
        name=name,
        expected=expected,
        given=given,
        label=label,
        notes=[f"it is `{signature}`"],
    )


def declared(
    ctx: Context, declared: ast.Def | ast.ExternFn, node: ast.Call, scope: Scope, unit: Unit
) -> Meaning:
    name = declared.name.text
    names = [f.name.text for f in declared.formals]
    signature = f"{name}({', '.join(names)})"
    given = arguments(ctx, name, names, set(names), node, scope, signature)
    if given is None:
        calls.visit(ctx, node, scope)
        return BAD
    if isinstance(declared, ast.ExternFn):
        return externs.extern(ctx, declared, given, node, scope, unit)
    return calls.inline(ctx, declared, given, node, scope, unit)
