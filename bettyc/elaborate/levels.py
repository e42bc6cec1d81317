"""Levels: variables, networks, lets, objective and settings, to `model.Level`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bettyc.diagnostics.model import Edit, Label, Suggestion
from bettyc.diagnostics.span import Span
from bettyc.diagnostics.suggest import closest
from bettyc.elaborate import constants, data, formula, networks
from bettyc.elaborate.constants import NotConstant
from bettyc.elaborate.context import Context
from bettyc.elaborate.declared import type_of
from bettyc.elaborate.scope import LevelDecl, Scope
from bettyc.elaborate.values import Pending
from bettyc.expr import LEAVES
from bettyc.grammar import ast
from bettyc.model import Call, Formula, Level, Read, Ref, Setting, Value, Variable
from bettyc.ops import INITIAL
from bettyc.patterns import unmatched
from bettyc.setting_values import Checker
from bettyc.settings import BLOCKS, Kind
from bettyc.types import POISON, Poison, Tensor

# strategies that differentiate the updates themselves, so that the starting point has a gradient
FOLLOWS_UPDATES = ("unroll", "forward", "score")
# arguments of strategies that are formulas whatever they mention
FORMULAS = {("score", "log_prob")}
DOMAINS = {"positive": 0, "unit": 0, "interval": 2, "simplex": 0, "ball": 2, "box": 2}


def declare(ctx: Context, level: LevelDecl, scope: Scope) -> None:
    """Everything of a level that others may mention: variables, networks, draws, lets."""
    inner = Scope(scope.unit, level)
    data.declare_task(ctx, level, scope)
    for name, member in level.members.items():
        if isinstance(member, ast.Var):
            _variable(ctx, level, member, inner)
        elif isinstance(member, ast.Module):
            networks.declare(ctx, level, member, inner)
        elif isinstance(member, ast.Draw):
            data.declare_draw(ctx, member, scope, level)
        elif isinstance(member, ast.Let):
            ctx.lets[level.name, name] = Pending(member, level)


def _variable(ctx: Context, level: LevelDecl, node: ast.Var, scope: Scope) -> None:
    type_ = type_of(ctx, node.type, scope)
    if type_ == POISON:
        return
    if not isinstance(type_, Tensor) or type_.kind != "real":
        ctx.report(
            "MLO0404",
            node.type.span,
            scope,
            expected="`real`",
            found=f"`{type_}`",
            label="only real variables can be optimized",
        )
        return
    try:
        domain = _domain(ctx, node, scope)
        initial = _initial(ctx, node, type_, domain, scope)
    except NotConstant:
        return
    name = node.name.text
    ctx.own(level.name, Variable(name, type_, initial, domain, node.name.span))


def _domain(ctx: Context, node: ast.Var, scope: Scope) -> Call | None:
    if node.domain is None:
        return None
    name = node.domain.name.text
    if name not in DOMAINS:
        span = node.domain.name.span
        ctx.report(
            "MLO0602",
            span,
            scope,
            kind="domain",
            name=name,
            label="not a domain",
            suggestions=[
                Suggestion(f"did you mean `{n}`?", (Edit(span, n),), "maybe-incorrect")
                for n in closest(name, DOMAINS)
            ],
            notes=["known: " + ", ".join(DOMAINS)],
        )
        raise NotConstant
    if name in ("interval", "box"):
        return Call(name, constants.bounds_of(ctx, node.domain, scope))
    return Call(name, tuple(constants.domain_numbers(ctx, node.domain, DOMAINS[name], scope)))


def _initial(
    ctx: Context, node: ast.Var, type_: Tensor, domain: Call | None, scope: Scope
) -> Value:
    name = node.name.text
    if node.value is None:
        return Call("zeros") if domain is None else _middle(domain)
    if (
        isinstance(node.value, ast.Name)
        and node.value.id not in INITIAL
        and node.value.id not in scope.unit.names
    ):
        _unknown_initial(ctx, node.value.id, node.value.span, scope)
    if (
        isinstance(node.value, ast.Call)
        and isinstance(node.value.function, ast.Name)
        and node.value.function.id not in INITIAL
        and node.value.function.id not in constants.FUNCTIONS
    ):
        _unknown_initial(ctx, node.value.function.id, node.value.function.span, scope)
    value = constants.value(ctx, node.value, Scope(scope.unit, where="setting"))
    if isinstance(value, Call):
        value = _initial_call(ctx, value, node.value, scope)
    shape = _shape_of(value)
    if shape is not None and shape != () and not _fits(shape, type_):
        found = f"real[{', '.join(map(str, shape))}]"
        ctx.report(
            "MLO0412",
            node.value.span,
            scope,
            name=name,
            found=found,
            declared=type_,
            secondary=[Label(node.type.span, f"declared `{type_}`")],
        )
        raise NotConstant
    if (
        isinstance(value, Call)
        and value.name == "eye"
        and (len(type_.shape) != 2 or type_.shape[0] != type_.shape[1])
    ):
        ctx.report(
            "MLO0412", node.value.span, scope, name=name, found="a square matrix", declared=type_
        )
        raise NotConstant
    _inside(ctx, node, value, domain, scope)
    return value


def _unknown_initial(ctx: Context, name: str, span: Span, scope: Scope) -> None:
    ctx.report(
        "MLO0208",
        span,
        scope,
        name=name,
        label="not an initial value",
        suggestions=[
            Suggestion(f"did you mean `{n}`?", (Edit(span, n),), "maybe-incorrect")
            for n in closest(name, INITIAL)
        ],
        notes=["known: " + ", ".join(INITIAL)],
    )
    raise NotConstant


def _initial_call(ctx: Context, call: Call, node: ast.Expr, scope: Scope) -> Call:
    row = INITIAL.get(call.name)
    if row is None:
        known = "a number or an initial value"
        ctx.report("MLO0404", node.span, scope, expected=known, found="something else")
        raise NotConstant
    names = [p.name for p in row.parameters]
    given = dict(zip(names, call.positional, strict=False))
    spans = constants.spans(node)
    for key, v in call.named:
        if key not in names:
            at = spans.get(key, node.span)
            ctx.report(
                "MLO0210",
                at,
                scope,
                function=call.name,
                name=key,
                notes=[f"arguments: {', '.join(names) or 'none'}"],
            )
            raise NotConstant
        given[key] = v
    missing = [p.name for p in row.parameters if p.required and p.name not in given]
    if missing or len(call.positional) > len(names):
        expected = f"{sum(p.required for p in row.parameters)} to {len(names)} arguments"
        ctx.report(
            "MLO0209",
            node.span,
            scope,
            name=call.name,
            expected=expected,
            given=len(call.positional) + len(call.named),
        )
        raise NotConstant
    full = [given.get(p.name, p.default) for p in row.parameters]
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in full):
        ctx.report("MLO0404", node.span, scope, expected="numbers", found="other values")
        raise NotConstant
    return Call(call.name, tuple(float(v) for v in full if isinstance(v, int | float)))


def _middle(domain: Call) -> Value:
    """Where a variable starts when its program does not say: inside its domain."""
    if domain.name in ("positive",):
        return 1.0
    if domain.name == "unit":
        return 0.5
    if domain.name in ("interval", "box"):
        return sum(numbers(domain)) / 2
    return Call("zeros") if domain.name == "ball" else None  # a simplex: equal entries


def _shape_of(value: Value) -> tuple[int, ...] | None:
    """The shape of a nested list of numbers, () of a number, None of a call."""
    if isinstance(value, tuple):
        inner = {_shape_of(v) for v in value}
        if len(inner) != 1:
            return (-1,)
        rest = inner.pop()
        return (len(value), *rest) if rest is not None else (-1,)
    return () if isinstance(value, int | float) else None


def _fits(shape: tuple[int, ...], type_: Tensor) -> bool:
    return len(shape) == len(type_.shape) and all(
        d.value is None or d.value == s for d, s in zip(type_.shape, shape, strict=True)
    )


def numbers(domain: Call) -> tuple[float, ...]:
    """The arguments of a checked domain."""
    return tuple(v for v in domain.positional if isinstance(v, float))


def _inside(ctx: Context, node: ast.Var, value: Value, domain: Call | None, scope: Scope) -> None:
    """MLO0413 for numbers outside the domain."""
    if domain is None or node.value is None:
        return
    if isinstance(value, Call):
        known = {
            "zeros": 0.0,
            "ones": 1.0,
            "fill": value.positional[0] if value.positional else None,
        }
        number = known.get(value.name)
    else:
        number = value if isinstance(value, int | float) else None
    if not isinstance(number, int | float):
        return
    low, high = numbers(domain) if domain.name in ("interval", "box") else (0.0, 1.0)
    good = {
        "positive": number > 0,
        "unit": 0 < number < 1,
        "interval": low < number < high,
        "box": low <= number <= high,
        "simplex": number > 0,
        "ball": True,
    }[domain.name]
    if not good:
        from bettyc.settings import show

        shown = show(domain)
        suggestions = []
        if domain.name == "positive" and number < 0:
            at = _written_number(node.value)
            cure = "the domain is on the variable, not on its logarithm: say what it is itself"
            suggestions = [Suggestion(cure, (Edit(at, f"exp({number:g})"),), "maybe-incorrect")]
        ctx.report(
            "MLO0413",
            node.value.span,
            scope,
            value=f"`{number:g}`",
            name=node.name.text,
            domain=shown,
            label="outside",
            suggestions=suggestions,
        )
        raise NotConstant


def _written_number(node: ast.Expr) -> Span:
    """The place of the number in `-3` or `fill(-3)`."""
    only = node.args[0] if isinstance(node, ast.Call) and len(node.args) == 1 else None
    return only.value.span if isinstance(only, ast.Arg) else node.span


def build(ctx: Context, level: LevelDecl, scope: Scope, origins: dict[str, Any]) -> Level | None:
    """The level's objective and settings. None when its objective did not come out."""
    inner = Scope(scope.unit, level)
    for name, member in level.members.items():
        if isinstance(member, ast.Let):
            with ctx.recording():
                formula.let(ctx, ctx.lets[level.name, name], member.name.span, inner)
    own_vars = [m for m in level.members.values() if isinstance(m, ast.Var | ast.Module)]
    if not own_vars:
        ctx.report(
            "MLO0306",
            level.node.name.span,
            level=level.name,
            label="nothing to optimize here",
            notes=["declare a `var` or a `module`, or make it a `metric`"],
        )
    settings, setting_reads = _settings(ctx, level, inner, origins)
    if not level.objectives:
        return None
    objective = level.objectives[0]
    with ctx.recording() as reads:
        node = formula.tensor(ctx, objective.value, inner)
    if node is None or not _scalar(ctx, node, objective, inner):
        return None
    reads += setting_reads + _start_reads(ctx, level, settings, reads)
    nets = tuple(
        ctx.networks[level.name, n.name.text]
        for n in level.of(ast.Module)
        if (level.name, n.name.text) in ctx.networks
    )
    variables = tuple(ctx.owned.get(level.name, ()))
    task = ctx.tasks.get(level.name)
    found = Level(
        level.name,
        str(objective.sense),
        node,
        variables,
        nets,
        _draws(ctx, [node]),
        tuple(reads),
        settings,
        task,
        level.node.name.span,
        objective.value.span,
    )
    if all(net.extern is None for net in nets):
        # of a network from Python the names are known when it is built
        ctx.found += unmatched(found, [v.name for v in variables])
    return found


def _start_reads(
    ctx: Context, level: LevelDecl, settings: tuple[Setting, ...], reads: Sequence[Read]
) -> list[Read]:
    """`start = copy(meta.net)` reads `meta.net`; strategies that follow the updates differentiate
    it. `auto` follows them where the objective itself does not read `meta.net`: nothing else tells
    how the response depends on it.
    """
    values = {s.path.rpartition(".")[2]: s for s in settings}
    start, strategy = values.get("start"), values.get("hypergrad")
    if (
        start is None
        or start.span is None
        or not isinstance(start.value, Call)
        or start.value.name != "copy"
    ):
        return []
    source = start.value.positional[0]
    owner, _, name = source.path.partition(".") if isinstance(source, Ref) else ("", "", "")
    if (owner, name) not in {*ctx.variables, *ctx.networks} or owner == level.name:
        return []
    said = strategy.value.name if strategy and isinstance(strategy.value, Call) else "auto"
    read = any((r.level, r.name, r.detached) == (owner, name, False) for r in reads)
    follows = said in FOLLOWS_UPDATES or (said == "auto" and not read)
    return [Read(owner, name, "value", not follows, start.span, copied=True)]


def _draws(ctx: Context, roots: list[int]) -> tuple[str, ...]:
    """The draws that a formula uses, by name."""
    names = {
        ctx.graph[i].attr("draw") for i in ctx.graph.reachable(roots) if ctx.graph[i].op == "batch"
    }
    return tuple(sorted(names))


def _scalar(ctx: Context, node: int, objective: ast.Objective, scope: Scope) -> bool:
    type_ = ctx.graph[node].type
    if isinstance(type_, Poison):
        return False
    if isinstance(type_, Tensor) and not type_.shape and type_.kind == "real":
        return True
    span = objective.value.span
    if isinstance(type_, Tensor) and type_.kind != "real":
        ctx.report(
            "MLO0404",
            span,
            scope,
            expected="`real`",
            found=f"`{type_}`",
            label="an objective is a number",
        )
        return False
    ctx.report(
        "MLO0403",
        span,
        scope,
        type=type_,
        label="an objective is one number",
        suggestions=[_reduced(ctx, objective.value, scope)],
    )
    return False


def _reduced(ctx: Context, node: ast.Expr, scope: Scope) -> Suggestion:
    """Wrap what is no scalar: the whole objective, or those of its summands that are tensors."""
    edits: list[Edit] = []
    words = set()
    for term in _summands(node):
        with ctx.recording():
            index = formula.tensor(ctx, term, scope)
        type_ = ctx.graph[index].type if index is not None else None
        if index is None or not isinstance(type_, Tensor) or not type_.shape:
            continue
        data = any(leaf.op in ("data", "batch", "task") for _, leaf in ctx.graph.leaves(index))
        word = "mean" if data else "sum"
        words.add(word)
        file, start, end = term.span
        edits += [Edit(Span(file, start, start), f"{word}("), Edit(Span(file, end, end), ")")]
    text = " and ".join(f"`{w}(...)`" for w in sorted(words))
    return Suggestion(f"wrap it in {text}", tuple(edits), "maybe-incorrect")


def _summands(node: ast.Expr) -> list[ast.Expr]:
    if isinstance(node, ast.Binary) and node.op in ("+", "-"):
        return [*_summands(node.left), *_summands(node.right)]
    return [node]


def _settings(
    ctx: Context, level: LevelDecl, scope: Scope, origins: dict[str, Any]
) -> tuple[tuple[Setting, ...], list[Any]]:
    reads: list[Any] = []
    found = block(ctx, "level", level.name, level.settings, scope, origins, reads)
    return found, reads


def block(
    ctx: Context,
    kind: str,
    path: str,
    nodes: list[ast.Setting],
    scope: Scope,
    origins: dict[str, Any],
    reads: list[Any],
) -> tuple[Setting, ...]:
    """The settings of a level or of the run block, each checked, defaults filled in."""
    checker = Checker()
    result: dict[str, Setting] = {}
    for node in nodes:
        key = node.name.text
        full = f"{path}.{key}"
        if key not in BLOCKS[kind]:
            checker.unknown(
                kind, f"level `{path}`" if kind == "level" else "the run block", key, node.name.span
            )
            continue
        if key in result:
            ctx.report(
                "MLO0614",
                node.name.span,
                path=full,
                problem="is given twice",
                secondary=[Label(at, "first here")] if (at := result[key].span) else [],
            )
            continue
        try:
            value = _value(ctx, node.value, BLOCKS[kind][key], scope, reads)
        except NotConstant:
            continue
        value = checker.check(kind, full, key, value, node.value.span, constants.spans(node.value))
        result[key] = Setting(full, value, origins.get(full, "file"), node.value.span)
    if all(node.name.text in BLOCKS[kind] for node in nodes):  # else `optimizer` may be misspelt
        _grouped(checker, path, result)
    for d in checker.found:
        ctx.found.append(d)
    for key, row in BLOCKS[kind].items():
        if key not in result and row.default is not None:
            result[key] = Setting(f"{path}.{key}", _defaulted(row), "default", None)
    return tuple(result[k] for k in sorted(result))


def _grouped(checker: Checker, path: str, result: dict[str, Setting]) -> None:
    """Parameter groups take options of the level's optimizer."""
    groups, optimizer = result.get("groups"), result.get("optimizer")
    call = optimizer.value if optimizer is not None else Call("auto")
    if groups is None or groups.span is None or groups.value is None or call is None:
        return
    value = checker.group_options(groups.path, groups.value, call, groups.span)
    result["groups"] = Setting(groups.path, value, groups.origin, groups.span)


def _defaulted(row: Kind) -> Value:
    """A default call with all its arguments named."""
    if not isinstance(row.default, Call) or not row.table:
        return row.default
    from bettyc.settings import table

    fields = table(row.table)[row.default.name]
    return Call(row.default.name, (), tuple((f.name, f.default) for f in fields))


def _value(ctx: Context, node: ast.Expr, kind: Kind, scope: Scope, reads: list[Any]) -> Value:
    """A setting's value. In an optimizer, an argument that mentions a level's variable is a
    formula; so are those of `FORMULAS`.
    """
    if kind.table == "schedule":
        scope.unit.used |= _externs(node, scope)
    if (
        kind.table not in ("optimizer", "strategy")
        or not isinstance(node, ast.Call)
        or not isinstance(node.function, ast.Name)
    ):
        return constants.value(ctx, node, Scope(scope.unit, where="setting"))
    positional: list[Value] = []
    named: list[tuple[str, Value]] = []
    for arg in node.args:
        if not isinstance(arg, ast.Arg):
            return constants.value(ctx, node, scope)
        key = (node.function.id, arg.name.text if arg.name else "")
        if key in FORMULAS or (kind.table == "optimizer" and _mentions_level(arg.value, scope)):
            with ctx.recording() as made:
                index = formula.tensor(ctx, arg.value, scope)
            if index is None:
                raise NotConstant
            type_ = ctx.graph[index].type
            if not isinstance(type_, Tensor) or type_.shape:
                ctx.report(
                    "MLO0404", arg.value.span, scope, expected="a number", found=f"`{type_}`"
                )
                raise NotConstant
            reads += made
            v: Value = Formula(index)
        else:
            v = constants.value(ctx, arg.value, Scope(scope.unit, where="setting"))
        if arg.name is None:
            positional.append(v)
        else:
            named.append((arg.name.text, v))
    return Call(node.function.id, tuple(positional), tuple(named))


def _externs(node: Any, scope: Scope) -> set[str]:
    """The functions from Python that an expression names."""
    if isinstance(node, ast.Name) and isinstance(scope.unit.names.get(node.id), ast.ExternFn):
        return {node.id}
    return {name for child in ast.children(node) for name in _externs(child, scope)}


def _mentions_level(node: Any, scope: Scope) -> bool:
    if isinstance(node, ast.Field | ast.Response) and isinstance(node.base, ast.Name):
        return node.base.id in scope.unit.levels
    return any(_mentions_level(child, scope) for child in ast.children(node))


__all__ = ["LEAVES", "Ref", "block", "build", "declare"]
