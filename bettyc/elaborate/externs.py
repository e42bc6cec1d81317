"""Calls of functions and networks from Python."""

from __future__ import annotations

from collections.abc import Mapping

from bettyc.elaborate import formula, networks
from bettyc.elaborate.context import Context
from bettyc.elaborate.declared import type_of
from bettyc.elaborate.scope import Scope, Unit
from bettyc.elaborate.values import BAD, Meaning, Net, Signature, Tens, unify
from bettyc.grammar import ast
from bettyc.types import Dim, Poison, bind, symbol


def signature_of(
    ctx: Context, declared: ast.ExternFn | ast.ExternModule, unit: Unit, values: Mapping[str, Dim]
) -> Signature:
    """The types an extern declares; formals with values (`classes = 10`) are dims in them."""
    generic: set[str] = set()
    scope = Scope(unit)
    formals = tuple(
        (f.name.text, type_of(ctx, f.type, scope, generic, dict(values)) if f.type else None)
        for f in declared.formals
    )
    if isinstance(declared, ast.ExternFn):
        output = type_of(ctx, declared.returns, scope, generic, dict(values))
        return Signature(
            formals, tuple(t for _, t in formals if t is not None), output, frozenset(generic)
        )
    rows = _batch_axis(declared)
    free = {**values, **{name: symbol(name) for name in rows}}
    inputs = tuple(type_of(ctx, t, scope, generic, free) for t in declared.inputs)
    output = type_of(ctx, declared.output, scope, generic, free)
    return Signature(formals, inputs, output, frozenset(generic | rows))


def _batch_axis(declared: ast.ExternModule) -> set[str]:
    """The leading dim that input and output share: a network maps rows, so their number is free at
    each call, also when its name is declared (a batch of B, a test set of any size).
    """
    leading = [
        t.dims[0] if isinstance(t, ast.ScalarType) and t.dims else None
        for t in (declared.inputs[0], declared.output)
    ]
    names = {d.id if isinstance(d, ast.Name) else None for d in leading}
    name = names.pop()
    return set() if names or name is None else {name}


def extern(
    ctx: Context,
    declared: ast.ExternFn,
    given: dict[str, ast.Arg],
    node: ast.Call,
    scope: Scope,
    unit: Unit,
) -> Meaning:
    name = declared.name.text
    signature = signature_of(ctx, declared, unit, {})
    bound: dict[str, Dim] = {}
    operands: list[int] = []
    fine = True
    for (formal, type_), arg in zip(
        signature.formals, (given[n] for n, _ in signature.formals), strict=True
    ):
        found = formula.meaning(ctx, arg.value, scope)
        if isinstance(found, Net):
            if ctx.networks[found.level, found.name].extern is None:
                ctx.report(
                    "MLO0404",
                    arg.span,
                    scope,
                    expected="a network from Python (`extern module`)",
                    found=f"the built-in network `{found.name}`",
                )
                fine = False
                continue
            operands.append(networks.leaf(ctx, found))
            continue
        operand = formula.as_tensor(ctx, found, arg.span, scope)
        if operand is None:
            fine = False
            continue
        given_type = ctx.graph[operand].type
        if type_ is not None and not unify(type_, given_type, bound, signature.generic):
            ctx.report(
                "MLO0404",
                arg.span,
                scope,
                expected=f"`{bind(type_, bound)}`",
                found=f"`{given_type}`",
                label=f"argument `{formal}` of `{name}`",
            )
            fine = False
        operands.append(operand)
    if not fine or isinstance(signature.output, Poison):
        return BAD
    nondiff = tuple(
        k
        for k, f in enumerate(declared.formals)
        if f.name.text in {n.text for n in declared.nondiff}
    )
    return Tens(
        ctx.graph.make(
            "extern_fn",
            operands,
            bind(signature.output, bound),
            name=unit.prefix + name,
            nondiff=nondiff or None,
        )
    )


def network(ctx: Context, net: Net, node: ast.Call, scope: Scope) -> Meaning:
    arguments: list[ast.Expr] = []
    for arg in node.args:
        if not isinstance(arg, ast.Arg) or arg.name is not None:
            ctx.report(
                "MLO0210",
                arg.span,
                scope,
                function=net.name,
                name=arg.name.text if isinstance(arg, ast.Arg) and arg.name else "...",
                label="networks take their inputs by position",
            )
            return BAD
        arguments.append(arg.value)
    operands = [formula.tensor(ctx, a, scope) for a in arguments]
    if any(o is None for o in operands):
        return BAD
    inputs = [o for o in operands if o is not None]
    if any(isinstance(ctx.graph[o].type, Poison) for o in inputs):
        return BAD
    return networks.apply(ctx, net, inputs, arguments, node, scope)
