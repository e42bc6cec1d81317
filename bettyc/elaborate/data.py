"""Data sets, splits and draws: their types, row counts and sources."""

from __future__ import annotations

from dataclasses import replace

from bettyc.diagnostics.model import Edit, Suggestion
from bettyc.diagnostics.suggest import closest
from bettyc.elaborate import arguments, constants
from bettyc.elaborate.constants import NotConstant
from bettyc.elaborate.context import Context
from bettyc.elaborate.declared import type_of
from bettyc.elaborate.scope import LevelDecl, Scope
from bettyc.grammar import ast
from bettyc.model import Call, DataSet, Draw, Extern, Part, Ref, Split, Value
from bettyc.settings import show
from bettyc.types import POISON, Dim, Record, Tensor, Type, bind, number, symbol, tensors

# The built-in sources with their arguments; `bettyc.runtime.data.readers` says what they mean.
READERS = {
    "npz": ("path", "standardize"),
    "npy": ("path", "standardize"),
    "csv": ("path", "target", "delimiter", "standardize"),
    "parquet": ("path", "target", "standardize"),
    "safetensors": ("path", "standardize"),
    "images": ("path", "size", "channels"),
    "sklearn": ("name", "standardize"),
    "memory": (),
}
SPLIT_OPTIONS = ("seed", "shuffle", "stratify", "corrupt")
DRAW_OPTIONS = ("batch", "shuffle", "drop_last", "replace", "weights", "workers")


def declare_data(ctx: Context, node: ast.Data, scope: Scope) -> None:
    name = node.name.text
    try:
        source, samples, type_ = source_of(ctx, node.source, scope, name, node)
    except NotConstant:
        return
    if node.type is not None:
        type_ = type_of(ctx, node.type, scope)
    if type_ is None:
        ctx.report(
            "MLO0510",
            node.name.span,
            name=name,
            label="its columns are not known",
            notes=["declare them: `data name : { x: real[n, d], y: int<C>[n] } from ...`"],
        )
        return
    if type_ == POISON or not isinstance(type_, Record | Tensor):
        return
    rows = None if _is_tasks(name, scope) else _rows(type_)
    ctx.data[name] = DataSet(name, type_, source, rows, samples, node.name.span)
    ctx.columns[name], ctx.rows[name] = type_, rows


def _is_tasks(name: str, scope: Scope) -> bool:
    """Whether a `foreach` goes over the data set: its items are tasks then, not rows."""
    for level in scope.unit.levels.values():
        over = level.node.tasks
        function = over.function if isinstance(over, ast.Call) else over
        if isinstance(function, ast.Name) and function.id == name:
            return True
    return False


def _rows(type_: Record | Tensor) -> Dim | None:
    """The leading dim that all columns share, those of nested records included, or None."""
    leading = {t.shape[0] if t.shape else None for _, t in tensors(type_)}
    return leading.pop() if len(leading) == 1 else None


def source_of(
    ctx: Context, node: ast.Expr, scope: Scope, owner: str, at: ast.Data | ast.Draw
) -> tuple[Call, tuple[Ref, ...], Type | None]:
    """The source call, the level variables it samples from, and the type if an extern declares
    it.
    """
    if not isinstance(node, ast.Call) or not isinstance(node.function, ast.Name):
        ctx.report(
            "MLO0404",
            node.span,
            scope,
            expected="a data source",
            found="another expression",
            notes=[f"built in: {', '.join(READERS)}; or declare an `extern source`"],
        )
        raise NotConstant
    name = node.function.id
    declared = scope.unit.names.get(name)
    if isinstance(declared, ast.ExternSource):
        scope.unit.used.add(name)
        return _extern_source(ctx, node, declared, scope, owner)
    if name not in READERS:
        known = [
            *READERS,
            *(n for n, d in scope.unit.names.items() if isinstance(d, ast.ExternSource)),
        ]
        ctx.report(
            "MLO0208",
            node.function.span,
            scope,
            name=name,
            label="no such data source",
            suggestions=[
                Suggestion(
                    f"did you mean `{n}`?", (Edit(node.function.span, n),), "maybe-incorrect"
                )
                for n in closest(name, known)
            ],
            notes=[f"built in: {', '.join(READERS)}"],
        )
        raise NotConstant
    given = arguments.arguments(
        ctx,
        name,
        list(READERS[name]),
        set(READERS[name][:1]),
        node,
        scope,
        f"{name}({', '.join(READERS[name])})",
    )
    call = constants.value(ctx, node, Scope(scope.unit, where="setting"))
    if given is None or not isinstance(call, Call):
        raise NotConstant
    return call, (), None


def _extern_source(
    ctx: Context, node: ast.Call, declared: ast.ExternSource, scope: Scope, owner: str
) -> tuple[Call, tuple[Ref, ...], Type]:
    """A source from Python. An argument that is a level's variable or network is a sampling
    edge.
    """
    names = [f.name.text for f in declared.formals]
    signature = f"{declared.name.text}({', '.join(names)})"
    given = arguments.arguments(ctx, declared.name.text, names, set(names), node, scope, signature)
    if given is None:
        raise NotConstant
    samples: list[Ref] = []
    values: list[tuple[str, Value]] = []
    dims: dict[str, Dim] = {}
    for key in names:
        argument = given[key].value
        if (
            isinstance(argument, ast.Field)
            and isinstance(argument.base, ast.Name)
            and argument.base.id in scope.unit.levels
        ):
            ref = Ref(f"{argument.base.id}.{argument.name.text}")
            _owned(ctx, argument, scope)
            samples.append(ref)
            values.append((key, ref))
            continue
        if isinstance(argument, ast.Name) and isinstance(
            scope.unit.names.get(argument.id), ast.DimDecl
        ):
            found = constants.dim(ctx, argument, scope)
            values.append((key, found.value if found.value is not None else str(found)))
            dims[key] = found
            continue
        v = constants.value(ctx, argument, Scope(scope.unit, where="setting"))
        values.append((key, v))
        if isinstance(v, int) and not isinstance(v, bool):
            dims[key] = number(v)
    generic: set[str] = set()
    type_ = type_of(ctx, declared.type, Scope(scope.unit), generic, dims)
    own = {
        n: number(ctx.sizes[f"{owner}.{n}"])
        if f"{owner}.{n}" in ctx.sizes
        else symbol(f"{owner}.{n}")
        for n in generic
    }
    return Call(declared.name.text, (), tuple(values)), tuple(samples), bind(type_, own)


def _owned(ctx: Context, node: ast.Field, scope: Scope) -> None:
    """A level's variable as the argument of a source must exist."""
    assert isinstance(node.base, ast.Name)
    decl = scope.unit.levels[node.base.id]
    member = decl.members.get(node.name.text)
    if not isinstance(member, ast.Var | ast.Module):
        ctx.report(
            "MLO0203",
            node.name.span,
            scope,
            level=decl.name,
            name=node.name.text,
            label="no such variable",
            suggestions=[
                Suggestion(f"did you mean `{n}`?", (Edit(node.name.span, n),), "maybe-incorrect")
                for n in closest(node.name.text, list(decl.members))
            ],
        )
        raise NotConstant


def declare_split(ctx: Context, node: ast.Split, scope: Scope) -> None:
    of = node.of.text
    scope.unit.used.add(of)
    source = ctx.columns.get(of)
    if source is None:
        if not isinstance(scope.unit.names.get(of), ast.Data):
            _unknown_data(ctx, node.of, scope)
        return
    rows = ctx.rows[of]
    if rows is None:
        ctx.report(
            "MLO0404",
            node.of.span,
            scope,
            expected="data with rows",
            found="tasks or nested records",
        )
        return
    for arg in node.options:
        if not isinstance(arg, ast.Arg) or arg.name is None or arg.name.text not in SPLIT_OPTIONS:
            key = arg.name.text if isinstance(arg, ast.Arg) and arg.name is not None else "..."
            ctx.report(
                "MLO0210",
                arg.span,
                scope,
                function="split",
                name=key,
                notes=[f"options: {', '.join(SPLIT_OPTIONS)}"],
            )
            return
    settings = Scope(scope.unit, where="setting")
    try:
        fractions = [constants.value(ctx, p.fraction, settings) for p in node.parts]
        options = tuple(
            (a.name.text, constants.value(ctx, a.value, settings))
            for a in node.options
            if isinstance(a, ast.Arg) and a.name is not None
        )
    except NotConstant:
        return
    numbers = [
        float(f) for f in fractions if isinstance(f, int | float) and not isinstance(f, bool)
    ]
    total = sum(numbers)
    if len(numbers) != len(fractions) or any(f <= 0 for f in numbers) or total > 1 + 1e-9:
        ctx.report(
            "MLO0501",
            node.span,
            scope,
            name=of,
            total=f"{total:g}",
            label="each must be positive, and together at most 1",
        )
        return
    parts = []
    for part, fraction, count in zip(node.parts, numbers, counts(rows, numbers), strict=True):
        name = part.name.text
        size = number(count) if count is not None else symbol(f"{name}.{rows}")
        parts.append(Part(name, fraction, size))
        ctx.columns[name] = _with_rows(source, rows, size)
        ctx.rows[name] = size
    ctx.splits[of] = Split(of, tuple(parts), options, node.span)


def counts(rows: Dim, fractions: list[float]) -> list[int | None]:
    """How many rows each part has; all None while the number of rows is not bound."""
    if rows.value is None:
        return [None] * len(fractions)
    # here: its file readers are needed only where there is data
    from bettyc.sources import counts as rows_of_parts

    return [*rows_of_parts(rows.value, fractions)]


def _with_rows(type_: Record | Tensor, rows: Dim, size: Dim) -> Record | Tensor:
    """The same columns with another number of rows (the leading axis only)."""
    if isinstance(type_, Record):
        # a column whose type was refused already has no rows
        return Record(
            tuple(
                (n, _with_rows(t, rows, size) if isinstance(t, Record | Tensor) else t)
                for n, t in type_.fields
            )
        )
    return replace(type_, shape=(size, *type_.shape[1:]))


def _unknown_data(ctx: Context, ident: ast.Ident, scope: Scope) -> None:
    near = closest(ident.text, list(ctx.columns))
    ctx.report(
        "MLO0202",
        ident.span,
        scope,
        name=ident.text,
        label="no such data set",
        suggestions=[
            Suggestion(f"did you mean `{n}`?", (Edit(ident.span, n),), "maybe-incorrect")
            for n in near
        ],
    )


def declare_draw(ctx: Context, node: ast.Draw, scope: Scope, level: LevelDecl | None) -> None:
    name = f"{level.name}.{node.name.text}" if level is not None else node.name.text
    try:
        ctx.draws[name] = draw(ctx, node.source, scope, name, node.name)
    except NotConstant:
        return


def draw(ctx: Context, source: ast.Expr, scope: Scope, name: str, ident: ast.Ident) -> Draw:
    """`train(batch = 100, shuffle = true)`, `train`, or a call of an extern source, made anew for
    each batch.
    """
    args: tuple[ast.Arg, ...] = ()
    function = source
    if isinstance(source, ast.Call):
        function = source.function
        args = tuple(a for a in source.args if isinstance(a, ast.Arg))
    if not isinstance(function, ast.Name):
        ctx.report("MLO0404", source.span, scope, expected="a data set", found="another expression")
        raise NotConstant
    if isinstance(scope.unit.names.get(function.id), ast.ExternSource):
        return _sampled(ctx, source, scope, name, ident)
    scope.unit.used.add(function.id)
    type_ = ctx.columns.get(function.id)
    if type_ is None:
        if not isinstance(scope.unit.names.get(function.id), ast.Data | ast.Part):
            _unknown_data(ctx, ast.Ident(function.id, function.span), scope)
        raise NotConstant
    options, batch = _options(ctx, args, scope)
    rows = ctx.rows[function.id]
    if rows is None:
        return Draw(name, function.id, options, type_, ident.span)
    size = batch if batch is not None else rows
    if (
        batch is not None
        and batch.value is not None
        and rows.value is not None
        and batch.value > rows.value
    ):
        at = next(a for a in args if a.name is not None and a.name.text == "batch")
        ctx.report(
            "MLO0504", at.span, scope, batch=batch, name=function.id, rows=rows, label="too large"
        )
        raise NotConstant
    columns = _with_rows(type_, rows, size)
    if isinstance(columns, Record):
        columns = Record((*columns.fields, ("index", Tensor("int", (size,), rows))))
    return Draw(name, function.id, options, columns, ident.span)


def _options(
    ctx: Context, args: tuple[ast.Arg, ...], scope: Scope
) -> tuple[tuple[tuple[str, Value], ...], Dim | None]:
    options: list[tuple[str, Value]] = []
    batch: Dim | None = None
    for arg in args:
        key = arg.name.text if arg.name is not None else "batch"
        if key not in DRAW_OPTIONS:
            ctx.report(
                "MLO0210",
                arg.span,
                scope,
                function="draw",
                name=key,
                label="no such option",
                suggestions=[
                    Suggestion(f"did you mean `{n}`?", (Edit(arg.name.span, n),), "maybe-incorrect")
                    for n in closest(key, DRAW_OPTIONS)
                ]
                if arg.name
                else [],
                notes=[f"options: {', '.join(DRAW_OPTIONS)}"],
            )
            raise NotConstant
        if key == "batch":
            batch = constants.dim(ctx, arg.value, scope)
            if batch.value is not None and batch.value < 1:
                ctx.report(
                    "MLO0603", arg.span, scope, setting="batch", value=batch, expected="at least 1"
                )
                raise NotConstant
            options.append((key, batch.value if batch.value is not None else str(batch)))
            continue
        value = constants.value(ctx, arg.value, Scope(scope.unit, where="setting"))
        expected = _option_expected(key, value)
        if expected:
            ctx.report(
                "MLO0603", arg.value.span, scope, setting=key, value=show(value), expected=expected
            )
            raise NotConstant
        options.append((key, value))
    return tuple(options), batch


def _option_expected(key: str, value: Value) -> str:
    """What an option of a draw has to be, where it is not."""
    if key in ("shuffle", "drop_last", "replace"):
        return "" if isinstance(value, bool) else "`true` or `false`"
    if key == "workers":
        good = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        return "" if good else "a whole number of at least 0"
    word = isinstance(value, Ref) or (isinstance(value, Call) and not value.named)
    return "" if word else "`balanced` or a column"


def _sampled(ctx: Context, source: ast.Expr, scope: Scope, name: str, ident: ast.Ident) -> Draw:
    call, samples, type_ = source_of(ctx, source, scope, name, None)  # type: ignore[arg-type]
    if not isinstance(type_, Record | Tensor):
        raise NotConstant
    ctx.data[name] = DataSet(name, type_, call, None, samples, ident.span)
    return Draw(name, name, (), type_, ident.span)


def declare_task(ctx: Context, level: LevelDecl, scope: Scope) -> None:
    """`foreach t in tasks(batch = 16)`."""
    node = level.node
    if node.task is None or node.tasks is None:
        return
    try:
        ctx.tasks[level.name] = draw(ctx, node.tasks, scope, node.task.text, node.task)
    except NotConstant:
        return


def declare_extern(
    ctx: Context, node: ast.ExternFn | ast.ExternModule | ast.ExternSource, prefix: str
) -> None:
    kind = {ast.ExternFn: "fn", ast.ExternModule: "module", ast.ExternSource: "source"}[type(node)]
    origin = node.origin.value
    if origin.count(":") != 1 or not all(origin.split(":")):
        ctx.report(
            "MLO0404", node.origin.span, expected='`"module:attribute"`', found=f'`"{origin}"`'
        )
        return
    name = prefix + node.name.text
    ctx.externs[name] = Extern(
        kind, name, origin, tuple(f.name.text for f in node.formals), node.name.span
    )
