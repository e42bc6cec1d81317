"""Values from outside the file: profiles, config files, `--set`, `--data`.

They rewrite the syntax tree before anything is analysed, so that `--set k=v` is the same as
editing the file, and the resolved program is the file with exactly those edits.
Precedence: file < profile < config < --set.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bettyc.diagnostics.model import Diagnostic, Edit
from bettyc.diagnostics.registry import report
from bettyc.diagnostics.span import Source, Span
from bettyc.diagnostics.suggest import closest
from bettyc.grammar import ast
from bettyc.grammar.parse import parse
from bettyc.settings import BLOCKS


@dataclass(frozen=True)
class Override:
    """One value from outside; `origin` is what `info` shows."""

    path: tuple[ast.Ident, ...]
    value: ast.Expr
    origin: str


@dataclass(frozen=True)
class Rewritten:
    """The tree with all overrides, and where each overridden value came from."""

    file: ast.File
    origins: dict[str, str]
    diagnostics: tuple[Diagnostic, ...]


def from_text(
    pairs: Sequence[tuple[str, str]], origin: str
) -> tuple[list[Override], list[Diagnostic], list[Source]]:
    """`--set` pairs, each parsed as `path = value`."""
    overrides: list[Override] = []
    diagnostics: list[Diagnostic] = []
    sources: list[Source] = []
    for k, (path, text) in enumerate(pairs):
        name = (
            f"<{origin} {path}>"
            if k == 0 or pairs[k - 1][0] != path
            else f"<{origin} {path} ({k})>"
        )
        parsed = parse(f"profile set {{ {path} = {text} }}", name)
        sources.append(parsed.source)
        profiles = (
            [i for i in parsed.file.items if isinstance(i, ast.Profile)] if parsed.file else []
        )
        if parsed.diagnostics or len(profiles) != 1 or len(profiles[0].overrides) != 1:
            diagnostics.append(
                report(
                    "MLO0614",
                    None,
                    path=path,
                    problem=f"cannot be set to `{text}`",
                    notes=["write --set path=value, with the value as in a program"],
                )
            )
            continue
        overrides += [Override(o.path, o.value, origin) for o in profiles[0].overrides]
    return overrides, diagnostics, sources


def from_config(name: str, text: str) -> tuple[list[Override], list[Diagnostic], list[Source]]:
    """A TOML file: tables are path prefixes, strings are taken as the language's values, other
    values as they are.
    """
    import tomllib

    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return [], [report("MLO0614", None, path=name, problem=f"is not TOML: {error}")], []
    pairs: list[tuple[str, str]] = []

    def visit(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                visit(f"{prefix}.{key}" if prefix else key, inner)
        else:
            pairs.append((prefix, _as_text(value)))

    visit("", table)
    return from_text(pairs, f"config {name}")


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_as_text, value))}]"
    return str(value)


def from_profile(file: ast.File, name: str) -> tuple[list[Override], list[Diagnostic]]:
    profiles = {i.name.text: i for i in file.items if isinstance(i, ast.Profile)}
    if name not in profiles:
        near = closest(name, profiles)
        hint = (
            f"did you mean `{near[0]}`?"
            if near
            else f"profiles here: {', '.join(profiles) or 'none'}"
        )
        return [], [
            report("MLO0614", None, path=f"profile {name}", problem="does not exist", notes=[hint])
        ]
    return [Override(o.path, o.value, f"profile {name}") for o in profiles[name].overrides], []


def data_override(name: str, uri: str) -> tuple[str, str]:
    """`--data name=uri`: a file path by its ending, or a source call."""
    endings = {
        ".csv": "csv",
        ".npz": "npz",
        ".npy": "npy",
        ".parquet": "parquet",
        ".safetensors": "safetensors",
    }
    for ending, reader in endings.items():
        if uri.endswith(ending):
            return name, f'{reader}("{uri}")'
    return name, uri


def rewrite(file: ast.File, overrides: Sequence[Override], data: Sequence[Override]) -> Rewritten:
    """The file with overrides applied, later ones on top."""
    items: list[Any] = list(file.items)
    origins: dict[str, str] = {}
    diagnostics: list[Diagnostic] = []
    for o in overrides:
        problem = _apply(items, o, origins)
        if problem is not None:
            diagnostics.append(problem)
    for o in data:
        name = o.path[0].text
        at = next(
            (k for k, i in enumerate(items) if isinstance(i, ast.Data) and i.name.text == name),
            None,
        )
        if at is None:
            known = [i.name.text for i in items if isinstance(i, ast.Data)]
            diagnostics.append(
                report(
                    "MLO0202",
                    o.path[0].span,
                    name=name,
                    label="no such data set",
                    notes=[f"data sets here: {', '.join(known) or 'none'}"],
                )
            )
            continue
        items[at] = replace(items[at], source=_reread(items[at].source, o.value))
        origins[name] = o.origin
    new = replace(file, items=tuple(items))
    return Rewritten(new, origins, tuple(diagnostics))


def _reread(declared: ast.Expr, given: ast.Expr) -> ast.Expr:
    """Another file for a data set, read as the declared one was: `target` and the like stay."""
    if not isinstance(declared, ast.Call) or not isinstance(given, ast.Call):
        return given
    readers = [c.function.id for c in (declared, given) if isinstance(c.function, ast.Name)]
    if len(set(readers)) != 1 or len(readers) != 2:
        return given
    named = {a.name.text for a in given.args if isinstance(a, ast.Arg) and a.name is not None}
    kept = [
        a
        for a in declared.args
        if isinstance(a, ast.Arg) and a.name is not None and a.name.text not in {*named, "path"}
    ]
    return replace(given, args=(*given.args, *kept))


def _apply(items: list[Any], o: Override, origins: dict[str, str]) -> Diagnostic | None:
    """Apply one override to the list of items, in place; the diagnostic when its path leads
    nowhere.
    """
    head, *rest = [i.text for i in o.path]
    for k, item in enumerate(items):
        if isinstance(item, ast.Param) and item.name.text == head and not rest:
            items[k] = replace(item, default=o.value)
            origins[head] = o.origin
            return None
        if isinstance(item, ast.Dim) and not rest and any(d.name.text == head for d in item.decls):
            decls = tuple(
                replace(d, value=o.value) if d.name.text == head else d for d in item.decls
            )
            items[k] = replace(item, decls=decls)
            origins[head] = o.origin
            return None
        is_run = isinstance(item, ast.Run) and head == "run"
        if is_run or (isinstance(item, ast.Level) and item.name.text == head):
            block = "run" if is_run else "level"
            if not rest or rest[0] not in BLOCKS[block]:
                break
            origins[f"{head}.{rest[0]}"] = o.origin
            if is_run:
                items[k] = replace(item, settings=_set(item.settings, o.path[1:], o.value))
            else:
                items[k] = replace(item, body=_set(item.body, o.path[1:], o.value))
            return None
    if (
        head == "run"
        and rest
        and rest[0] in BLOCKS["run"]
        and not any(isinstance(i, ast.Run) for i in items)
    ):
        items.append(ast.Run(settings=_set((), o.path[1:], o.value), span=o.value.span))
        origins[f"run.{rest[0]}"] = o.origin
        return None
    path = ".".join([head, *rest])
    near = closest(path, list(_paths(items)))
    notes = [f"did you mean `{n}`?" for n in near]
    span = Span(o.path[0].span.file, o.path[0].span.start, o.path[-1].span.end)
    return report(
        "MLO0614", span, path=path, problem="does not exist", label="no such path", notes=notes
    )


def _set(body: tuple[Any, ...], path: tuple[ast.Ident, ...], value: ast.Expr) -> tuple[Any, ...]:
    """The statements with setting `path[0]` (or an argument of it) replaced or added."""
    key, *rest = path
    for k, statement in enumerate(body):
        if isinstance(statement, ast.Setting) and statement.name.text == key.text:
            new = _argument(statement.value, rest, value) if rest else value
            return (*body[:k], replace(statement, value=new), *body[k + 1 :])
    new = _argument(ast.Name(id="auto", span=value.span), rest, value) if rest else value
    return (*body, ast.Setting(name=key, value=new, span=value.span))


def _argument(call: ast.Expr, path: Sequence[ast.Ident], value: ast.Expr) -> ast.Expr:
    """`adam(lr = 0.1)` with one argument replaced or added; a bare word becomes a call."""
    if isinstance(call, ast.Name):
        call = ast.Call(function=call, args=(), span=call.span)
    if not isinstance(call, ast.Call):
        return value
    key = path[0]
    for k, arg in enumerate(call.args):
        if isinstance(arg, ast.Arg) and arg.name is not None and arg.name.text == key.text:
            inner = _argument(arg.value, path[1:], value) if len(path) > 1 else value
            return replace(
                call, args=(*call.args[:k], replace(arg, value=inner), *call.args[k + 1 :])
            )
    return replace(call, args=(*call.args, ast.Arg(name=key, value=value, span=value.span)))


def _paths(items: Iterable[Any]) -> Iterable[str]:
    """Every path that can be set, for did-you-mean."""
    from bettyc.settings import table

    yield from (f"run.{key}" for key in BLOCKS["run"])
    for item in items:
        if isinstance(item, ast.Param):
            yield item.name.text
        elif isinstance(item, ast.Dim):
            yield from (d.name.text for d in item.decls)
        elif isinstance(item, ast.Level):
            level = item.name.text
            yield from (f"{level}.{key}" for key in BLOCKS["level"])
            for s in item.body:
                if not isinstance(s, ast.Setting) or s.name.text not in BLOCKS["level"]:
                    continue
                kind = BLOCKS["level"][s.name.text]
                word = s.value.function if isinstance(s.value, ast.Call) else s.value
                if kind.table and isinstance(word, ast.Name):
                    yield from (
                        f"{level}.{s.name.text}.{f.name}"
                        for f in table(kind.table).get(word.id, ())
                    )


def edits(old: ast.File, new: ast.File) -> Iterable[Edit]:
    """The text edits that turn the old file into the new one."""
    pairs: Iterable[tuple[ast.Item, Any]] = zip(old.items, new.items, strict=False)
    for before, after in pairs:
        if before is after:
            continue
        if isinstance(before, ast.Param):
            yield _value_edit(before.default, after.default, before.span, " = ")
        elif isinstance(before, ast.Data):
            yield _value_edit(before.source, after.source, before.span, " from ")
        elif isinstance(before, ast.Dim):
            for d, e in zip(before.decls, after.decls, strict=True):
                if d is not e:
                    yield _value_edit(d.value, e.value, d.span, " = ")
        elif isinstance(before, ast.Level):
            yield from _block_edits(before.body, after.body, before.span)
        elif isinstance(before, ast.Run):
            yield from _block_edits(before.settings, after.settings, before.span)
    for added in new.items[len(old.items) :]:
        if not isinstance(added, ast.Run):
            continue
        inner = "\n".join(f"  {s.name.text} = {_text(s.value)}" for s in added.settings)
        end = Span(old.span.file, old.span.end, old.span.end)
        yield Edit(end, f"\n\nrun {{\n{inner}\n}}\n")


def _block_edits(old: tuple[Any, ...], new: tuple[Any, ...], span: Span) -> Iterable[Edit]:
    for before, after in zip(old, new, strict=False):
        if before is not after:
            yield Edit(before.value.span, _text(after.value))
    added = new[len(old) :]
    if added:
        lines = "".join(f"  {s.name.text} = {_text(s.value)}\n" for s in added)
        yield Edit(Span(span.file, span.end - 1, span.end - 1), "\n" + lines)


def _value_edit(before: ast.Expr | None, after: ast.Expr, span: Span, sign: str) -> Edit:
    if before is not None:
        return Edit(before.span, _text(after))
    return Edit(Span(span.file, span.end, span.end), f"{sign}{_text(after)}")


def _text(node: ast.Expr) -> str:
    from bettyc.grammar.printer import expr

    return expr(node)
