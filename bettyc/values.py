"""The values of data sets, read before anything runs (`check --data`): labels in their range,
numbers that are finite, rows that two sets share though one is to judge what was learned from
the other.

NumPy is imported here and torch is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bettyc.diagnostics.model import Diagnostic, Label, Note
from bettyc.diagnostics.registry import report
from bettyc.expr import Graph
from bettyc.failures import InputError
from bettyc.held_out import data_of
from bettyc.hierarchy import Hierarchy
from bettyc.model import DataSet, Model
from bettyc.types import Tensor, tensors

if TYPE_CHECKING:
    import numpy as np

Columns = Mapping[str, Any]


def check(
    model: Model, graph: Graph, hierarchy: Hierarchy, folder: str, names: Iterable[str]
) -> list[Diagnostic]:
    """MLO0507 and MLO0503 of the data sets in `names` whose source is a file or built in."""
    from bettyc.runtime.data.readers import READERS, read

    found: list[Diagnostic] = []
    columns: dict[str, Columns] = {}
    wanted = set(names)
    for data in model.data:
        # images are read one by one while the program runs, and have no numbers to look at
        if data.name not in wanted or data.source.name not in READERS:
            continue
        try:
            columns[data.name] = read(data, folder)
        except InputError as error:
            found += error.diagnostics
            continue
        found += _columns(data, columns[data.name])
    return found or _overlaps(model, graph, hierarchy, columns)


def _columns(data: DataSet, columns: Columns) -> list[Diagnostic]:
    found = []
    for field, type_ in tensors(data.type):
        problem, row = _problem(columns[field], type_)
        if problem:
            name = f"{data.name}.{field}" if field else data.name
            note = Note(f"the first such row is row {row}, counting from 0")
            found.append(
                report(
                    "MLO0507", data.span, column=name, found=problem, declared=type_, notes=[note]
                )
            )
    return found


def _problem(column: np.ndarray[Any, Any], type_: Tensor) -> tuple[str, int]:
    """What is wrong with the values, and the first row where it is; ("", 0) for nothing."""
    import numpy as np

    if type_.kind == "real":
        bad, words = ~np.isfinite(column.astype(np.float64)), "holds {}"
    elif type_.labels is not None and type_.labels.value is not None:
        bad, words = (column < 0) | (column >= type_.labels.value), "holds the label {}"
    else:
        return "", 0
    if not bad.any():
        return "", 0
    at = tuple(int(k) for k in np.argwhere(bad)[0])
    return words.format(column[at].item()), at[0] if at else 0


def _overlaps(
    model: Model, graph: Graph, h: Hierarchy, columns: Mapping[str, Columns]
) -> list[Diagnostic]:
    """MLO0503: rows that a level learns from and that a level above, or a metric, is judged by."""
    of = {p.name: s.of for s in model.splits for p in s.parts}
    data = {d.name: d for d in model.data}
    found: list[Diagnostic] = []
    done: set[frozenset[str]] = set()
    for learned, judged in _roles(model, graph, h):
        a, b = of.get(learned, learned), of.get(judged, judged)
        if a == b or frozenset((a, b)) in done or a not in columns or b not in columns:
            continue
        done.add(frozenset((a, b)))
        count = _common(columns[a], columns[b])
        if count:
            found.append(
                report(
                    "MLO0503",
                    data[b].span,
                    first=a,
                    second=b,
                    count=count,
                    label=f"what is learned from `{a}` is judged by these",
                    secondary=[Label(data[a].span, "learned from these")],
                )
            )
    return found


def _roles(model: Model, graph: Graph, h: Hierarchy) -> Iterable[tuple[str, str]]:
    """Pairs of data sets or parts: one that a level learns from, one that judges it."""
    uses = {lv.name: data_of(model, graph, [lv.objective]) for lv in model.levels}
    for p in h.levels:
        for q in sorted(h.starred[p]):
            yield from ((a, b) for a in uses[q] for b in uses[p])
    measured = data_of(model, graph, [m.node for m in model.metrics])
    for used in uses.values():
        yield from ((a, b) for a in used for b in measured)


def _common(first: Columns, second: Columns) -> int:
    """How many rows of the second set are in the first: equal in every column both have."""
    fields = sorted(set(first) & set(second))
    if not fields:
        return 0
    rows = set(_rows(first, fields))
    return sum(row in rows for row in _rows(second, fields))


def _rows(columns: Columns, fields: list[str]) -> list[bytes]:
    import numpy as np

    flat = [np.asarray(columns[f], dtype=np.float64).reshape(len(columns[f]), -1) for f in fields]
    table = np.ascontiguousarray(np.concatenate(flat, axis=1)) + 0.0  # -0.0 is 0.0
    return [row.tobytes() for row in table]
