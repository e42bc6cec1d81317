"""Calls of functions of the language: their operands, attributes and generators."""

from __future__ import annotations

from typing import Any

from bettyc.diagnostics.model import Edit, Suggestion
from bettyc.diagnostics.suggest import closest
from bettyc.elaborate import arguments, calls, constants, formula, networks
from bettyc.elaborate.constants import NotConstant
from bettyc.elaborate.context import Context
from bettyc.elaborate.scope import Scope
from bettyc.elaborate.values import BAD, Bad, Meaning, Net, Replica, Tens, describe
from bettyc.grammar import ast
from bettyc.ops import FUNCTIONS, Op
from bettyc.types import Tensor


def builtin(ctx: Context, name: str, node: ast.Call, scope: Scope) -> Meaning:
    if len(node.args) == 1 and isinstance(node.args[0], ast.Generator):
        return _generator(ctx, name, node.args[0], node, scope)
    if name == "detach":
        return _detach(ctx, node, scope)
    if name in ("params", "ema"):
        found = _of_network(ctx, name, node, scope)
        if found is not None:
            return found
    return _function(ctx, FUNCTIONS[name], node, scope)


def _detach(ctx: Context, node: ast.Call, scope: Scope) -> Meaning:
    given = arguments.arguments(ctx, "detach", ["x"], {"x"}, node, scope, "detach(x)")
    if given is None:
        return BAD
    ctx.detached += 1
    found = formula.meaning(ctx, given["x"].value, scope)
    ctx.detached -= 1
    if isinstance(found, Net):
        return Net(found.level, found.name, True, found.ema)
    operand = formula.as_tensor(ctx, found, given["x"].span, scope)
    return formula.apply(ctx, "detach", [operand], [given["x"].value], node.span, scope)


def _of_network(ctx: Context, name: str, node: ast.Call, scope: Scope) -> Meaning | None:
    """`params(net, except = ...)` and `ema(net, decay = ...)`; None when the argument is a tensor
    (ema).
    """
    option = "except" if name == "params" else "decay"
    given = arguments.arguments(
        ctx,
        name,
        ["net" if name == "params" else "x", option],
        {"net"} if name == "params" else {"x", "decay"},
        node,
        scope,
        FUNCTIONS[name].signature,
    )
    if given is None:
        return BAD
    first = given["net" if name == "params" else "x"]
    found = formula.meaning(ctx, first.value, scope)
    constant = None
    if option in given:
        try:
            constant = constants.value(ctx, given[option].value, scope)
        except NotConstant:
            return BAD
    if isinstance(found, Bad):
        return BAD
    if name == "ema":
        if not isinstance(constant, int | float) or not 0 <= constant < 1:
            ctx.report(
                "MLO0603",
                given[option].span,
                scope,
                setting="decay",
                value=constant,
                expected="in [0, 1)",
            )
            return BAD
        if isinstance(found, Net):
            return Net(found.level, found.name, found.detached, float(constant))
        operand = formula.as_tensor(ctx, found, first.span, scope)
        return formula.apply(
            ctx, "ema", [operand], [first.value], node.span, scope, decay=float(constant)
        )
    if not isinstance(found, Net):
        ctx.report("MLO0404", first.span, scope, expected="a network", found=describe(found))
        return BAD
    if constant is not None and not isinstance(constant, str):
        ctx.report("MLO0404", given[option].span, scope, expected="a string", found="another value")
        return BAD
    return networks.parameters(ctx, found, constant)


def _generator(
    ctx: Context, name: str, generator: ast.Generator, node: ast.Call, scope: Scope
) -> Meaning:
    iterable = generator.iterable
    if name not in ("mean", "sum") or not isinstance(iterable, ast.Name):
        ctx.report(
            "MLO0404",
            generator.span,
            scope,
            expected="`mean` or `sum` over a `foreach` level",
            found=f"`{name}`",
        )
        return BAD
    decl = scope.unit.levels.get(iterable.id)
    if decl is None or decl.node.task is None:
        ctx.report(
            "MLO0201",
            iterable.span,
            scope,
            name=iterable.id,
            label="not a `foreach` level",
            suggestions=[
                Suggestion(f"did you mean `{n}`?", (Edit(iterable.span, n),), "maybe-incorrect")
                for n in closest(
                    iterable.id, [k for k, d in scope.unit.levels.items() if d.node.task]
                )
            ],
        )
        return BAD
    inner = scope.with_local(**{generator.variable.text: Replica(iterable.id)})
    body = formula.tensor(ctx, generator.element, inner)
    if body is None or not isinstance(ctx.graph[body].type, Tensor):
        return BAD
    return Tens(
        ctx.graph.make("replicas", (body,), ctx.graph[body].type, level=iterable.id, reduce=name)
    )


def _function(ctx: Context, row: Op, node: ast.Call, scope: Scope) -> Meaning:
    variadic = next((p for p in row.parameters if p.variadic), None)
    if variadic is not None:
        return _variadic(ctx, row, variadic.name, node, scope)
    names = [p.name for p in row.parameters]
    required = {p.name for p in row.parameters if p.required}
    given = arguments.arguments(ctx, row.name, names, required, node, scope, row.signature)
    if given is None:
        calls.visit(ctx, node, scope)
        return BAD
    operands: list[int | None] = []
    nodes: list[ast.Expr] = []
    attrs: dict[str, Any] = {}
    for parameter in row.parameters:
        arg = given.get(parameter.name)
        if arg is None:
            continue
        if parameter.operand:
            operands.append(formula.tensor(ctx, arg.value, scope))
            nodes.append(arg.value)
            continue
        try:
            attrs[parameter.name] = _attribute(ctx, parameter.name, arg.value, scope)
        except NotConstant:
            return BAD
    if row.name == "dropout":
        attrs["site"] = node.span.start  # two calls drop different entries
    return formula.apply(ctx, row.name, operands, nodes, node.span, scope, **attrs)


def _variadic(ctx: Context, row: Op, name: str, node: ast.Call, scope: Scope) -> Meaning:
    """Functions with any number of operands (`concat(a, b, axis = 1)`) or sizes (`zeros(n, d)`)."""
    constant = next(p for p in row.parameters if p.variadic)
    operands: list[int | None] = []
    nodes: list[ast.Expr] = []
    attrs: dict[str, Any] = {}
    sizes: list[Any] = []
    leading = [p for p in row.parameters if p.operand and not p.variadic]
    known = {p.name for p in row.parameters if not p.variadic and not p.operand}
    for arg in node.args:
        if not isinstance(arg, ast.Arg):
            ctx.report("MLO0404", arg.span, scope, expected="an argument", found="a generator")
            return BAD
        try:
            if arg.name is not None:
                if arg.name.text not in known:
                    ctx.report(
                        "MLO0210",
                        arg.name.span,
                        scope,
                        function=row.name,
                        name=arg.name.text,
                        notes=[f"it is `{row.signature}`"],
                    )
                    return BAD
                attrs[arg.name.text] = _attribute(ctx, arg.name.text, arg.value, scope)
            elif constant.operand or len(operands) < len(leading):
                operands.append(formula.tensor(ctx, arg.value, scope))
                nodes.append(arg.value)
            else:
                sizes.append(constants.dim(ctx, arg.value, scope))
        except NotConstant:
            return BAD
    if (constant.operand and not operands) or len(operands) < len(leading):
        ctx.report(
            "MLO0209",
            node.span,
            scope,
            name=row.name,
            expected="at least 1 argument",
            given=0,
            notes=[f"it is `{row.signature}`"],
        )
        return BAD
    if not constant.operand:
        attrs[name] = tuple(s.value if s.value is not None else s for s in sizes)
    return formula.apply(ctx, row.name, operands, nodes, node.span, scope, **attrs)


def _attribute(ctx: Context, name: str, node: ast.Expr, scope: Scope) -> Any:
    """A compile-time argument: a number, a list of whole ones, or a dim that is not bound yet."""
    names = [n.id for n in ast.walk(node) if isinstance(n, ast.Name)]
    sized = any(isinstance(scope.unit.names.get(n), ast.DimDecl) for n in names)
    if name == "size" or (sized and name != "axis"):
        found = constants.dim(ctx, node, scope)
        return found.value if found.value is not None else found.terms
    value = constants.value(ctx, node, scope)
    whole = isinstance(value, int) and not isinstance(value, bool)
    several = isinstance(value, tuple) and all(
        isinstance(v, int) and not isinstance(v, bool) for v in value
    )
    if whole or several or (name != "axis" and isinstance(value, float)):
        return value
    expected = "a whole number, or a list of them" if name == "axis" else "a number"
    ctx.report("MLO0404", node.span, scope, expected=expected, found="another value")
    raise NotConstant
