"""Disjoint parts of a data set, and label noise in one of them.

split all into train = 0.6, val = 0.2, test = 0.2 with (seed = 0, stratify = y, corrupt =
labels(train, 0.4))

seed: of the permutation (0 if not given). shuffle = false: parts are consecutive rows. stratify:
every part has the same mix of the values of that column, as far as whole rows allow. corrupt =
labels(part, p): in that part alone, round(p * rows) labels are replaced by another label,
uniformly; a declared field `clean : bool[n]` says where the label was left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from bettyc.diagnostics.registry import report
from bettyc.diagnostics.span import Span
from bettyc.failures import InputError
from bettyc.model import Call, Ref, Split, Value
from bettyc.runtime.data.rows import Columns, Table
from bettyc.runtime.seeds import generator
from bettyc.sources import counts


def parts(split: Split, rows: int, column: Callable[[str], Tensor | None]) -> dict[str, Tensor]:
    """The row numbers of each part. column: a column of the whole set by its name."""
    options = dict(split.options)
    seed = options.get("seed", 0)
    order = torch.arange(rows)
    by = word(options.get("stratify"))
    if options.get("shuffle", True) is not False:
        order = torch.randperm(rows, generator=generator(seed, "split", split.of))  # type: ignore[arg-type]
    if by is not None:
        labels = column(by)
        if labels is None or labels.ndim != 1:
            raise _no_column(split, by)
        order = _interleaved(order, labels.cpu())
    sizes = [part.rows.value for part in split.parts]
    fractions = [part.fraction for part in split.parts]
    known = [s for s in sizes if s is not None]
    lengths = known if len(known) == len(sizes) else counts(rows, fractions)
    found, start = {}, 0
    for part, length in zip(split.parts, lengths, strict=True):
        found[part.name] = order[start : start + length]
        start += length
    return found


def _no_column(split: Split, name: str) -> InputError:
    return InputError(
        report(
            "MLO0506",
            split.span,
            path=split.of,
            problem=f"has no column `{name}` of one number per row to stratify by",
        )
    )


def _interleaved(order: Tensor, labels: Tensor) -> Tensor:
    """The rows so ordered that every stretch has the mix of the whole: row k of the m with one
    label stands at (k + 1/2) / m of the way.
    """
    where = torch.empty(len(order), dtype=torch.float64)
    given = labels[order]
    for label in given.unique():
        places = (given == label).nonzero().flatten()
        where[places] = (torch.arange(len(places), dtype=torch.float64) + 0.5) / len(places)
    return order[torch.argsort(where, stable=True)]


def word(value: Value) -> str | None:
    """A bare word: `stratify = y`."""
    if isinstance(value, Call) and not value.positional and not value.named:
        return value.name
    if isinstance(value, Ref):
        return value.path
    return value if isinstance(value, str) else None


def corrupted(
    split: Split, found: Mapping[str, Tensor], columns: Columns, classes: int | None
) -> Columns:
    """The columns with the labels of one part changed. classes: of the labels, None: as many as
    there are.
    """
    call = dict(split.options).get("corrupt")
    if call is None:
        return columns
    part, fraction = _noise(call, split, found)
    rows = found[part]
    seed = dict(split.options).get("seed", 0)
    g = generator(seed, "corrupt", split.of, part)  # type: ignore[arg-type]
    if "y" not in columns or columns["y"].is_floating_point() or columns["y"].ndim != 1:
        problem = "has no column `y` of labels to corrupt"
        raise InputError(report("MLO0506", split.span, path=split.of, problem=problem))
    labels = columns["y"].clone()
    count = classes if classes is not None else int(labels.max()) + 1
    chosen = rows[torch.randperm(len(rows), generator=g)[: round(fraction * len(rows))]].to(
        labels.device
    )
    shift = torch.randint(1, max(count, 2), (len(chosen),), generator=g).to(labels.device)
    labels[chosen] = (labels[chosen] + shift) % count
    changed: Columns = {**columns, "y": labels}
    if "clean" in columns:
        clean = columns["clean"].clone()
        clean[chosen] = False
        changed["clean"] = clean
    return changed


def _noise(call: Value, split: Split, found: Mapping[str, Tensor]) -> tuple[str, float]:
    if isinstance(call, Call) and call.name == "labels" and len(call.positional) == 2:
        part, fraction = word(call.positional[0]), call.positional[1]
        if part in found and isinstance(fraction, int | float) and 0 <= fraction <= 1:
            return part, float(fraction)
    raise InputError(_bad_corrupt(split, list(found)))


def _bad_corrupt(split: Split, names: Sequence[str]):  # type: ignore[no-untyped-def]
    span: Span | None = split.span
    return report(
        "MLO0603",
        span,
        setting="corrupt",
        value="this",
        expected="`labels(part, fraction)`",
        notes=[f"parts: {', '.join(names)}; the fraction is in [0, 1]"],
    )


def standardized(columns: Columns, rows: Tensor | None) -> Columns:
    """x with mean 0 and standard deviation 1 in every column over these rows (all without); a
    constant column becomes 0.
    """
    x = columns["x"]
    seen = (x if rows is None else x[rows.to(x.device)]).double()
    mean, std = seen.mean(0), seen.std(0, correction=0)
    scaled = (x.double() - mean) / torch.where(std > 0, std, 1.0)
    return {**columns, "x": scaled.to(x.dtype)}


__all__ = ["Table", "corrupted", "parts", "standardized", "word"]
