"""Values against declared types: kinds, shapes, label ranges, numbers that are not finite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bettyc import types
from bettyc.diagnostics.registry import report
from bettyc.diagnostics.span import Span
from bettyc.failures import InputError
from bettyc.sources import Found, mismatch, shown


class Checker:
    """Checks the columns of one data set, and binds the dims that nothing has bound yet.

    sizes: dims known so far; grows. dtype: of `real`.
    """

    def __init__(
        self, name: str, sizes: dict[str, int], dtype: torch.dtype, span: Span | None
    ) -> None:
        self.name = name
        self.sizes = sizes
        self.dtype = dtype
        self.span = span

    def column(
        self, field: str, declared: types.Tensor, value: Any, lead: int | None = None
    ) -> Tensor:
        """The value as a tensor of the declared kind. lead: the number of rows it must have,
        where it is a batch or a part of the declared rows.

        Raises InputError with MLO0507.
        """
        label = f"{self.name}.{field}" if field else self.name
        tensor = as_tensor(value)
        if tensor is None:
            raise self._wrong(label, f"is a {type(value).__name__}", declared)
        known = {k: types.number(v) for k, v in self.sizes.items()}
        bound = types.bind(declared, known)
        assert isinstance(bound, types.Tensor)
        if lead is not None:
            bound = types.Tensor(bound.kind, (types.number(lead), *bound.shape[1:]), bound.labels)
        problem = mismatch(bound, Found(tuple(tensor.shape), _kind(tensor), _word(tensor)))
        if problem:
            raise self._wrong(label, problem, bound)
        for dim, size in zip(bound.shape, tensor.shape, strict=True):
            self._bind(label, dim, size, bound)
        return self._values(label, bound, tensor)

    def _bind(self, label: str, dim: types.Dim, size: int, declared: types.Tensor) -> None:
        """A dim that is one name gets this size; any other dim must come out as it."""
        if dim.value is not None:
            return
        if len(dim.names) == 1 and dim == types.symbol(next(iter(dim.names))):
            self.sizes[next(iter(dim.names))] = size
            return
        value = dim.bind({k: types.number(v) for k, v in self.sizes.items()}).value
        if value is not None and value != size:
            raise self._wrong(label, f"has an axis of {size}, not {value}", declared)

    def _values(self, label: str, declared: types.Tensor, tensor: Tensor) -> Tensor:
        if declared.kind == "real":
            result = tensor.to(self.dtype)
            bad = ~torch.isfinite(result)
            if bool(bad.any()):
                at = bad.nonzero()[0].tolist()
                seen = tensor[tuple(at)].item()
                raise self._wrong(label, f"holds {seen} in {_place(at)}", declared)
            return result
        if declared.kind == "int":
            result = tensor.to(torch.int64)
            count = None if declared.labels is None else declared.labels.value
            if count is not None:
                bad = (result < 0) | (result >= count)
                if bool(bad.any()):
                    at = bad.nonzero()[0].tolist()
                    raise self._wrong(
                        label, f"holds {result[tuple(at)].item()} in {_place(at)}", declared
                    )
            return result
        return tensor

    def _wrong(self, label: str, problem: str, declared: types.Type) -> InputError:
        return InputError(
            report("MLO0507", self.span, column=label, found=problem, declared=declared)
        )


def as_tensor(value: Any) -> Tensor | None:
    """A tensor from a tensor, an array, a data frame's columns or numbers; None from anything
    else.
    """
    if isinstance(value, Tensor):
        return value.detach()
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        return None
    if array.dtype.kind not in "fiub":
        return None
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    # an own copy: later writes of the caller do not reach it
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C", copy=True))


def _kind(tensor: Tensor) -> str:
    if tensor.dtype == torch.bool:
        return "bool"
    return "real" if tensor.is_floating_point() else "int"


def _word(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _place(at: list[int]) -> str:
    if not at:
        return "its only entry"
    return f"row {at[0]}" + (f", column {', '.join(map(str, at[1:]))}" if len(at) > 1 else "")


def flatten(value: Any, declared: types.Type, path: str = "") -> Mapping[str, Any]:
    """The parts of a nested container by dotted field name: dicts and objects by key, tuples in
    order.

    Raises KeyError naming the field that is not there.
    """
    if not isinstance(declared, types.Record):
        return {path: value}
    found: dict[str, Any] = {}
    for position, (name, type_) in enumerate(declared.fields):
        inner = f"{path}.{name}" if path else name
        if isinstance(value, list | tuple):
            if position >= len(value):
                raise KeyError(inner)
            part = value[position]
        elif hasattr(value, "keys") or hasattr(value, "column_names") or hasattr(value, "columns"):
            names = getattr(value, "column_names", None)
            keys = names if names is not None else list(value.keys())
            if name not in keys:
                raise KeyError(inner)
            part = value[name]
        elif hasattr(value, name):
            part = getattr(value, name)
        else:
            raise KeyError(inner)
        found |= flatten(part, type_, inner)
    return found


__all__ = ["Checker", "as_tensor", "flatten", "shown"]
