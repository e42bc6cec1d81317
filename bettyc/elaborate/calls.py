"""Calls: functions of the language, `def`s, functions from Python, networks, and generators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bettyc.diagnostics.model import Edit, Label, Suggestion
from bettyc.diagnostics.span import Span
from bettyc.diagnostics.suggest import closest
from bettyc.elaborate import constants, formula, hints, networks
from bettyc.elaborate.constants import NotConstant
from bettyc.elaborate.context import Context
from bettyc.elaborate.declared import type_of
from bettyc.elaborate.scope import Scope, Unit
from bettyc.elaborate.values import (
    BAD,
    Bad,
    Cell,
    Literal,
    Meaning,
    Namespace,
    Net,
    Replica,
    Signature,
    Tens,
    describe,
    unify,
)
from bettyc.expr import Graph
from bettyc.grammar import ast
from bettyc.ops import FUNCTIONS, OPS, Op, ShapeError
from bettyc.ops import build as build_op
from bettyc.types import Dim, Module, Poison, Tensor, bind, symbol

SYMBOLS = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "pow": "^",
    "matmul": "@",
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "neg": "-",
    "where": "if",
    "index": "[]",
}
DEEPEST = 100  # nested `def` calls


def build(graph: Graph, op: str, operands: Sequence[int], attrs: Mapping[str, Any]) -> int:
    """A function of the language or an operator."""
    return (
        build_op(graph, op, operands, attrs)
        if op in FUNCTIONS
        else graph.add(op, *operands, **attrs)
    )


def misfit(
    ctx: Context,
    error: ShapeError,
    op: str,
    operands: list[int],
    nodes: list[ast.Expr],
    span: Span,
    scope: Scope,
) -> None:
    """Operands that do not fit, with each labelled by its type."""
    f = dict(error.fields)
    name = SYMBOLS.get(str(f.get("op", op)), str(f.get("op", op)))
    labels = [
        Label(nodes[k].span, f"`{ctx.graph[operands[k]].type}`")
        for k in dict.fromkeys(error.operands)
        if k < len(nodes)
    ]
    primary = labels[0].span if len(labels) == 1 else span
    text = labels[0].text if len(labels) == 1 else ""
    secondary = labels[1:] if len(labels) == 1 else labels
    fields: dict[str, Any] = {}
    if error.code == "MLO0401":
        left, right = f.get("left"), f.get("right")
        fields = {
            "operator": name,
            "left": left,
            "right": right,
            "left_dim": f.get("dim_left", left),
            "right_dim": f.get("dim_right", right),
        }
    elif error.code in ("MLO0402", "MLO0414"):
        fields = {"left": f["left"], "right": f["right"]}
    elif error.code == "MLO0404":
        fields = {"expected": f"`{f['expected']}`", "found": f"`{f['found']}`"}
    elif error.code == "MLO0405":
        fields = {"labels": f["labels"], "classes": f["classes"]}
    elif error.code == "MLO0406":
        fields = {"index": f["index"], "size": f["size"]}
    elif error.code == "MLO0407":
        fields = {"type": f["found"], "given": f["indices"]}
    elif error.code == "MLO0408":
        fields = {"name": f["found"]}
    elif error.code == "MLO0417":
        fields = {"axis": f["axis"], "type": f["found"]}
    else:
        fields = {"function": name, "expected": f.get("expected"), "found": f.get("found")}
    notes = [error.hint] if error.hint else []
    if "result" in f:
        notes.append(f"NumPy would silently give `{f['result']}`")
    suggestions = _new_axis(nodes, error, operands, ctx) if error.code == "MLO0402" else []
    suggestions += hints.other_way_round(ctx.graph, op, operands, nodes)
    suggestions += hints.one_logit(ctx.graph, op, operands, span)
    ctx.report(
        error.code,
        primary,
        scope,
        label=text,
        secondary=secondary,
        notes=notes,
        suggestions=suggestions,
        **fields,
    )


def _new_axis(
    nodes: list[ast.Expr], error: ShapeError, operands: list[int], ctx: Context
) -> list[Suggestion]:
    """`a[:, new]` for the operand with fewer axes."""
    types = [ctx.graph[o].type for o in operands[:2]]
    if not all(isinstance(t, Tensor) for t in types):
        return []
    ranks = [len(t.shape) for t in types if isinstance(t, Tensor)]
    if sorted(ranks) != [1, 2]:
        return []
    short = nodes[ranks.index(1)].span
    at = Span(short.file, short.end, short.end)
    return [Suggestion("give it a second axis", (Edit(at, "[:, new]"),), "maybe-incorrect")]


def same_structure(ctx: Context, left: int, right: int, node: ast.Binary, scope: Scope) -> bool:
    """`params(a) - params(b)` of networks that differ is MLO0409."""
    a, b = ctx.graph[left], ctx.graph[right]
    if a.op != "params" or b.op != "params" or _structure(ctx, left) == _structure(ctx, right):
        return True
    first = next(
        (
            (x, y)
            for x, y in zip(_structure(ctx, left), _structure(ctx, right), strict=False)
            if x != y
        ),
        None,
    )
    notes = [f"first difference: {first[0]} and {first[1]}"] if first else []
    ctx.report(
        "MLO0409",
        node.span,
        scope,
        left=a.type,
        right=b.type,
        notes=notes,
        secondary=[Label(node.left.span, f"`{a.type}`"), Label(node.right.span, f"`{b.type}`")],
        suggestions=[
            Suggestion(
                'leave out what differs: `params(net, except = "...")`', (), "has-placeholders"
            )
        ],
    )
    return False


def _structure(ctx: Context, index: int) -> list[str]:
    node = ctx.graph[index]
    parts = [str(node.attr("except"))] if node.attr("except") else []
    for a in node.args:
        leaf = ctx.graph[a]
        while leaf.op in ("detach", "ema"):
            leaf = ctx.graph[leaf.args[0]]
        name = str(leaf.attr("name")).partition(".")[2]
        if leaf.op == "module":
            network = ctx.networks[leaf.attr("level"), leaf.attr("name")]
            parts.append(f"{network.extern} with {network.arguments}")
        else:
            parts.append(f"`{name}: {leaf.type}`")
    return parts


def same_rows(ctx: Context, base: int, index: int, axis: int, span: Span, scope: Scope) -> None:
    """MLO0509: a per-sample variable indexed by the rows of other data."""
    table, rows = ctx.graph[base], ctx.graph[index]
    if rows.op != "batch" or rows.attr("field") != "index" or table.op != "var":
        return
    if not isinstance(table.type, Tensor) or axis >= len(table.type.shape):
        return
    size = table.type.shape[axis]
    of = ctx.draws[rows.attr("draw")].of
    if ctx.rows.get(of) == size:
        return
    owner = next((name for name, dim in ctx.rows.items() if dim == size), None)
    if owner is None:
        return
    ctx.report(
        "MLO0509",
        span,
        scope,
        variable=f"{table.attr('level')}.{table.attr('name')}",
        data=owner,
        other=of,
        label=f"row numbers of `{of}`",
        notes=["index and variable must come from the same data set"],
    )


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
                return _declared(ctx, declared, node, scope, scope.unit)
            if name in FUNCTIONS:
                return _builtin(ctx, name, node, scope)
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
                return _declared(ctx, declared, node, scope, base.unit)
            return _unknown_function(
                ctx, function.name.text, node, function.name.span, scope, base.unit
            )
    found = formula.meaning(ctx, function, scope)
    if isinstance(found, Net):
        return _network(ctx, found, node, scope)
    if not isinstance(found, Bad):
        ctx.report(
            "MLO0404",
            function.span,
            scope,
            expected="a function or a network",
            found=describe(found),
        )
    _visit(ctx, node, scope)
    return BAD


def _visit(ctx: Context, node: ast.Call, scope: Scope) -> None:
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
    _visit(ctx, node, scope)
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


def _declared(
    ctx: Context, declared: ast.Def | ast.ExternFn, node: ast.Call, scope: Scope, unit: Unit
) -> Meaning:
    name = declared.name.text
    names = [f.name.text for f in declared.formals]
    signature = f"{name}({', '.join(names)})"
    given = arguments(ctx, name, names, set(names), node, scope, signature)
    if given is None:
        _visit(ctx, node, scope)
        return BAD
    if isinstance(declared, ast.ExternFn):
        return _extern(ctx, declared, given, node, scope, unit)
    return _inline(ctx, declared, given, node, scope, unit)


def _inline(
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


def _extern(
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


def _network(ctx: Context, net: Net, node: ast.Call, scope: Scope) -> Meaning:
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


def _builtin(ctx: Context, name: str, node: ast.Call, scope: Scope) -> Meaning:
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
    given = arguments(ctx, "detach", ["x"], {"x"}, node, scope, "detach(x)")
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
    given = arguments(
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
    given = arguments(ctx, row.name, names, required, node, scope, row.signature)
    if given is None:
        _visit(ctx, node, scope)
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


__all__ = [
    "OPS",
    "Literal",
    "Module",
    "build",
    "call",
    "misfit",
    "same_rows",
    "same_structure",
    "signature_of",
    "symbol",
]
