"""The checked program: what the analyses hand to the graph, the planner and the runtime.

Everything here is plain data, JSON both ways (`bettyc.serial`); formulas are indices into one
expression graph. Nothing is a Python object of the user's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from bettyc.diagnostics.span import Span
from bettyc.types import Dim, Module, Record, Tensor


@dataclass(frozen=True)
class Call:
    """A named thing with arguments: `adam(lr = 0.1)`, `npz("x.npz")`; a bare word is a call
    without any.
    """

    name: str
    positional: tuple[Value, ...] = ()
    named: tuple[tuple[str, Value], ...] = ()

    def get(self, name: str, default: Value = None) -> Value:
        return dict(self.named).get(name, default)


@dataclass(frozen=True)
class Ref:
    """A variable, network or metric by its path: `meta.net`, `tune.loss`."""

    path: str


@dataclass(frozen=True)
class Formula:
    """A setting that is an expression of variables: `sgd(lr = tune.lr)`. `node` is in the
    program's graph.
    """

    node: int


Value: TypeAlias = "bool | int | float | str | tuple[Value, ...] | Call | Ref | Formula | None"


@dataclass(frozen=True)
class Variable:
    """A tensor that a level owns. A built-in network's parameters are variables named
    `net.0.weight`.

    domain: `positive`, `unit`, `interval(a, b)`, `simplex`, `ball(p, r)`, `box(a, b)` or None.
    initial: an initialiser of `bettyc.ops.initial` or a number.
    """

    name: str
    type: Tensor
    initial: Value
    domain: Call | None
    span: Span


@dataclass(frozen=True)
class Network:
    """A network that a level owns. A built-in one is expanded into variables and operators; one
    from Python (`extern` names its declaration) stays opaque and keeps its arguments, and so does
    one that torch.nn builds (`extern` is its built-in name).
    """

    name: str
    type: Module
    extern: str | None
    arguments: Call
    variables: tuple[str, ...]
    span: Span


@dataclass(frozen=True)
class Extern:
    """A Python object that a program names: kind is fn, module or source; origin is "pkg.mod:attr".

    `nondiff` lists the parameters through which no gradient flows (functions only).
    """

    kind: str
    name: str
    origin: str
    parameters: tuple[str, ...]
    span: Span


@dataclass(frozen=True)
class DataSet:
    """`data name : type from source`. `rows` is the dim shared by the leading axes, None for tasks.

    `source.name` is a built-in reader (npz, csv, sklearn, memory) or the name of an extern source.
    `samples` are the levels' variables that the source reads (`policy = actor.pi`): sampling edges.
    """

    name: str
    type: Record | Tensor
    source: Call
    rows: Dim | None
    samples: tuple[Ref, ...]
    span: Span


@dataclass(frozen=True)
class Part:
    name: str
    fraction: float
    rows: Dim


@dataclass(frozen=True)
class Split:
    """`split of into a = 0.5, b = 0.5 with (...)`: disjoint rows by construction."""

    of: str
    parts: tuple[Part, ...]
    options: tuple[tuple[str, Value], ...]
    span: Span


@dataclass(frozen=True)
class Draw:
    """A batch: `name` is `level.b`, or `b` for one that is shared. `type` includes `index` where
    rows are known.

    `of` is a data set or split, or a call of an extern source made anew for each batch (`source`).
    """

    name: str
    of: str
    options: tuple[tuple[str, Value], ...]
    type: Record | Tensor
    span: Span


@dataclass(frozen=True)
class Read:
    """One mention of another level's variable, with the place that makes an edge explainable.

    mode: "response" (`q*.v`), "value" (`q.v`); detached: inside `detach(...)`. copied: it is the
    `start = copy(q.v)` of a level, with the span of the call; it takes neither star nor `detach`.
    """

    level: str
    name: str
    mode: str
    detached: bool
    span: Span
    copied: bool = False


@dataclass(frozen=True)
class Setting:
    """A resolved setting. origin: default, file, profile NAME, config FILE, --set, or python."""

    path: str
    value: Value
    origin: str
    span: Span | None


@dataclass(frozen=True)
class Level:
    """A level. `task` is `(t, data set, batch)` of a `foreach` level.

    `objective` is a scalar node of the graph; `reads` are the mentions of other levels in it and in
    the settings that are formulas; `draws` are the draws that it uses, its own and the shared.
    """

    name: str
    sense: str  # "minimize" | "maximize"
    objective: int
    variables: tuple[Variable, ...]
    networks: tuple[Network, ...]
    draws: tuple[str, ...]
    reads: tuple[Read, ...]
    settings: tuple[Setting, ...]
    task: Draw | None
    span: Span
    objective_span: Span

    def setting(self, key: str) -> Value:
        return next((s.value for s in self.settings if s.path == f"{self.name}.{key}"), None)


@dataclass(frozen=True)
class Metric:
    name: str
    node: int
    span: Span


@dataclass(frozen=True)
class Model:
    """The whole program after names, types and hierarchy are resolved."""

    name: str
    dims: tuple[tuple[str, int | None], ...]
    params: tuple[Setting, ...]
    externs: tuple[Extern, ...]
    data: tuple[DataSet, ...]
    splits: tuple[Split, ...]
    draws: tuple[Draw, ...]
    levels: tuple[Level, ...]
    metrics: tuple[Metric, ...]
    run: tuple[Setting, ...]

    @cached_property
    def _by_name(self) -> dict[str, Level]:
        return {level.name: level for level in self.levels}

    def level(self, name: str) -> Level:
        """The level of a name. Raises KeyError when there is none."""
        return self._by_name[name]

    def setting(self, key: str) -> Value:
        """A setting of the run block."""
        return next((s.value for s in self.run if s.path == f"run.{key}"), None)
