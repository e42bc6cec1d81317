"""Sizes of data that only Python can tell: values in memory, and sources that are Python
functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from bettyc import types
from bettyc.failures import InputError, RunError
from bettyc.model import Call, DataSet, Model
from bettyc.runtime import externs
from bettyc.runtime.data.check import as_tensor, flatten
from bettyc.runtime.data.load import Loader
from bettyc.runtime.data.rows import Part, Table, Tasks
from bettyc.runtime.data.stream import Stream, single


def shapes_of(
    model: Model,
    folder: str,
    data: Mapping[str, Any],
    given: Mapping[str, Any],
    include: Sequence[str] = (),
) -> dict[str, types.Type]:
    """The types of the data sets named in `data` or read by a source from Python, every dim a
    number.

    Splits are left out of account. A stream is opened to look at its first item, where it can be
    opened again; its rows are not counted, so its first axis is taken to be that of a batch.
    Raises InputError.
    """
    sources = {e.name: e for e in model.externs if e.kind == "source"}
    wanted = [d for d in model.data if d.name in data or d.source.name in sources]
    drawn = {d.name for d in model.draws}
    wanted = [d for d in wanted if d.name not in drawn and not d.samples]
    objects = {
        d.source.name: externs.load(sources[d.source.name], folder, given, tuple(include))
        for d in wanted
        if d.name not in data
    }
    sizes = {name: size for name, size in model.dims if size is not None}
    # sizes do not depend on splits, nor on what is done with the values
    small = replace(model, data=tuple(map(_unprepared, wanted)), splits=(), draws=())
    loader = Loader(
        small, folder, given={k: v for k, v in data.items() if k in {d.name for d in wanted}},
        objects=objects, sizes=sizes, device=torch.device("cpu"), dtype=torch.float64,
    )  # fmt: skip
    found: dict[str, types.Type] = {}
    for dataset, source in zip(wanted, loader.load().values(), strict=True):
        if isinstance(source, Stream):
            type_ = _streamed(dataset, source, _largest(model, dataset.name))
        else:
            type_ = _type(dataset, source)
        if type_ is not None:
            found[dataset.name] = type_
    return found


def _unprepared(data: DataSet) -> DataSet:
    source = data.source
    kept = tuple((k, v) for k, v in source.named if k != "standardize")
    return replace(data, source=Call(source.name, source.positional, kept))


def _largest(model: Model, name: str) -> int | None:
    """The largest batch that is drawn of a data set."""
    sizes = [dict(d.options).get("batch") for d in model.draws if d.of == name]
    return max((s for s in sizes if isinstance(s, int)), default=None)


def _streamed(data: DataSet, source: Stream, batch: int | None) -> types.Type | None:
    """The type of the batches of a stream; None where its first item does not tell."""
    if source.once:
        return None
    before = [g.get_state() for g in source.generators]
    try:
        item = source.peek()
        parts = {name: as_tensor(part) for name, part in flatten(item, data.type).items()}
    except (KeyError, RunError, InputError):
        return None  # said with its place when the run takes the item
    finally:
        for generator, state in zip(source.generators, before, strict=True):
            generator.set_state(state)
    shapes = {name: tuple(t.shape) for name, t in parts.items() if t is not None}
    if single(item, data.type):
        if batch is None:
            return None
        shapes = {name: (batch, *shape) for name, shape in shapes.items()}
    ranks = {name: len(t.shape) for name, t in types.tensors(data.type)}
    if {name: len(shape) for name, shape in shapes.items()} != ranks:
        return None
    return _with_shapes(data.type, shapes, "")


def _type(data: DataSet, source: Any) -> types.Type | None:
    if isinstance(source, Tasks):
        columns, count = source.fetch([0], [0])[0], None
    elif isinstance(source, Table | Part):
        columns, count = source.whole(), None
    else:
        columns, count = source.fetch(torch.zeros(1, dtype=torch.int64)), source.count
    shapes = {name: tuple(column.shape) for name, column in columns.items()}
    if count is not None:
        shapes = {name: (count, *shape[1:]) for name, shape in shapes.items()}
    return _with_shapes(data.type, shapes, "")


def _with_shapes(type_: types.Type, shapes: Mapping[str, tuple[int, ...]], path: str) -> types.Type:
    if isinstance(type_, types.Record):
        fields = (
            (n, _with_shapes(t, shapes, f"{path}.{n}" if path else n)) for n, t in type_.fields
        )
        return types.Record(tuple(fields))
    assert isinstance(type_, types.Tensor)
    return types.Tensor(type_.kind, tuple(map(types.number, shapes[path])), type_.labels)
