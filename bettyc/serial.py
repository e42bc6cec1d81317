"""Frozen dataclasses and named tuples to JSON values and back.

An object becomes `{"is": "ClassName", field: value, ...}`, a tuple a list. Only the classes
listed in `_classes` can come back, so a file can name nothing else.
"""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from typing import Any


def encode(value: Any) -> Any:
    """A JSON value. Raises TypeError for what has no place in a plan."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"is": "float", "value": repr(value)}
    kind: Any = type(value)
    names = _fields(kind)
    if names is not None:
        return {"is": type(value).__name__, **{n: encode(getattr(value, n)) for n in names}}
    if isinstance(value, tuple | list):
        return [encode(v) for v in value]
    raise TypeError(f"a {type(value).__name__} cannot be written to a plan")


def decode(expected: type, raw: Any) -> Any:
    """The object that `encode` wrote. Raises ValueError when it is not an `expected`."""
    value = _decode(raw)
    if not isinstance(value, expected):
        raise ValueError(f"expected a {expected.__name__}")
    return value


def _decode(raw: Any) -> Any:
    if isinstance(raw, list):
        return tuple(_decode(v) for v in raw)
    if not isinstance(raw, dict):
        return raw
    name = raw.get("is")
    if name == "float":
        return float(raw["value"])
    cls = _classes().get(name) if isinstance(name, str) else None
    if cls is None:
        raise ValueError(f"unknown object {name!r}")
    names = _fields(cls) or ()
    if set(raw) - {"is"} != set(names):
        raise ValueError(f"a {name} with the wrong fields: {sorted(set(raw) ^ {'is', *names})}")
    return cls(**{n: _decode(raw[n]) for n in names})


@cache
def _fields(cls: Any) -> tuple[str, ...] | None:
    if isinstance(cls, type) and dataclasses.is_dataclass(cls):
        return tuple(f.name for f in dataclasses.fields(cls))
    return getattr(cls, "_fields", None)


@cache
def _classes() -> dict[str, type]:
    from bettyc import expr, model, plan, types
    from bettyc.diagnostics import span

    found = [
        types.Dim,
        types.Tensor,
        types.Record,
        types.Module,
        types.Text,
        expr.Node,
        span.Span,
        model.Call,
        model.Ref,
        model.Formula,
        model.Variable,
        model.Network,
        model.Extern,
        model.DataSet,
        model.Part,
        model.Split,
        model.Draw,
        model.Read,
        model.Setting,
        model.Level,
        model.Metric,
        model.Model,
        plan.Edge,
        plan.Pull,
        plan.Start,
        plan.Step,
        plan.Solve,
        plan.Repeat,
        plan.Candidate,
        plan.Captured,
        plan.Kernel,
        plan.LevelPlan,
        plan.Cost,
        plan.Plan,
    ]
    return {cls.__name__: cls for cls in found}
