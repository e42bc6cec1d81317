"""What parquet files, safetensors files and folders of images hold: shapes and kinds by column.

safetensors headers are JSON behind a length. Parquet files are opened by pyarrow and images by
Pillow, which are imported only where a program names such a source.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from bettyc.diagnostics.model import Suggestion
from bettyc.diagnostics.registry import report
from bettyc.diagnostics.span import Span
from bettyc.failures import InputError
from bettyc.model import Call
from bettyc.sources import Found, csv_fields, missing, path_of, unreadable
from bettyc.types import Tensor, Type, tensors

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".webp", ".tif", ".tiff")


def imported(module: str, package: str, source: Call, span: Span | None) -> Any:
    """An optional library. Raises InputError (MLO0506) that says how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        path = source.positional[0] if source.positional else source.get("path")
        raise InputError(
            report(
                "MLO0506",
                span,
                path=path,
                problem=f"needs {package} to be read",
                notes=['install it with `pip install "bettyc[data]"`', str(error)],
            )
        ) from error


# safetensors


def safetensors(source: Call, declared: Type, folder: str, span: Span | None) -> dict[str, Found]:
    """Tensors with the names of the declared columns (`support.x` for nested records)."""
    path = path_of(source, folder, span)
    try:
        header = _safetensors_header(path)
    except (OSError, ValueError, struct.error) as error:
        raise unreadable(source, span, error) from error
    found = {}
    for name, _ in tensors(declared):
        if name not in header:
            raise missing(source, span, "tensor", name, list(header))
        found[name] = header[name]
    return found


def _safetensors_header(path: Path) -> dict[str, Found]:
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > path.stat().st_size - 8:
            raise ValueError("its header is longer than the file")
        content = json.loads(stream.read(length))
    if not isinstance(content, dict):
        raise ValueError("its header is not a table")
    content.pop("__metadata__", None)
    try:
        return {name: _tensor(entry) for name, entry in content.items()}
    except (KeyError, TypeError) as error:
        raise ValueError("its header does not describe tensors") from error


def _tensor(entry: dict[str, Any]) -> Found:
    """`{"dtype": "F32", "shape": [4, 3]}`."""
    word = str(entry["dtype"])
    kind = {"F": "real", "B": "real", "I": "int", "U": "int"}.get(word[:1], "other")
    kind = "bool" if word == "BOOL" else kind
    shape = tuple(int(n) for n in entry["shape"])
    return Found(shape, kind, word.lower() if kind != "other" else word)


# parquet


def parquet(source: Call, declared: Type, folder: str, span: Span | None) -> dict[str, Found]:
    """Columns by the rules of csv; a column of lists of one length is a matrix."""
    table = parquet_table(source, folder, span)
    fields = csv_fields(source, table.column_names, declared, span)
    found: dict[str, Found] = {}
    for field, type_ in tensors(declared):
        kinds, widths = [], []
        for k in fields[field]:
            kind, width = _column(table.column(k), table.column_names[k], span)
            kinds.append(kind)
            widths.append(width)
        order = ("bool", "int", "real")
        kind = max(kinds, key=order.index, default="real")
        rows = table.num_rows
        scalar = len(type_.shape) == 1 and widths == [0]
        shape = (rows,) if scalar else (rows, sum(w or 1 for w in widths))
        found[field] = Found(shape, kind, f"a column of {kind}s")
    return found


def parquet_table(source: Call, folder: str, span: Span | None) -> Any:
    """The pyarrow table. Raises InputError where it is none, or has no rows."""
    path = path_of(source, folder, span)
    reader = imported("pyarrow.parquet", "pyarrow", source, span)
    arrow = import_module("pyarrow")
    try:
        table = reader.read_table(str(path))
    except (OSError, arrow.ArrowException) as error:
        raise unreadable(source, span, error) from error
    if table.num_rows == 0:
        raise unreadable(source, span, "it has no rows")
    return table


def _column(column: Any, name: str, span: Span | None) -> tuple[str, int]:
    """Kind of the entries, and how many of them a row has: 0 for a plain number."""
    types = import_module("pyarrow").types
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise _holds(name, f"holds nothing in row {row}", span)
    if (
        types.is_list(column.type)
        or types.is_large_list(column.type)
        or (types.is_fixed_size_list(column.type))
    ):
        lengths = {len(entry) for entry in column.to_pylist()}
        if len(lengths) != 1:
            raise _holds(name, f"holds lists of {min(lengths)} to {max(lengths)} entries", span)
        kind, inner = _column(column.combine_chunks().flatten(), name, span)
        if inner:
            raise _holds(name, "holds lists of lists", span)
        return kind, lengths.pop()
    if types.is_boolean(column.type):
        return "bool", 0
    if types.is_integer(column.type):
        return "int", 0
    if types.is_floating(column.type) or types.is_decimal(column.type):
        return "real", 0
    raise _holds(name, f"is {column.type}", span)


def _holds(column: str, problem: str, span: Span | None) -> InputError:
    return InputError(report("MLO0507", span, column=column, found=problem, declared="a number"))


# images


@dataclass(frozen=True)
class Images:
    """The files of a folder, one subfolder per class, in the order of names.

    labels: one per file, empty without subfolders. size: (height, width) of every image as it is
    given out; resized: whether they are brought to it. channels: 3 (RGB) or 1 (grey).
    """

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, int]
    resized: bool


def images(source: Call, declared: Type, folder: str, span: Span | None) -> dict[str, Found]:
    """`x` are the pixels, real[n, channels, height, width] in [0, 1]; `y` the classes."""
    found = image_folder(source, folder, span)
    count = len(found.files)
    result: dict[str, Found] = {}
    for field, type_ in tensors(declared):
        if field == "x":
            result[field] = Found((count, found.channels, *found.size), "real", "images")
        elif field == "y" and found.labels:
            result[field] = Found((count,), "int", "classes")
            _enough(type_, found, span)
        else:
            have = ["x", "y"] if found.labels else ["x"]
            raise missing(source, span, "column", field, have)
    return result


def _enough(type_: Tensor, found: Images, span: Span | None) -> None:
    count = type_.labels.value if type_.labels is not None else None
    if count is not None and count < len(found.classes):
        problem = f"has {len(found.classes)} classes"
        note = f"its folders are {', '.join(found.classes[:20])}"
        raise InputError(
            report("MLO0507", span, column="y", found=problem, declared=type_, notes=[note])
        )


def image_folder(source: Call, folder: str, span: Span | None) -> Images:
    """The images of a source. Raises InputError where there are none, or of several sizes."""
    name = source.positional[0] if source.positional else source.get("path")
    root = Path(folder) / str(name)
    if not isinstance(name, str) or not root.is_dir():
        problem = "is no folder" if root.exists() else "not found"
        note = "paths are relative to the program"
        raise InputError(report("MLO0506", span, path=name, problem=problem, notes=[note]))
    classes = tuple(sorted(d.name for d in root.iterdir() if d.is_dir() and _files(d)))
    if classes:
        pairs = [(file, k) for k, c in enumerate(classes) for file in _files(root / c)]
        files, labels = tuple(f for f, _ in pairs), tuple(k for _, k in pairs)
    else:
        files, labels = tuple(_files(root)), ()
    if not files:
        note = f"it looks for {', '.join(ENDINGS)}, in the folder or in one subfolder per class"
        raise InputError(
            report("MLO0506", span, path=name, problem="holds no images", notes=[note])
        )
    channels, wanted = source.get("channels", 3), source.get("size")
    if channels not in (1, 3):
        raise _option(span, "channels", channels, "1 or 3")
    size = _size(wanted, span)
    resized = size is not None
    return Images(
        files, labels, classes, int(channels), size or _common(source, files, span), resized
    )


def _files(root: Path) -> list[Path]:
    return sorted(
        p for p in root.rglob("*") if p.suffix.lower() in ENDINGS and not p.name.startswith(".")
    )


def _size(wanted: object, span: Span | None) -> tuple[int, int] | None:
    if wanted is None:
        return None
    pair = wanted if isinstance(wanted, tuple) else (wanted, wanted)
    if len(pair) == 2 and all(isinstance(n, int) and n >= 1 for n in pair):
        height, width = pair
        assert isinstance(height, int)
        assert isinstance(width, int)
        return height, width
    raise _option(span, "size", wanted, "a number of pixels, or [height, width]")


def _option(span: Span | None, name: str, value: object, expected: str) -> InputError:
    return InputError(report("MLO0603", span, setting=name, value=value, expected=expected))


def _common(source: Call, files: Sequence[Path], span: Span | None) -> tuple[int, int]:
    """(height, width) of all files, from their headers."""
    library = imported("PIL.Image", "Pillow", source, span)
    first: tuple[int, int] | None = None
    for file in files:
        try:
            with library.open(file) as image:
                width, height = image.size
        except OSError as error:
            raise unreadable_image(file, span, error) from error
        if first is None:
            first = height, width
        elif first != (height, width):
            problem = (
                f"has images of several sizes: {files[0].name} is {first[1]} x {first[0]},"
                f" {file.name} is {width} x {height}"
            )
            path = source.positional[0] if source.positional else source.get("path")
            raise InputError(
                report(
                    "MLO0506",
                    span,
                    path=path,
                    problem=problem,
                    suggestions=[Suggestion("bring them to one size: `size = 32`")],
                )
            )
    assert first is not None
    return first


def unreadable_image(file: Path, span: Span | None, error: object) -> InputError:
    """A file that Pillow cannot open."""
    problem = "is not a readable image"
    return InputError(report("MLO0506", span, path=file, problem=problem, notes=[str(error)]))
