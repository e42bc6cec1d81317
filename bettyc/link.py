"""Binding dims from data: files' headers, data sets in memory, or made-up sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from bettyc.diagnostics.model import Diagnostic, Label
from bettyc.diagnostics.registry import report
from bettyc.driver import Checked, in_order
from bettyc.model import DataSet, Model
from bettyc.sources import sizes as sizes_of
from bettyc.types import Dim, Record, Tensor, Type, tensors

# What a data set holds: a type whose dims are numbers, or None when that is not known yet.
Shapes = Callable[[DataSet], tuple[Type | None, list[Diagnostic]]]


@dataclass
class _Binding:
    size: int
    by: DataSet


def examine(checked: Checked) -> Checked:
    """The program with what `--data`, `--mock` and `--import` ask to be looked at."""
    o = checked.options
    if checked.model is None or not (o.data or o.mock is not None or o.imports):
        return checked
    linked = checked
    named = [name for name, _ in o.data]
    if o.data or o.mock is not None:
        linked = link(checked, complete=False, needed=named)
    if linked.model is None or linked.hierarchy is None:
        return linked
    found: list[Diagnostic] = []
    if o.data:
        from bettyc import values

        found += values.check(linked.model, linked.graph, linked.hierarchy, linked.folder, named)
    if o.imports:
        from bettyc import imports

        found += imports.check(linked)
    return _with(linked, found) if found else linked


def link(
    checked: Checked,
    shapes: Shapes | None = None,
    *,
    complete: bool = True,
    needed: Collection[str] | None = None,
) -> Checked:
    """The program with its dims bound, checked again.

    needed: the data sets that have to be at hand, None for all.
    shapes: overrides how a data set's sizes are found (data in memory, sources from Python); it may
    answer (None, []) to leave it to the file readers. complete: every dim has to be bound in the
    end.
    """
    if checked.model is None:
        return checked
    if checked.options.mock is not None:
        return checked.rebind(mock_sizes(checked.model, checked.sizes))
    found: list[Diagnostic] = []
    bound: dict[str, _Binding] = {}
    for data in checked.model.data:
        type_, wrong = shapes(data) if shapes is not None else (None, [])
        if type_ is None and not wrong:
            type_, wrong = sizes_of(data.source, data.type, checked.folder, data.span)
        if needed is None or data.name in needed:
            found += wrong
        if type_ is not None:
            found += _bind(data, data.type, type_, bound)
    if found:
        return _with(checked, found)
    linked = checked.rebind({name: b.size for name, b in bound.items()})
    if complete and linked.model is not None:
        missing = unbound(linked.model)
        if missing:
            return _with(linked, [_never_bound(linked, name) for name in missing])
    return linked


def _bind(
    data: DataSet, declared: Type, found: Type, bound: dict[str, _Binding]
) -> list[Diagnostic]:
    wrong: dict[str, Diagnostic] = {}
    have = dict(tensors(found))
    for path, want in tensors(declared):
        given = have.get(path)
        if given is None:
            continue
        for dim, size in zip(want.shape, given.shape, strict=True):
            problem = _bind_dim(data, dim, size.value or 0, bound)
            if problem is not None:
                wrong.setdefault(problem.message, problem)
    return list(wrong.values())


def _bind_dim(data: DataSet, dim: Dim, size: int, bound: dict[str, _Binding]) -> Diagnostic | None:
    """Bind a dim that is one name; others are checked when the program is elaborated again."""
    names = dim.names
    if len(dim.terms) != 1 or len(names) != 1 or dim.terms[0][1] != 1 or len(dim.terms[0][0]) != 1:
        return None
    name = next(iter(names))
    known = bound.get(name)
    if known is None:
        bound[name] = _Binding(size, data)
        return None
    if known.size == size:
        return None
    return report(
        "MLO0410",
        data.span,
        name=name,
        first=f"`{known.by.name}`",
        first_size=known.size,
        second=f"`{data.name}`",
        second_size=size,
        label=f"here it is {size}",
        secondary=[Label(known.by.span, f"here it is {known.size}")]
        if known.by is not data
        else [],
        notes=["declare a second dim"],
    )


def unbound(model: Model) -> list[str]:
    """Names of dims that types of variables, data and batches still have."""
    types: list[Tensor] = [v.type for level in model.levels for v in level.variables]
    for type_ in _drawn(model):
        types += [t for _, t in tensors(type_)]
    names = {n for t in types for d in t.shape for n in d.names}
    return sorted(names)


def _drawn(model: Model) -> list[Record | Tensor]:
    """The types of data sets and batches."""
    return [*(d.type for d in model.data), *(d.type for d in model.draws)]


def _never_bound(checked: Checked, name: str) -> Diagnostic:
    from bettyc.grammar import ast

    owner, _, size = name.rpartition(".")
    assert checked.model is not None
    draw = next((d for d in checked.model.draws if owner and d.name == owner), None)
    made = next((d for d in checked.model.data if draw is not None and d.name == draw.of), None)
    if draw is not None and made is not None:
        source = made.source.name
        return report(
            "MLO0411",
            draw.span,
            name=size,
            label=f"`{source}` is called for each batch, so that no data say how large it is",
            notes=[
                f"declare `dim {size} = 10` with the size that `{source}` gives, or make it an"
                f" argument: `extern source {source}(…, {size}: int)`, `{source}(…, {size} = 10)`"
            ],
        )
    decl = checked.unit.names.get(name) if checked.unit is not None else None
    span = decl.name.span if isinstance(decl, ast.DimDecl) else None
    return report(
        "MLO0411",
        span,
        name=name,
        label="its size is not known",
        notes=[
            f"give it a value (`dim {name} = 10`), "
            "or use it in the type of a data set that can be read"
        ],
    )


def mock_sizes(model: Model, given: Mapping[str, int]) -> dict[str, int]:
    """Sizes for `--mock`: those given, and small different ones for the other dims."""
    names = sorted(
        {
            n
            for type_ in _drawn(model)
            for _, t in tensors(type_)
            for dim in (*t.shape, *((t.labels,) if t.labels else ()))
            for n in dim.names
        }
        | {n for n, v in model.dims if v is None}
    )
    rows = {n for d in model.data if d.rows is not None for n in d.rows.names}
    parts = {p.rows.names for s in model.splits for p in s.parts}
    derived = {n for names_ in parts for n in names_}
    smallest = min((p.fraction for s in model.splits for p in s.parts), default=1.0)
    few = max(3 * _largest_batch(model), math.ceil(_largest_batch(model) / (smallest or 1.0)))
    classes = _most_classes(model)
    sizes: dict[str, int] = {}
    for k, name in enumerate(names):
        if name in given or name in derived:
            continue
        sizes[name] = max(24, few, 3 * classes) + k if name in rows else 3 + k % 5
    return {**sizes, **given}


def _largest_batch(model: Model) -> int:
    sizes = [dict(d.options).get("batch") for d in model.draws]
    return max((s for s in sizes if isinstance(s, int)), default=1)


def _most_classes(model: Model) -> int:
    labels = [t.labels.value for type_ in _drawn(model) for _, t in tensors(type_) if t.labels]
    return max((n for n in labels if n is not None), default=1)


def _with(checked: Checked, found: Sequence[Diagnostic]) -> Checked:
    diagnostics = tuple(in_order((*checked.diagnostics, *found), checked.name))
    if not any(d.severity == "error" for d in found):
        return replace(checked, diagnostics=diagnostics)
    return replace(checked, diagnostics=diagnostics, model=None, hierarchy=None)
