"""The built-in data sources, by the name a program writes: the values behind `bettyc.sources`.

    npz("f.npz")                     arrays named like the declared fields
    npy("f.npy")                     one array
    csv("f.csv", target = "price")   `y` is the target, `x` all other columns, other fields by name
    parquet("f.parquet", target = "price")   as csv; a column of lists of one length is a matrix
    safetensors("f.safetensors")     tensors named like the declared fields
    images("folder", size = 32)      one subfolder per class; read while the program runs, by
                                     `bettyc.runtime.data.images`
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

from bettyc import headers, sources
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


def _parquet(source: Call, declared: Type, folder: str, span: Span | None) -> Columns:
    table = headers.parquet_table(source, folder, span)
    fields = sources.csv_fields(source, table.column_names, declared, span)
    found: Columns = {}
    for field, type_ in tensors(declared):
        parts = [_entries(table.column(k)) for k in fields[field]]
        matrix = len(parts) != 1 or len(type_.shape) != 1
        found[field] = np.concatenate(parts, 1) if matrix else parts[0][:, 0]
    return found


def _entries(column: Any) -> np.ndarray[Any, Any]:
    """A column of numbers, or of lists of them, as (rows, entries)."""
    rows = len(column)
    flat = column.combine_chunks()
    while hasattr(flat, "flatten") and hasattr(flat.type, "value_type"):
        flat = flat.flatten()
    values = np.asarray(flat.to_numpy(zero_copy_only=False))
    if values.dtype == object:  # decimals
        values = values.astype(np.float64)
    return values.reshape(rows, -1)


def _safetensors(source: Call, declared: Type, folder: str, span: Span | None) -> Columns:
    from safetensors import SafetensorError, safe_open

    path = sources.path_of(source, folder, span)
    half = {name for name, f in headers.safetensors(source, declared, folder, span).items()
            if f.dtype.startswith(("bf16", "f8"))}  # fmt: skip
    found: Columns = {}
    try:
        # NumPy has no bfloat16: torch reads those
        for framework in ("numpy", "pt") if half else ("numpy",):
            with safe_open(str(path), framework) as file:
                for field, _ in tensors(declared):
                    if (field in half) == (framework == "pt"):
                        value = file.get_tensor(field)
                        found[field] = value.float().numpy() if field in half else value
    except (OSError, SafetensorError) as error:
        raise sources.unreadable(source, span, error) from error
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
    "parquet": _parquet,
    "safetensors": _safetensors,
    "sklearn": _sklearn,
}
