"""Where rows come from: a table in memory, a torch data set, a stream, or a collection of tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from bettyc import types
from bettyc.diagnostics.registry import report
from bettyc.failures import CallbackError, InputError
from bettyc.runtime.data.check import Checker, flatten

Columns = dict[str, Tensor]


class Rows(Protocol):
    """Rows with stable numbers. `count` of them."""

    count: int

    def fetch(self, rows: Tensor) -> Columns:
        """The columns of these rows, int64 (batch,), on the run's device."""
        ...

    def whole(self) -> Columns:
        """All columns of all rows."""
        ...


@dataclass
class Table:
    """Columns in memory, on the run's device."""

    columns: Columns
    count: int

    def fetch(self, rows: Tensor) -> Columns:
        first = next(iter(self.columns.values()))
        at = rows.to(first.device)
        return {name: column.index_select(0, at) for name, column in self.columns.items()}

    def whole(self) -> Columns:
        return self.columns


@dataclass
class Part:
    """Some rows of another collection, in a fixed order. Kept whole once asked for."""

    of: Rows
    rows: Tensor
    cached: Columns | None = None

    @property
    def count(self) -> int:
        return len(self.rows)

    def fetch(self, rows: Tensor) -> Columns:
        if self.cached is not None:
            return Table(self.cached, self.count).fetch(rows)
        return self.of.fetch(self.rows[rows])

    def whole(self) -> Columns:
        if self.cached is None:
            self.cached = self.of.fetch(self.rows)
        return self.cached


@dataclass
class Items:
    """A torch data set with `__len__` and `__getitem__`; items are put together by torch's own
    collate.
    """

    name: str
    dataset: Any
    count: int
    declared: types.Type
    checker: Checker
    device: torch.device

    def fetch(self, rows: Tensor) -> Columns:
        if len(self.dataset) != self.count:
            found = f"now has {len(self.dataset)} rows instead of {self.count}"
            raise InputError(
                report(
                    "MLO0507",
                    self.checker.span,
                    column=self.name,
                    found=found,
                    declared=self.declared,
                )
            )
        try:
            items = [self.dataset[int(i)] for i in rows]
        except Exception as error:
            # the user's data set: whatever it raises is shown as its own
            raise _raised(self.name, error) from error
        return checked(
            torch.utils.data.default_collate(items),
            self.declared,
            self.checker,
            len(rows),
            self.device,
        )

    def whole(self) -> Columns:
        return self.fetch(torch.arange(self.count))


def _raised(name: str, error: Exception) -> CallbackError:
    """What the user's data set raised; out of a worker of torch's loader its text ends with the
    cause.
    """
    text = f"{type(error).__name__}: {error}"
    if "Original Traceback" in text:
        text = f"{text.strip().splitlines()[-1]} (in a worker of its loader)"
    return CallbackError(f"data set `{name}` raised {text}")


def checked(
    value: Any, declared: types.Type, checker: Checker, lead: int | None, device: torch.device
) -> Columns:
    """A container of values as checked columns on the device. Raises InputError (MLO0506,
    MLO0507).
    """
    try:
        parts = flatten(value, declared)
    except KeyError as error:
        raise InputError(
            report(
                "MLO0506",
                checker.span,
                path=checker.name,
                problem=f"has no column `{error.args[0]}`",
            )
        ) from error
    kinds = dict(types.tensors(declared))
    return {
        name: checker.column(name, kinds[name], part, lead).to(device)
        for name, part in parts.items()
    }


@dataclass
class Stream:
    """Batches from a loader, an iterable data set or a generator; rows have no numbers.

    `open` gives a fresh iterator; a stream that ends is opened again. `taken` counts batches
    since it was opened, so that a resumed run can skip to where it was.
    """

    name: str
    open: Callable[[], Iterator[Any]]
    declared: types.Type
    checker: Checker
    device: torch.device
    batch: int | None
    iterator: Iterator[Any] | None = None
    epoch: int = 0
    taken: int = 0
    given: list[Columns] | None = None  # since `pause`
    again: list[Columns] = field(default_factory=list)

    def next(self) -> Columns:
        if self.again:
            columns = self.again.pop(0)
        else:
            columns = checked(self._raw(), self.declared, self.checker, self.batch, self.device)
        if self.given is not None:
            self.given.append(columns)
        return columns

    def pause(self) -> Stream:
        """Remember what is given from here on, until `rewind`."""
        self.given = []
        return self

    def rewind(self) -> None:
        """Give it again."""
        self.again = [*(self.given or []), *self.again]
        self.given = None

    def _raw(self) -> Any:
        for _ in range(2):
            if self.iterator is None:
                self.iterator, self.taken = self.open(), 0
            try:
                value = next(self.iterator)
            except StopIteration:
                self.iterator, self.epoch = None, self.epoch + 1
                continue
            except Exception as error:
                # the user's loader: whatever it raises is shown as its own
                raise _raised(self.name, error) from error
            self.taken += 1
            return value
        raise InputError(report("MLO0506", self.checker.span, path=self.name, problem="is empty"))

    def seek(self, epoch: int, taken: int) -> None:
        """Skip to where a checkpoint was written."""
        self.epoch = epoch
        self.iterator = self.open()
        self.taken = 0
        while self.taken < taken:
            self._raw()


@dataclass
class Tasks:
    """A collection of tasks; each is a record of tensors."""

    name: str
    items: Sequence[Any]
    declared: types.Type
    checker: Checker
    device: torch.device

    @property
    def count(self) -> int:
        return len(self.items)

    def task(self, i: int) -> Columns:
        try:
            item = self.items[i]
        except Exception as error:
            # the user's task source: whatever it raises is shown as its own
            raise _raised(self.name, error) from error
        return checked(item, self.declared, self.checker, None, self.device)
