"""The built-in data sources, by the name a program writes: the values behind `bettyc.sources`.

    npz("f.npz")                     arrays named like the declared fields
    npy("f.npy")                     one array
    csv("f.csv", target = "price")   `y` is the target, `x` all other columns, other fields by name
    sklearn("digits")                of scikit-learn: breast_cancer, diabetes, digits, iris, wine

`standardize = true` brings every column of `x` to mean 0 and standard deviation 1 over all rows;
`standardize = train` takes mean and deviation from one part of the split. A declared field `clean
: bool[n]` of a bundled set is true everywhere; `corrupt` of a split sets it to false where it
changes a label.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from bettyc import sources
from bettyc.diagnostics.span import Span
from bettyc.model import Call, DataSet
from bettyc.types import Type, tensors

Columns = dict[str, Any]


def read(data: DataSet, folder: str) -> Columns:
    """The declared columns of a built-in source as NumPy arrays. Raises InputError."""
    # What the header says is checked first: it gives the better message and costs nothing.
    sources.columns(data.source, data.type, folder, data.span)
    return READERS[data.source.name](data.source, data.type, folder, data.span)


def _npz(source: Call, declared: Type, folder: str, span: Span | None) -> Columns:
    path = sources.path_of(source, folder, span)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {field: arrays[field] for field, _ in tensors(declared)}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise sources.unreadable(source, span, error) from error


def _npy(source: Call, declared: Type, folder: str, span: Span | None) -> Columns:
    path = sources.path_of(source, folder, span)
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise sources.unreadable(source, span, error) from error
    return {field: array for field, _ in tensors(declared)}


def _csv(source: Call, declared: Type, folder: str, span: Span | None) -> Columns:
    rows = sources.open_csv(source, folder, span)
    fields = sources.csv_fields(source, next(rows), declared, span)
    table = np.array([[sources.parsed(cell)[1] for cell in row] for row in rows])
    kinds = sources.columns(source, declared, folder, span) or {}
    found: Columns = {}
    for field, type_ in tensors(declared):
        values = table[:, fields[field]]
        values = values[:, 0] if len(type_.shape) == 1 else values
        kind = kinds[field].kind
        found[field] = (
            values if kind == "real" else values.astype(bool if kind == "bool" else np.int64)
        )
    return found


def _sklearn(source: Call, declared: Type, folder: str, span: Span | None) -> Columns:
    name = source.positional[0] if source.positional else source.get("name")
    bunch = getattr(import_module("sklearn.datasets"), f"load_{name}")()
    found: Columns = {}
    for field, type_ in tensors(declared):
        if field == "clean":
            found[field] = np.ones(len(bunch.target), dtype=bool)
        elif field == "y":
            found[field] = bunch.target
        else:
            rows, width = bunch.data.shape
            found[field] = bunch.data.reshape(sources.bundled_shape(rows, width, len(type_.shape)))
    return found


READERS: dict[str, Callable[[Call, Type, str, Span | None], Columns]] = {
    "npz": _npz,
    "npy": _npy,
    "csv": _csv,
    "sklearn": _sklearn,
}
