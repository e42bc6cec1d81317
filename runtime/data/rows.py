"""Where rows come from: a table in memory, a torch data set, or a collection of tasks.

Rows of a data set in Python are fetched under a seed that the caller gives, so that random
augmentation does not depend on who fetches them, nor on what was fetched before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from bettyc import types
from bettyc.diagnostics.registry import report
from bettyc.failures import CallbackError, InputError
from bettyc.runtime.data.check import Checker, as_tensor, flatten
from bettyc.runtime.randomness import every_generator

Columns = dict[str, Tensor]


class Rows(Protocol):
    """Rows with stable numbers. `count` of them."""

    count: int

    def fetch(self, rows: Tensor, seed: int = 0) -> Columns:
        """The columns of these rows, int64 (batch,), on the run's device. seed: of what the
        user's data set draws at random.
        """
        ...

    def whole(self) -> Columns:
        """All columns of all rows."""
        ...

    def column(self, name: str) -> Tensor | None:
        """One column of all rows, None where there is none of the name."""
        ...

    def items(self, rows: Tensor) -> tuple[Items, Tensor] | None:
        """The data set in Python that these rows are fetched from, and their numbers in it; None
        where they lie in memory.
        """
        ...


@dataclass
class Table:
    """Columns in memory, on the run's device."""

    columns: Columns
    count: int

    def fetch(self, rows: Tensor, seed: int = 0) -> Columns:
        first = next(iter(self.columns.values()))
        at = rows.to(first.device)
        return {name: column.index_select(0, at) for name, column in self.columns.items()}

    def whole(self) -> Columns:
        return self.columns

    def column(self, name: str) -> Tensor | None:
        return self.columns.get(name)

    def items(self, rows: Tensor) -> None:
        return None


@dataclass
class Part:
    """Some rows of another collection, in a fixed order. Kept whole once asked for."""

    of: Rows
    rows: Tensor
    cached: Columns | None = None

    @property
    def count(self) -> int:
        return len(self.rows)

    def fetch(self, rows: Tensor, seed: int = 0) -> Columns:
        if self.cached is not None and self.items(rows) is None:
            return Table(self.cached, self.count).fetch(rows)
        return self.of.fetch(self.rows[rows], seed)

    def whole(self) -> Columns:
        if self.cached is None:
            self.cached = self.of.fetch(self.rows)
        return self.cached

    def column(self, name: str) -> Tensor | None:
        found = self.of.column(name)
        return None if found is None else found[self.rows.to(found.device)]

    def items(self, rows: Tensor) -> tuple[Items, Tensor] | None:
        return self.of.items(self.rows[rows])


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

    def fetch(self, rows: Tensor, seed: int = 0) -> Columns:
        self.check_length()
        with every_generator(seed):
            value = self.raw(rows.tolist())
        return self.batch(value, len(rows))

    def check_length(self) -> None:
        """Raises InputError (MLO0511) for a data set that has changed its length."""
        if len(self.dataset) != self.count:
            raise InputError(
                report(
                    "MLO0511",
                    self.checker.span,
                    name=self.name,
                    problem=f"now has {len(self.dataset)} rows instead of {self.count}",
                )
            )

    def raw(self, rows: list[int]) -> Any:
        """The user's items put together, in whatever container they come. Raises CallbackError."""
        try:
            if hasattr(self.dataset, "__getitems__"):
                items = self.dataset.__getitems__(rows)
            else:
                items = [self.dataset[i] for i in rows]
            return collated(items)
        except Exception as error:
            # the user's data set: whatever it raises is shown as its own
            raise raised(self.name, error) from error

    def batch(self, value: Any, count: int) -> Columns:
        """What `raw` gave, checked and on the device."""
        return checked(value, self.declared, self.checker, count, self.device)

    def whole(self) -> Columns:
        return self.fetch(torch.arange(self.count))

    def column(self, name: str) -> Tensor | None:
        # a data set of ours may know some columns without fetching anything
        cheap: dict[str, Tensor] = getattr(self.dataset, "cheap", {})
        return cheap[name] if name in cheap else self.whole().get(name)

    def items(self, rows: Tensor) -> tuple[Items, Tensor]:
        return self, rows


def collated(items: Sequence[Any]) -> Any:
    """Examples put together by torch's own collate. Lists of numbers inside an example are one
    row of a column, which torch would take for columns.
    """
    return torch.utils.data.default_collate([_rows_of_numbers(item) for item in items])


def _rows_of_numbers(item: Any) -> Any:
    if isinstance(item, dict):
        return {k: _row(v) for k, v in item.items()}
    if isinstance(item, list) or type(item) is tuple:
        return tuple(map(_row, item))
    return item


def _row(value: Any) -> Any:
    if isinstance(value, list) and _numbers(value):
        return torch.tensor(value)
    return _rows_of_numbers(value)


def _numbers(value: list[Any]) -> bool:
    return all(_numbers(v) if isinstance(v, list) else isinstance(v, int | float) for v in value)


def raised(name: str, error: Exception) -> CallbackError | InputError:
    """What the user's data set raised; out of a worker of torch's loader its text ends with the
    cause. Diagnostics of our own data sets stay what they are.
    """
    if isinstance(error, InputError | CallbackError):
        return error
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
        name: checker.column(name, kinds[name], part, lead).to(device, non_blocking=True)
        for name, part in parts.items()
    }


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

    def fetch(self, rows: Sequence[int], seeds: Sequence[int]) -> tuple[Columns, ...]:
        """The tasks of these numbers. seeds: of what the user's source draws at random, by task."""
        items = [self._item(i, seed) for i, seed in zip(rows, seeds, strict=True)]
        found = self._together(items)
        if found is not None:
            return found
        return tuple(
            checked(item, self.declared, self.checker, None, self.device) for item in items
        )

    def _item(self, i: int, seed: int) -> Any:
        if isinstance(self.items, list | tuple):
            return self.items[i]  # runs no code of the user's
        try:
            with every_generator(seed):
                return self.items[i]
        except Exception as error:
            # the user's task source: whatever it raises is shown as its own
            raise raised(self.name, error) from error

    def _together(self, items: Sequence[Any]) -> tuple[Columns, ...] | None:
        """Checked with a first axis of tasks, which takes as long as one of them; None where that
        cannot be: then they are looked at one by one, and what is wrong is found there.
        """
        columns: dict[str, tuple[Tensor, ...]] = {}
        try:
            parts = [flatten(item, self.declared) for item in items]
            for name, kind in types.tensors(self.declared):
                values = [as_tensor(part[name]) for part in parts]
                if any(v is None or v.dtype != values[0].dtype for v in values):  # type: ignore[union-attr]
                    return None
                wide = (types.number(len(items)), *kind.shape)
                declared = types.Tensor(kind.kind, wide, kind.labels)
                stacked = self.checker.column(name, declared, torch.stack(values))  # type: ignore[arg-type]
                columns[name] = stacked.to(self.device, non_blocking=True).unbind()
        except (KeyError, RuntimeError, InputError):
            return None
        return tuple({n: c[k] for n, c in columns.items()} for k in range(len(items)))
