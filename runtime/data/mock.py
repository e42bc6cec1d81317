"""Made-up data of the declared types: what `--mock` runs a program on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bettyc import types
from bettyc.model import Model

TASKS = 64  # tasks that a collection for `foreach` has
UNKNOWN = 8  # size of a dim that nothing gives a size
COUNT = 10  # values of an int without labels


def mocked(model: Model, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values for every data set, and stand-ins for every source from Python.

    Reals are standard normal, truth values uniform, labels of all classes about equally often. The
    dims of `model` are bound, as in a plan. The results are the `data` and `externs` of a run; the
    same seed gives the same values.
    """
    draw = torch.Generator().manual_seed(seed)
    drawn = {d.name for d in model.draws}
    tasks = {level.task.of for level in model.levels if level.task is not None}
    data: dict[str, Any] = {}
    externs = {e.name: _source(None) for e in model.externs if e.kind == "source"}
    for declared in model.data:
        if declared.samples or declared.name in drawn:
            externs[declared.source.name] = _source(declared.type)
        elif declared.name in tasks:
            data[declared.name] = [value(declared.type, draw) for _ in range(TASKS)]
        else:
            data[declared.name] = value(declared.type, draw)
    return data, externs


def _source(type_: types.Type | None) -> Callable[..., Any]:
    """A source that makes a new batch at every call, whatever it is called with. Its numbers are
    torch's own, which a run seeds for each batch: a batch drawn again is the same.
    """

    def source(*positional: Any, **named: Any) -> Any:
        return value(type_, None) if type_ is not None else None

    return source


def value(type_: types.Type, draw: torch.Generator | None) -> Any:
    """A tensor, or a dict of them for a record."""
    if isinstance(type_, types.Record):
        return {name: value(inner, draw) for name, inner in type_.fields}
    assert isinstance(type_, types.Tensor)
    return _tensor(type_, draw)


def _tensor(type_: types.Tensor, draw: torch.Generator | None) -> Tensor:
    shape = [UNKNOWN if d.value is None else d.value for d in type_.shape]
    if type_.kind == "real":
        return torch.randn(shape, generator=draw)
    if type_.kind == "bool":
        return torch.rand(shape, generator=draw) < 0.5
    labels = type_.labels.value if type_.labels is not None else None
    if labels is None:
        return torch.randint(COUNT, shape, generator=draw)
    count = math.prod(shape)
    # Every class occurs if there are rows enough: programs divide by how often.
    return (torch.randperm(count, generator=draw) % labels).view(shape)
