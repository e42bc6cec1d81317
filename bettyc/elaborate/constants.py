"""Compile-time values: settings, arguments of sources and networks, params, dims."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from bettyc.diagnostics.model import Edit, Suggestion
from bettyc.diagnostics.suggest import closest
from bettyc.elaborate import hints
from bettyc.elaborate.context import Context
from bettyc.elaborate.scope import Scope
from bettyc.grammar import ast
from bettyc.model import Call, Ref, Setting, Value
from bettyc.ops import INITIAL
from bettyc.types import Dim, number, symbol
from bettyc.types import add as add_dims
from bettyc.types import multiply as multiply_dims


class NotConstant(Exception):
    """The expression was diagnosed, or is not a compile-time value."""


# Whole numbers stay below this many bits: an exponent may be a million.
WIDEST = 1024


def power(a: Any, b: Any) -> Any:
    """`a^b`. Raises OverflowError, also for whole numbers that would be very long."""
    if isinstance(a, int) and isinstance(b, int) and b > 0 and b * a.bit_length() > WIDEST:
        raise OverflowError("the result is too large")
    return a**b


ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "^": power,
}
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
FUNCTIONS: dict[str, Callable[[float], float]] = {
    "exp": math.exp,
    "log": math.log,
    "sqrt": math.sqrt,
    "abs": abs,
    "real": float,
    "int": int,
}


def value(ctx: Context, node: ast.Expr, scope: Scope) -> Value:
    """The compile-time value of an expression. Raises NotConstant after reporting."""
    if isinstance(node, ast.Number):
        return node.value
    if isinstance(node, ast.String | ast.Bool):
        return node.value
    if isinstance(node, ast.List):
        return tuple(value(ctx, item, scope) for item in node.items)
    if isinstance(node, ast.Name):
        return _name(ctx, node, scope)
    if isinstance(node, ast.Unary) and node.op == "-":
        return _apply(ctx, node, scope, lambda a, _: -a, node.operand, node.operand)
    if isinstance(node, ast.Binary) and node.op in ARITHMETIC:
        return _apply(ctx, node, scope, ARITHMETIC[node.op], node.left, node.right)
    if isinstance(node, ast.Compare):
        return _compare(ctx, node, scope)
    if isinstance(node, ast.If):
        chosen = value(ctx, node.condition, scope)
        return value(ctx, node.then if chosen else node.otherwise, scope)
    if isinstance(node, ast.Field):
        return _path(ctx, node, scope)
    if isinstance(node, ast.Call) and isinstance(node.function, ast.Name):
        return _call(ctx, node, node.function.id, scope)
    if isinstance(node, ast.Range):
        return Call("..", (value(ctx, node.low, scope), value(ctx, node.high, scope)))
    ctx.report(
        "MLO0404",
        node.span,
        scope,
        expected="a compile-time value",
        found="an expression",
        label="this is not known before the program runs",
    )
    raise NotConstant


def _name(ctx: Context, node: ast.Name, scope: Scope) -> Value:
    from bettyc.elaborate.values import Literal

    name = node.id
    bound = scope.local.get(name)
    if isinstance(bound, Literal):
        return bound.value
    declared = scope.unit.names.get(name)
    if isinstance(declared, ast.Param):
        scope.unit.used.add(name)
        return param(ctx, declared, scope)
    if isinstance(declared, ast.DimDecl):
        scope.unit.used.add(name)
        dim = dimension(ctx, declared, scope)
        if dim.value is None:
            ctx.report(
                "MLO0411",
                node.span,
                scope,
                name=name,
                label="its size must be known here",
                notes=[f"give it a value (`dim {name} = 10`) or bind it from data"],
            )
            raise NotConstant
        return dim.value
    if declared is not None:
        return Ref(name)
    return Call(name)


def _path(ctx: Context, node: ast.Field, scope: Scope) -> Value:
    parts = [node.name.text]
    base = node.base
    while isinstance(base, ast.Field):
        parts.append(base.name.text)
        base = base.base
    if not isinstance(base, ast.Name):
        ctx.report("MLO0404", node.span, scope, expected="a name", found="an expression")
        raise NotConstant
    unit = scope.unit.imports.get(base.id)
    if unit is not None and len(parts) == 1:
        declared = unit.names.get(parts[0])
        if isinstance(declared, ast.Param):
            return param(ctx, declared, Scope(unit))
    return Ref(".".join([base.id, *reversed(parts)]))


def _apply(
    ctx: Context,
    node: ast.Expr,
    scope: Scope,
    operator: Callable[[Any, Any], Any],
    left: ast.Expr,
    right: ast.Expr,
) -> Value:
    a, b = value(ctx, left, scope), value(ctx, right, scope)
    for operand, at in ((a, left), (b, right)):
        if isinstance(operand, bool) or not isinstance(operand, int | float):
            if isinstance(operand, Call) and operand.name in INITIAL:
                ctx.report(
                    "MLO0404",
                    at.span,
                    scope,
                    expected="a number",
                    found=f"the initial value `{operand.name}`",
                    label="cannot be calculated with",
                    notes=["write `fill(0.1)` for a tensor of one number"],
                )
            elif isinstance(operand, Call) and isinstance(at, ast.Name):
                unknown(ctx, at, scope, scope.unit.names)
            else:
                ctx.report("MLO0404", at.span, scope, expected="a number", found="something else")
            raise NotConstant
    try:
        result: Value = operator(a, b)
    except (ArithmeticError, ValueError) as error:
        ctx.report(
            "MLO0603",
            node.span,
            scope,
            setting="this value",
            value="undefined",
            expected="a finite number",
            label=str(error),
        )
        raise NotConstant from None
    if isinstance(result, complex) or (isinstance(result, float) and not math.isfinite(result)):
        ctx.report(
            "MLO0603",
            node.span,
            scope,
            setting="this value",
            value=str(result),
            expected="a finite number",
        )
        raise NotConstant
    return result


def _compare(ctx: Context, node: ast.Compare, scope: Scope) -> Value:
    a, b = value(ctx, node.left, scope), value(ctx, node.right, scope)
    if isinstance(a, Call):
        return Call(node.op, (a, b))
    try:
        return COMPARE[node.op](a, b)
    except TypeError:
        ctx.report("MLO0404", node.span, scope, expected="two numbers", found="something else")
        raise NotConstant from None


def _call(ctx: Context, node: ast.Call, name: str, scope: Scope) -> Value:
    positional: list[Value] = []
    named: list[tuple[str, Value]] = []
    for arg in node.args:
        if not isinstance(arg, ast.Arg):
            ctx.report(
                "MLO0404", arg.span, scope, expected="a compile-time value", found="a generator"
            )
            raise NotConstant
        v = value(ctx, arg.value, scope)
        if arg.name is None:
            positional.append(v)
        elif arg.name.text in dict(named):
            ctx.report(
                "MLO0614", arg.name.span, scope, path=arg.name.text, problem="is given twice"
            )
            raise NotConstant
        else:
            named.append((arg.name.text, v))
    number = positional[0] if len(positional) == 1 and not named else None
    if name in FUNCTIONS and isinstance(number, int | float):
        only = node.args[0]
        assert isinstance(only, ast.Arg)
        return _apply(ctx, node, scope, lambda a, _: FUNCTIONS[name](a), only.value, only.value)
    return Call(name, tuple(positional), tuple(named))


def spans(node: ast.Expr) -> dict[str, Any]:
    """Where each named argument of a call stands, for diagnostics."""
    if not isinstance(node, ast.Call):
        return {}
    return {a.name.text: a.span for a in node.args if isinstance(a, ast.Arg) and a.name is not None}


def param(ctx: Context, node: ast.Param, scope: Scope) -> Value:
    """A param's value, checked against its type and domain. Raises NotConstant."""
    key = (scope.unit.name, node.name.text)
    if key in ctx.params:
        known = ctx.params[key]
        if known is None:
            raise NotConstant
        return known.value
    ctx.params[key] = None
    if node.default is None:
        ctx.report(
            "MLO0614",
            node.name.span,
            path=node.name.text,
            problem="has no value",
            notes=[f"give it one: `--set {node.name.text}=...`"],
        )
        raise NotConstant
    v = value(ctx, node.default, Scope(scope.unit, where="setting"))
    base = node.type.base.text if isinstance(node.type, ast.ScalarType) else "?"
    fits = {
        "real": isinstance(v, int | float) and not isinstance(v, bool),
        "int": isinstance(v, int) and not isinstance(v, bool),
        "bool": isinstance(v, bool),
        "str": isinstance(v, str),
    }
    if base not in fits:
        unknown_type(ctx, node.type, ("real", "int", "bool", "str"))
        raise NotConstant
    if not fits[base]:
        ctx.report(
            "MLO0404", node.default.span, expected=f"`{base}`", found="another kind of value"
        )
        raise NotConstant
    if base == "real":
        v = float(v)  # type: ignore[arg-type]
    _in_domain(ctx, node, v, scope)
    ctx.params[key] = Setting(node.name.text, v, "file", node.default.span)
    return v


def bounds_of(ctx: Context, domain: ast.Domain, scope: Scope) -> tuple[float, float]:
    """The two numbers of `interval(a, b)` or `box(a, b)`. Raises NotConstant."""
    numbers = domain_numbers(ctx, domain, 2, scope)
    if not numbers[0] < numbers[1]:
        ctx.report(
            "MLO0603",
            domain.span,
            scope,
            setting=domain.name.text,
            value=f"({numbers[0]:g}, {numbers[1]:g})",
            expected="lower bound first",
        )
        raise NotConstant
    return numbers[0], numbers[1]


def domain_numbers(ctx: Context, domain: ast.Domain, count: int, scope: Scope) -> list[float]:
    """The arguments of a domain, `count` numbers; `inf` is one here. Raises NotConstant."""
    inner = Scope(scope.unit, where="setting")
    numbers: list[float] = []
    for arg in domain.args:
        given = arg.value if isinstance(arg, ast.Arg) and arg.name is None else None
        if isinstance(given, ast.Name) and given.id == "inf":
            numbers.append(math.inf)
            continue
        found = value(ctx, given, inner) if given is not None else None
        if isinstance(found, bool) or not isinstance(found, int | float):
            ctx.report("MLO0404", arg.span, scope, expected="a number", found="something else")
            raise NotConstant
        numbers.append(float(found))
    if len(numbers) != count:
        ctx.report(
            "MLO0209",
            domain.span,
            scope,
            name=domain.name.text,
            given=len(numbers),
            expected=f"{count} argument{'s' if count != 1 else ''}",
        )
        raise NotConstant
    return numbers


def _in_domain(ctx: Context, node: ast.Param, v: Value, scope: Scope) -> None:
    if node.domain is None or not isinstance(v, int | float):
        return
    domain = node.domain
    bounds = {"positive": (0.0, math.inf, False), "unit": (0.0, 1.0, True)}
    if domain.name.text in bounds:
        low, high, closed = bounds[domain.name.text]
    elif domain.name.text in ("interval", "box"):
        low, high = bounds_of(ctx, domain, scope)
        closed = True
    else:
        return
    if not (low <= v <= high if closed else low < v < high):
        from bettyc.grammar.printer import expr

        ctx.report(
            "MLO0603",
            node.default.span if node.default else node.span,
            setting=node.name.text,
            value=v,
            expected=f"in `{expr(domain)}`",
            label="outside its domain",
        )
        raise NotConstant


def unknown_type(ctx: Context, node: Any, known: Iterable[str]) -> None:
    name = node.base if isinstance(node, ast.ScalarType) else None
    span = name.span if name is not None else node.span
    text = name.text if name is not None else "record"
    aliases = {
        "float": "real",
        "double": "real",
        "string": "str",
        "boolean": "bool",
        "integer": "int",
    }
    near = [aliases[text]] if text in aliases else closest(text, tuple(known))
    ctx.report(
        "MLO0415",
        span,
        name=text,
        label="no such type",
        suggestions=[
            Suggestion(f"did you mean `{n}`?", (Edit(span, n),), "maybe-incorrect") for n in near
        ],
    )


def unknown(ctx: Context, node: ast.Name, scope: Scope, candidates: Iterable[str]) -> None:
    """MLO0202 with did-you-mean, and the level that has such a variable."""
    suggestions = [
        Suggestion(f"did you mean `{n}`?", (Edit(node.span, n),), "maybe-incorrect")
        for n in closest(node.id, tuple(candidates))
    ]
    for level in scope.unit.levels.values():
        member = level.members.get(node.id)
        if isinstance(member, ast.Var | ast.Module):
            where = f"`{node.id}` is a variable of level `{level.name}`"
            suggestions.append(
                Suggestion(
                    f"{where}: write `{level.name}.{node.id}` or `{level.name}*.{node.id}`",
                    (Edit(node.span, f"{level.name}.{node.id}"),),
                    "maybe-incorrect",
                )
            )
    ctx.report(
        "MLO0202",
        node.span,
        scope,
        name=node.id,
        label="not declared",
        notes=hints.package(node.id),
        suggestions=suggestions,
    )


def dimension(ctx: Context, decl: ast.DimDecl, scope: Scope) -> Dim:
    """A declared dim: its value, its size from outside, or its own name."""
    name = decl.name.text
    if decl.value is not None:
        return dim(ctx, decl.value, Scope(scope.unit, where="setting"), busy=(name,))
    if name in ctx.sizes:
        return number(ctx.sizes[name])
    return symbol(name)


def dim(
    ctx: Context,
    node: ast.Expr,
    scope: Scope,
    generic: set[str] | None = None,
    bound: dict[str, Dim] | None = None,
    busy: tuple[str, ...] = (),
) -> Dim:
    """A dim expression: integers, dims, int params, data sets (their number of rows), `+ - *`.
    Unknown names become generic dims where
    `generic` is given (extern signatures); `bound` are formals with values. Raises NotConstant.
    """
    if isinstance(node, ast.Number) and isinstance(node.value, int):
        return number(node.value)
    if isinstance(node, ast.Name):
        name = node.id
        if bound and name in bound:
            return bound[name]
        declared = scope.unit.names.get(name)
        if name in busy:
            ctx.report(
                "MLO0206", node.span, scope, name=name, label="its own value is needed for it"
            )
            raise NotConstant
        if isinstance(declared, ast.DimDecl):
            scope.unit.used.add(name)
            if declared.value is not None and generic is None:
                return dim(ctx, declared.value, scope, busy=(*busy, name))
            return dimension(ctx, declared, scope)
        if isinstance(declared, ast.Param):
            scope.unit.used.add(name)
            v = param(ctx, declared, scope)
            if isinstance(v, int):
                return number(v)
            ctx.report("MLO0404", node.span, scope, expected="a whole number", found=f"`{v}`")
            raise NotConstant
        if isinstance(declared, ast.Data | ast.Part):
            scope.unit.used.add(name)
            rows = ctx.rows.get(name)
            if rows is not None:
                return rows
            if name in ctx.columns:
                ctx.report(
                    "MLO0404",
                    node.span,
                    scope,
                    expected="data with rows",
                    found=f"`{name}`, which has none",
                )
            raise NotConstant
        if generic is not None:
            generic.add(name)
            return symbol(name)
        unknown(
            ctx, node, scope, [n for n, d in scope.unit.names.items() if isinstance(d, ast.DimDecl)]
        )
        raise NotConstant
    if isinstance(node, ast.Binary) and node.op in ("+", "-", "*"):
        left = dim(ctx, node.left, scope, generic, bound, busy)
        right = dim(ctx, node.right, scope, generic, bound, busy)
        if node.op == "*":
            return multiply_dims(left, right)
        return add_dims(left, right, 1 if node.op == "+" else -1)
    if isinstance(node, ast.Unary) and node.op == "-":
        return add_dims(number(0), dim(ctx, node.operand, scope, generic, bound, busy), -1)
    ctx.report(
        "MLO0404",
        node.span,
        scope,
        expected="a dim",
        found="another expression",
        label="dims are whole numbers, names, sums and products of those",
    )
    raise NotConstant
