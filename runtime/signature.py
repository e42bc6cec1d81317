"""What a layer takes: the variables of the levels above, and the columns of data that are read.

Names are paths, `tune.decay` and `fit.b.x`; the end of a path will do where it is the only one.
Networks and mappings stand for all that is in them: `net=module`, `b={"x": x, "y": y}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bettyc import types
from bettyc.diagnostics.registry import report
from bettyc.diagnostics.suggest import closest
from bettyc.expr import Node
from bettyc.failures import InputError
from bettyc.runtime.domains import free
from bettyc.runtime.feed import Given
from bettyc.runtime.layout import Slot, concrete, plainly
from bettyc.runtime.link import Linked
from bettyc.sources import shown


@dataclass(frozen=True)
class Variable:
    """A variable of a level above. lead: (replicas,) of a `foreach` level, else empty."""

    level: str
    slot: Slot
    lead: tuple[int, ...]

    @property
    def path(self) -> str:
        return f"{self.level}.{self.slot.name}"

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.lead, *self.slot.shape)


@dataclass(frozen=True)
class Column:
    """A column of a data set, a split or a batch; of the tasks of a `foreach` level, stacked.

    owner: the data set, the draw, or the level whose tasks they are; label: how users name that.
    """

    owner: str
    field: str
    label: str
    type: types.Tensor
    shape: tuple[int, ...]
    of_tasks: bool

    @property
    def path(self) -> str:
        return f"{self.label}.{self.field}" if self.field else self.label


@dataclass(frozen=True)
class Inputs:
    """What one call was given, checked. flat: the free variables of each level above, with the
    gradient of what they came from. columns: tensors by column.
    """

    flat: Mapping[str, Tensor]
    columns: Mapping[Column, Tensor]

    def given(self) -> Given:
        """The columns, without gradients, as feeds take them."""
        columns = {(c.owner, c.field): x.detach() for c, x in self._of(False)}
        tasks: dict[str, list[dict[str, Tensor]]] = {}
        for column, x in self._of(True):
            rows = tasks.setdefault(column.owner, [{} for _ in range(len(x))])
            for row, value in zip(rows, x.detach().unbind(), strict=True):
                row[column.field] = value
        return columns, {level: tuple(rows) for level, rows in tasks.items()}

    def _of(self, tasks: bool) -> Iterator[tuple[Column, Tensor]]:
        return ((c, x) for c, x in self.columns.items() if c.of_tasks == tasks)


class Signature:
    """The inputs of a layer. variables: all must be given. columns: of one owner all or none."""

    def __init__(
        self, name: str, variables: Iterable[Variable], columns: Iterable[Column], linked: Linked
    ) -> None:
        self.name = name
        self.variables = {v.path: v for v in variables}
        self.columns = {c.path: c for c in columns}
        self._linked = linked
        self._owners = {c.label for c in self.columns.values()}

    def read(self, values: Mapping[str, Any]) -> Inputs:
        """Raises InputError: MLO0210 for a name that is none, MLO0507 for what does not fit."""
        found = self._found(values)
        columns = {c: found[p] for p, c in self.columns.items() if p in found}
        owners = {c.label for c in columns}
        for path, column in self.columns.items():
            if column.label in owners and path not in found:
                raise self._wrong(path, "is not given", column.type)
        for column, x in columns.items():
            self._check(column.path, x, column.type, column.shape)
        parts: dict[str, list[Tensor]] = {}
        for path, variable in self.variables.items():
            parts.setdefault(variable.level, []).append(self._free(path, variable, found))
        flat = {level: torch.cat(pieces, -1) for level, pieces in parts.items()}
        return Inputs(flat, {c: self._cast(c, x) for c, x in columns.items()})

    def _found(self, values: Mapping[str, Any]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, value in _leaves(values):
            path = self._path(name)
            if path is None:
                continue
            if not isinstance(value, Tensor):
                raise self._wrong(path, f"is a {type(value).__name__}", "a tensor")
            if path in found:
                raise InputError(report("MLO0204", None, name=path))
            found[path] = value
        return found

    def _path(self, name: str) -> str | None:
        """The whole path of a name; None for a field of a batch that is not read."""
        known = {**self.variables, **self.columns}
        if name in known:
            return name
        found = [path for path in known if path.endswith(f".{name}")]
        if len(found) == 1:
            return found[0]
        if not found and any(_within(name, owner) for owner in self._owners):
            return None
        near = closest(name, [*known, *(p.partition(".")[2] for p in known)])
        notes = [f"did you mean `{near[0]}`?"] if near else []
        notes.append(f"it takes {', '.join(known)}")
        if found:
            notes = [f"there are {' and '.join(found)}: write the whole path"]
        raise InputError(report("MLO0210", None, function=self.name, name=name, notes=notes))

    def _free(self, path: str, variable: Variable, found: Mapping[str, Tensor]) -> Tensor:
        """The free coordinates of a variable, flat."""
        real = types.Tensor("real", tuple(map(types.number, variable.shape)))
        if path not in found:
            raise self._wrong(path, "is not given", real)
        self._check(path, found[path], real, variable.shape)
        try:
            u = free(variable.slot.domain, found[path])
        except ValueError as error:
            problem = str(error).replace("initial value", "holds").replace(" is ", ", ")
            raise self._wrong(path, problem, real) from None
        return u.reshape(*variable.lead, -1)

    def _check(self, path: str, x: Tensor, type_: types.Tensor, shape: tuple[int, ...]) -> None:
        linked = self._linked
        if tuple(x.shape) != shape:
            raise self._wrong(path, f"has shape {shown(x.shape)}", shown(shape))
        word = str(x.dtype).removeprefix("torch.")
        if type_.kind == "real" and x.dtype != linked.dtype:
            wanted = str(linked.dtype).removeprefix("torch.")
            raise self._wrong(
                path, f"is {word}", wanted, "`layer.to(dtype)` changes what a layer computes in"
            )
        if type_.kind != "real" and (x.is_floating_point() or x.is_complex()):
            raise self._wrong(path, f"is {word}", type_)
        if x.device.type != linked.device.type or linked.device.index not in (None, x.device.index):
            raise self._wrong(
                path, f"is on {x.device}", f"on {linked.device}", "`layer.to(device)` moves a layer"
            )
        if x.is_floating_point() and not bool(torch.isfinite(x.detach()).all()):
            raise self._wrong(path, "holds numbers that are not finite", type_)
        if type_.labels is not None and type_.kind == "int" and x.numel():
            count, low, high = type_.labels.value, int(x.min()), int(x.max())
            if low < 0 or (count is not None and high >= count):
                raise self._wrong(path, f"holds {low if low < 0 else high}", type_)

    def _cast(self, column: Column, x: Tensor) -> Tensor:
        return x.to(torch.int64) if column.type.kind == "int" else x

    def _wrong(self, path: str, problem: str, declared: object, *notes: str) -> InputError:
        return InputError(
            report("MLO0507", None, column=path, found=problem, declared=declared, notes=notes)
        )


def variables(linked: Linked, level: str, lead: tuple[int, ...]) -> Iterator[Variable]:
    """What a level above contributes: its variables that are not frozen."""
    for slot in linked.layouts[level].slots:
        if slot.trainable:
            yield Variable(level, slot, lead)


def column(linked: Linked, node: Node, replicas: int | None) -> Column:
    """The column that a leaf of a formula stands for. replicas: of a level whose task it is."""
    named = dict(node.attrs)
    owner = named.get("data") or named.get("draw") or named["level"]
    sizes = {name: types.number(size) for name, size in linked.sizes.items()}
    type_ = types.bind(node.type, sizes)
    assert isinstance(type_, types.Tensor)
    label = owner
    if node.op == "task":
        task = linked.level(owner).task
        assert task is not None
        label = f"{owner}.{task.name.rpartition('.')[2]}"
    lead = () if node.op != "task" else (replicas or 1,)
    shape = (*lead, *concrete(type_.shape))
    return Column(owner, named.get("field") or "", label, type_, shape, node.op == "task")


def _leaves(values: Mapping[str, Any], head: str = "") -> Iterator[tuple[str, Any]]:
    """Tensors by dotted name, out of mappings and networks."""
    for key, value in values.items():
        name = f"{head}.{key}" if head else str(key)
        if isinstance(value, Mapping):
            yield from _leaves(value, name)
        elif isinstance(value, nn.Module):
            yield from ((f"{name}.{plainly(n)}", p) for n, p in value.named_parameters())
        else:
            yield name, value


def _within(name: str, owner: str) -> bool:
    return name.startswith((f"{owner}.", f"{owner.rpartition('.')[2]}."))
