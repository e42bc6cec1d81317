"""What a data source holds, read off its header: shapes and kinds, so that dims are bound before
anything runs.

torch-free; NumPy is not needed either: the headers of `.npy` and `.npz` are text, a `.csv` is
scanned once; `bettyc.headers` knows the other formats. The values themselves are read and checked
by `bettyc.runtime.data`.
"""

from __future__ import annotations

import ast
import csv
import io
import itertools
import struct
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bettyc.diagnostics.model import Diagnostic, Suggestion
from bettyc.diagnostics.registry import report
from bettyc.diagnostics.span import Span
from bettyc.failures import InputError
from bettyc.model import Call
from bettyc.types import Record, Tensor, Type, number, tensors

# Data sets bundled with scikit-learn: rows, columns, classes (None: a real target).
BUNDLED: dict[str, tuple[int, int, int | None]] = {
    "breast_cancer": (569, 30, 2),
    "diabetes": (442, 10, None),
    "digits": (1797, 64, 10),
    "iris": (150, 4, 3),
    "wine": (178, 13, 3),
}
KINDS = {"f": "real", "i": "int", "u": "int", "b": "bool"}


@dataclass(frozen=True)
class Found:
    """One column as it lies in the source. dtype is the source's word for it: `float64`, `<i8`,
    `text`.
    """

    shape: tuple[int, ...]
    kind: str
    dtype: str


def sizes(
    source: Call, declared: Type, folder: str, span: Span | None
) -> tuple[Type | None, list[Diagnostic]]:
    """The declared type with every dim as the source has it; the caller binds names and compares
    numbers.

    None without diagnostics: nothing is known before the run (memory, sources from Python).
    """
    try:
        found = columns(source, declared, folder, span)
    except InputError as error:
        return None, list(error.diagnostics)
    if found is None:
        return None, []
    wrong: list[Diagnostic] = []
    types: dict[str, Tensor] = {}
    for name, want in tensors(declared):
        have = found[name]
        problem = mismatch(want, have)
        if problem:
            wrong.append(
                report("MLO0507", span, column=name or source.name, found=problem, declared=want)
            )
        types[name] = Tensor(want.kind, tuple(map(number, have.shape)), want.labels)
    if wrong:
        return None, wrong
    return _rebuilt(declared, types), []


def columns(
    source: Call, declared: Type, folder: str, span: Span | None
) -> dict[str, Found] | None:
    """Every declared column by its dotted name. Raises InputError (MLO0506) for what is not
    there.
    """
    readers = {"npz": _npz, "npy": _npy, "csv": _csv, "sklearn": _bundled}
    if source.name in readers:
        return readers[source.name](source, declared, folder, span)
    if source.name not in ("parquet", "safetensors", "images"):
        return None
    # here: it is built from the functions of this module
    from bettyc import headers

    return getattr(headers, source.name)(source, declared, folder, span)  # type: ignore[no-any-return]


def mismatch(want: Tensor, have: Found) -> str:
    """What is wrong with a column, or nothing: kind, number of axes, sizes that are numbers."""
    fits = have.kind == want.kind or (want.kind == "real" and have.kind == "int")
    if not fits:
        return f"is {have.dtype}"
    if len(have.shape) != len(want.shape):
        return f"has shape {shown(have.shape)}"
    for dim, size in zip(want.shape, have.shape, strict=True):
        if dim.value is not None and dim.value != size:
            return f"has shape {shown(have.shape)}"
    return ""


def shown(shape: Sequence[int]) -> str:
    """`569 x 30`, as messages write shapes."""
    return " x ".join(map(str, shape)) if shape else "of a single number"


def _rebuilt(type_: Type, found: dict[str, Tensor], path: str = "") -> Type:
    if isinstance(type_, Record):
        fields = ((n, _rebuilt(t, found, f"{path}.{n}" if path else n)) for n, t in type_.fields)
        return Record(tuple(fields))
    return found[path]


# Files


def path_of(source: Call, folder: str, span: Span | None) -> Path:
    """The file of a source, relative to the program's folder. Raises InputError (MLO0506)."""
    name = source.positional[0] if source.positional else source.get("path")
    if not isinstance(name, str):
        raise InputError(
            report("MLO0506", span, path="", problem=f'is not named: write `{source.name}("file")`')
        )
    path = Path(folder) / name
    if not path.is_file():
        near = (
            sorted(p.name for p in path.parent.glob(f"*{path.suffix}"))
            if path.parent.is_dir()
            else []
        )
        problem = "is a folder" if path.is_dir() else "not found"
        notes = [f"in {path.parent} there are {', '.join(near[:5])}"] if near else []
        raise InputError(
            report(
                "MLO0506",
                span,
                path=name,
                problem=problem,
                notes=["paths are relative to the program", *notes],
                suggestions=[Suggestion("name another file with `--data NAME=FILE`")],
            )
        )
    return path


def unreadable(source: Call, span: Span | None, why: object) -> InputError:
    """A file that is not what its reader expects."""
    name = source.positional[0] if source.positional else source.get("path")
    return InputError(
        report(
            "MLO0506",
            span,
            path=name,
            problem=f"is not a readable {source.name} file",
            notes=[str(why)],
        )
    )


def missing(
    source: Call, span: Span | None, what: str, name: str, have: Sequence[str]
) -> InputError:
    """A column or array that is not there."""
    path = source.positional[0] if source.positional else source.get("path")
    listed = ", ".join(f"`{h}`" for h in sorted(have)[:20]) or "nothing"
    return InputError(
        report(
            "MLO0506",
            span,
            path=path,
            problem=f"has no {what} `{name}`",
            notes=[f"it has {listed}"],
        )
    )


def _npz(source: Call, declared: Type, folder: str, span: Span | None) -> dict[str, Found]:
    path = path_of(source, folder, span)
    found: dict[str, Found] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            names = {n.removesuffix(".npy"): n for n in archive.namelist()}
            for name, _ in tensors(declared):
                if name not in names:
                    raise missing(source, span, "array", name, list(names))
                with archive.open(names[name]) as stream:
                    found[name] = _npy_header(stream.read(1 << 16))
    except (zipfile.BadZipFile, OSError, ValueError, SyntaxError) as error:
        raise unreadable(source, span, error) from error
    return found


def _npy(source: Call, declared: Type, folder: str, span: Span | None) -> dict[str, Found]:
    path = path_of(source, folder, span)
    try:
        with path.open("rb") as stream:
            header = _npy_header(stream.read(1 << 16))
    except (OSError, ValueError, SyntaxError) as error:
        raise unreadable(source, span, error) from error
    return {name: header for name, _ in tensors(declared)}


def _npy_header(data: bytes) -> Found:
    """Shape and type of an array in NumPy's format, from its first bytes. Raises ValueError."""
    if data[:6] != b"\x93NUMPY":
        raise ValueError("it does not start like a NumPy array")
    wide = data[6] > 1
    size = 4 if wide else 2
    (length,) = struct.unpack("<I" if wide else "<H", data[8 : 8 + size])
    header = ast.literal_eval(data[8 + size : 8 + size + length].decode("latin1").strip())
    dtype = str(header["descr"])
    kind = KINDS.get(dtype.lstrip("<>|=")[:1], "other")
    words = {"f": "float", "i": "int", "u": "uint"}
    letter, width = dtype.lstrip("<>|=")[:1], dtype.lstrip("<>|=")[1:]
    if letter in words and width.isdigit():
        dtype = f"{words[letter]}{int(width) * 8}"
    elif letter == "b":
        dtype = "bool"
    return Found(tuple(int(n) for n in header["shape"]), kind, dtype)


# csv


def open_csv(source: Call, folder: str, span: Span | None) -> Iterator[list[str]]:
    """The rows of a csv file, its header first. Raises InputError where it is not text in
    columns.
    """
    path = path_of(source, folder, span)
    delimiter = source.get("delimiter", ",")
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = csv.reader(io.StringIO(text), delimiter=str(delimiter), strict=True)
        width = None
        for row in rows:
            if not row:
                continue
            if width is not None and len(row) != width:
                raise ValueError(
                    f"line {rows.line_num} has {len(row)} columns, the header has {width}"
                )
            width = len(row)
            yield row
        if width is None:
            raise ValueError("it is empty")
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise unreadable(source, span, error) from error


def csv_fields(
    source: Call, header: Sequence[str], declared: Type, span: Span | None
) -> dict[str, list[int]]:
    """Which columns of the file each declared field takes.

    `y` is the target, if one is named; `x` all columns that no other field takes; any other field
    the column of its name. A field that is not declared takes nothing, so a target is never among
    the inputs.
    """
    names = [name.strip() for name in header]
    target = source.get("target")
    position = {name: k for k, name in enumerate(names)}
    fields: dict[str, list[int]] = {}
    for field, type_ in tensors(declared):
        column = target if field == "y" and isinstance(target, str) else field
        if field == "x" and "x" not in position and len(type_.shape) == 2:
            continue
        if column not in position:
            raise missing(source, span, "column", str(column), names)
        fields[field] = [position[str(column)]]
    if target is not None and target not in position:
        raise missing(source, span, "column", str(target), names)
    taken = {k for columns in fields.values() for k in columns}
    taken |= {position[str(target)]} if target is not None else set()
    for field, _ in tensors(declared):
        if field not in fields:
            fields[field] = [k for k in range(len(names)) if k not in taken]
    return fields


def parsed(text: str) -> tuple[str, float]:
    """Kind and value of a cell; kind "text" where it is no number."""
    word = text.strip()
    if word.lower() in ("true", "false"):
        return "bool", float(word.lower() == "true")
    try:
        return "int", float(int(word))
    except ValueError:
        pass
    try:
        return "real", float(word)
    except ValueError:
        return "text", 0.0


def _csv(source: Call, declared: Type, folder: str, span: Span | None) -> dict[str, Found]:
    rows = open_csv(source, folder, span)
    header = next(rows)
    fields = csv_fields(source, header, declared, span)
    kinds = {field: dict.fromkeys(positions, "bool") for field, positions in fields.items()}
    order = ("bool", "int", "real", "text")
    count = 0
    for count, row in enumerate(rows, 1):
        for found in kinds.values():
            for k, known in found.items():
                kind = parsed(row[k])[0]
                if kind == "text":
                    problem = f"holds {row[k].strip()[:20]!r} in line {count + 1}"
                    want = "a number"
                    raise InputError(
                        report(
                            "MLO0507", span, column=header[k].strip(), found=problem, declared=want
                        )
                    )
                if kind != known:
                    found[k] = _wider(kind, known if count > 1 else kind, order)
    if count == 0:
        raise unreadable(source, span, "it has a header and no rows")
    result = {}
    for field, type_ in tensors(declared):
        kind = max(kinds[field].values(), key=order.index, default="real")
        shape = (count,) if len(type_.shape) == 1 else (count, len(fields[field]))
        result[field] = Found(
            shape,
            kind,
            {
                "real": "a column of reals",
                "int": "a column of whole numbers",
                "bool": "a column of true and false",
            }[kind],
        )
    return result


def _wider(a: str, b: str, order: Sequence[str]) -> str:
    """The kind that holds both; words and numbers in one column are numbers (true is 1)."""
    return max(a, b, key=order.index)


# scikit-learn


def _bundled(source: Call, declared: Type, folder: str, span: Span | None) -> dict[str, Found]:
    name = source.positional[0] if source.positional else source.get("name")
    if name not in BUNDLED:
        known = ", ".join(BUNDLED)
        raise InputError(
            report(
                "MLO0506",
                span,
                path=name,
                problem="is no data set of scikit-learn",
                notes=[f"known: {known}"],
            )
        )
    rows, width, classes = BUNDLED[str(name)]
    found: dict[str, Found] = {}
    for field, type_ in tensors(declared):
        if field == "x":
            shape = bundled_shape(rows, width, len(type_.shape))
            found[field] = Found(shape, "real", "float64")
        elif field == "y":
            kind, word = ("int", "int64") if classes else ("real", "float64")
            found[field] = Found((rows,), kind, word)
        elif field == "clean":
            found[field] = Found((rows,), "bool", "bool")
        else:
            raise missing(source, span, "column", field, ["x", "y", "clean"])
    return found


def bundled_shape(rows: int, width: int, axes: int) -> tuple[int, ...]:
    """Rows of features; the 64 pixels of a digit also as 8 x 8, with or without a channel axis."""
    if width == 64 and axes in (3, 4):
        return (rows, 8, 8) if axes == 3 else (rows, 1, 8, 8)
    return (rows, width)


def counts(rows: int, fractions: Sequence[float]) -> list[int]:
    """How many rows each part of a split has: cumulative fractions rounded, so that parts never
    overlap.
    """
    edges, cumulative = [0], 0.0
    for fraction in fractions:
        cumulative += fraction
        edges.append(min(rows, round(rows * cumulative)))
    return [b - a for a, b in itertools.pairwise(edges)]
