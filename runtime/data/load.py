"""From the plan's data declarations to rows: built-in readers, values from Python, sources from
Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from bettyc import types
from bettyc.diagnostics.registry import report
from bettyc.failures import InputError
from bettyc.model import DataSet, Model, Ref, Split
from bettyc.runtime.data import split as splitting
from bettyc.runtime.data.check import Checker, as_tensor
from bettyc.runtime.data.images import image_folder
from bettyc.runtime.data.readers import READERS, read
from bettyc.runtime.data.rows import Items, Part, Rows, Table, Tasks, checked
from bettyc.runtime.data.stream import Stream
from bettyc.runtime.externs import construct
from bettyc.runtime.randomness import masks
from bettyc.runtime.seeds import seed_of

Source = Rows | Stream | Tasks


class Loader:
    """Loads every data set and split part of a program.

    given: values by data set name, in place of the declared sources. objects: what externs name.
    sizes: dims known so far; loading binds the others.
    """

    def __init__(
        self,
        model: Model,
        folder: str,
        *,
        given: Mapping[str, Any],
        objects: Mapping[str, Any],
        sizes: dict[str, int],
        device: torch.device,
        dtype: torch.dtype,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.folder = folder
        self.given = given
        self.objects = objects
        self.sizes = sizes
        self.device = device
        self.dtype = dtype
        self.seed = seed

    def load(self) -> dict[str, Source]:
        """Data sets and parts by name. Raises InputError."""
        known = {d.name for d in self.model.data}
        strange = sorted(set(self.given) - known)
        if strange:
            note = f"the program declares {', '.join(sorted(known)) or 'none'}"
            raise InputError(
                report(
                    "MLO0506",
                    None,
                    path=strange[0],
                    problem="is no data set of the program",
                    notes=[note],
                )
            )
        drawn = {draw.of for draw in self.model.draws} & {draw.name for draw in self.model.draws}
        splits = {split.of: split for split in self.model.splits}
        found: dict[str, Source] = {}
        for data in self.model.data:
            if data.samples or data.name in drawn:
                continue  # made anew for each batch
            source = self._data(data)
            split = splits.get(data.name)
            if split is None:
                found[data.name] = self._finished(data, source, None)
            else:
                found |= self._split(data, source, split)
        return found

    def checker(self, data: DataSet) -> Checker:
        return Checker(data.name, self.sizes, self.dtype, data.span)

    def _data(self, data: DataSet) -> Source:
        if data.name in self.given:
            return self._value(data, self.given[data.name])
        if data.source.name in READERS:
            columns = read(data, self.folder)
            return self._table(data, columns)
        if data.source.name == "images":
            return self._items(data, image_folder(data, self.folder))
        if data.source.name in self.objects:
            return self._value(data, self._made(data))
        raise InputError(
            report(
                "MLO0506",
                data.span,
                path=data.name,
                problem="is not given",
                notes=[f'pass it from Python: `compile(data = {{"{data.name}": ...}})`'],
            )
        )

    def _made(self, data: DataSet) -> Any:
        extern = next(e for e in self.model.externs if e.name == data.source.name)
        arguments = {k: v for k, v in data.source.named if not isinstance(v, Ref)}
        found = self.objects[extern.name]
        if not callable(found):
            return found
        with masks(seed_of(self.seed, "source", data.name), "cpu"):
            return construct(extern, found, arguments)

    def _value(self, data: DataSet, value: Any) -> Source:
        """Anything a Python caller may hand over."""
        if isinstance(value, DataLoader | IterableDataset) or _is_iterator(value):
            return self._stream(data, value)
        if _is_parts(value):
            raise self._choose(data, value)
        tasks = _is_sequence(value) and not isinstance(value, Mapping)
        if data.rows is None and isinstance(data.type, types.Record) and tasks:
            return Tasks(data.name, value, data.type, self.checker(data), self.device)
        if _is_columns(value, data.type):
            return self._table(data, value)
        if _is_sequence(value):
            return self._items(data, value)
        if callable(value):
            return self._value(data, value())
        raise InputError(
            report(
                "MLO0703",
                data.span,
                name=data.name,
                expected="a data set",
                notes=[f"it is a {type(value).__name__}"],
            )
        )

    def _stream(self, data: DataSet, value: Any) -> Stream:
        once = not isinstance(value, DataLoader | IterableDataset) and iter(value) is value
        inside = [value, *(getattr(value, n, None) for n in ("dataset", "sampler"))]
        generators = [getattr(part, "generator", None) for part in inside]
        return Stream(
            data.name,
            lambda: iter(value),
            data.type,
            self.checker(data),
            self.device,
            seed=self.seed,
            once=once,
            generators=tuple(
                {id(g): g for g in generators if isinstance(g, torch.Generator)}.values()
            ),
            epoch_of=tuple(p.set_epoch for p in inside if callable(getattr(p, "set_epoch", None))),
        )

    def _items(self, data: DataSet, value: Any) -> Items:
        if len(value) == 0:
            raise self._empty(data)
        return Items(data.name, value, len(value), data.type, self.checker(data), self.device)

    def _choose(self, data: DataSet, value: Any) -> InputError:
        note = f"it has the parts {', '.join(map(str, value))}: hand over one of them"
        return InputError(
            report("MLO0703", data.span, name=data.name, expected="one data set", notes=[note])
        )

    def _table(self, data: DataSet, value: Any) -> Table:
        columns = checked(value, _nested(data.type, value), self.checker(data), None, self.device)
        lengths = {name: len(column) for name, column in columns.items() if column.ndim}
        count = next(iter(lengths.values()), 0)
        if count == 0:
            raise self._empty(data)
        return Table(columns, count)

    def _empty(self, data: DataSet) -> InputError:
        return InputError(report("MLO0511", data.span, name=data.name, problem="is empty"))

    def _split(self, data: DataSet, source: Source, split: Split) -> dict[str, Source]:
        if isinstance(source, Stream | Tasks):
            raise InputError(
                report(
                    "MLO0703",
                    split.span,
                    name=data.name,
                    expected="a data set with rows, so it cannot be split",
                )
            )
        rows = splitting.parts(split, source.count, source.column)
        for part in split.parts:
            for name in part.rows.names:
                self.sizes[name] = len(rows[part.name])
        if isinstance(source, Table):
            labels = data.type.get("y") if isinstance(data.type, types.Record) else None
            count = (
                labels.labels.bind(self._known()).value
                if isinstance(labels, types.Tensor) and labels.labels is not None
                else None
            )
            source = Table(splitting.corrupted(split, rows, source.columns, count), source.count)
        elif dict(split.options).get("corrupt") is not None:
            raise self._not_in_memory(data, "so its labels cannot be corrupted")
        whole = self._finished(data, source, rows)
        assert not isinstance(whole, Stream | Tasks)
        return {data.name: whole, **{name: Part(whole, at) for name, at in rows.items()}}

    def _finished(self, data: DataSet, source: Source, rows: Mapping[str, Tensor] | None) -> Source:
        """With `standardize`."""
        option = data.source.get("standardize")
        if option in (None, False):
            return source
        if not isinstance(source, Table):
            raise self._not_in_memory(data, "so it cannot be standardized")
        if "x" not in source.columns:
            return source
        name = splitting.word(option)
        if name is not None and (rows is None or name not in rows):
            raise InputError(
                report(
                    "MLO0506",
                    data.span,
                    path=data.name,
                    problem=f"has no part `{name}` to standardize by",
                )
            )
        return Table(
            splitting.standardized(source.columns, rows[name] if name and rows else None),
            source.count,
        )

    def _not_in_memory(self, data: DataSet, reason: str) -> InputError:
        note = "hand over its columns (a dict of arrays or tensors), or do it in the data set"
        expected = f"in memory, {reason}"
        return InputError(
            report("MLO0703", data.span, name=data.name, expected=expected, notes=[note])
        )

    def _known(self) -> dict[str, types.Dim]:
        return {name: types.number(size) for name, size in self.sizes.items()}


def _is_iterator(value: Any) -> bool:
    return hasattr(value, "__iter__") and not hasattr(value, "__len__")


def _is_sequence(value: Any) -> bool:
    return (
        hasattr(value, "__len__") and hasattr(value, "__getitem__") and not isinstance(value, str)
    )


def _is_parts(value: Any) -> bool:
    """Several data sets by name, as Hugging Face's `DatasetDict`."""
    return isinstance(value, Mapping) and hasattr(value, "column_names")


def _by_row(value: Any) -> bool:
    """A Hugging Face data set that makes its values when a row is asked for: a transform, or
    columns that are decoded.
    """
    shape = getattr(value, "format", None)
    custom = isinstance(shape, Mapping) and shape.get("type") == "custom"
    features = getattr(value, "features", None) or {}
    return custom or any(hasattr(f, "decode_example") for f in features.values())


def _is_columns(value: Any, declared: types.Type) -> bool:
    """Columns by name or in order, or one column: not a list of rows."""
    if isinstance(declared, types.Tensor):
        return isinstance(value, Tensor) or as_tensor(value) is not None
    if hasattr(value, "column_names") and _by_row(value):
        return False
    if isinstance(value, Mapping) or hasattr(value, "column_names") or hasattr(value, "to_numpy"):
        return True
    assert isinstance(declared, types.Record)
    if isinstance(value, tuple) and len(value) == len(declared.fields):
        pairs = zip(value, declared.fields, strict=True)
        return all(_is_columns(part, inner) for part, (_, inner) in pairs)
    return not hasattr(value, "__getitem__") and all(
        hasattr(value, name) for name, _ in declared.fields
    )


def _nested(declared: types.Type, value: Any) -> types.Type:
    """Readers give columns by dotted name: the declared record without its nesting."""
    if not isinstance(declared, types.Record):
        return declared if not isinstance(value, Mapping) else types.Record((("", declared),))
    if isinstance(value, Mapping) and any("." in str(k) for k in value):
        return types.Record(tuple(types.tensors(declared)))
    return declared
