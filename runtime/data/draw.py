"""Batches: which rows come next, and the columns of the current batch.

The order of epoch e is a function of the run's seed, the draw's name and e, so the state of a
sampler is two numbers, and a resumed run sees the same batches. Batches are always full: with
`drop_last = false` the rest of an epoch is filled up from the next one, otherwise it is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bettyc.diagnostics.registry import report
from bettyc.failures import InputError
from bettyc.model import Draw
from bettyc.runtime.data.load import Source
from bettyc.runtime.data.rows import Columns, Rows, Stream, Tasks
from bettyc.runtime.data.split import word
from bettyc.runtime.seeds import generator

Key = tuple[str, str]


class Sampler:
    """Row numbers, batch by batch: int64 (batch,) on the CPU."""

    def __init__(
        self, name: str, rows: Rows | Tasks, batch: int, seed: int, options: dict[str, Any]
    ) -> None:
        self.name = name
        self.rows = rows
        self.batch = batch
        self.seed = seed
        self.shuffle = bool(options.get("shuffle", False))
        self.drop_last = bool(options.get("drop_last", True))
        self.replace = bool(options.get("replace", False))
        self.weighted = options.get("weights")
        self.epoch = 0
        self.position = 0
        self._order: Tensor | None = None
        self._weights: Tensor | None = None

    def next(self) -> Tensor:
        if self.replace or self.weighted is not None:
            return self._drawn()
        order = self.order()
        left = self.rows.count - self.position
        if left < self.batch:
            head = order[self.position :] if not self.drop_last else order[:0]
            self._turn()
            taken = torch.cat([head, self.order()[: self.batch - len(head)]])
            self.position = self.batch - len(head)
            return taken
        taken = order[self.position : self.position + self.batch]
        self.position += self.batch
        return taken

    def order(self) -> Tensor:
        """The rows in the order of this epoch."""
        if self._order is None:
            count = self.rows.count
            self._order = (
                torch.arange(count)
                if not self.shuffle
                else torch.randperm(
                    count, generator=generator(self.seed, "batches", self.name, self.epoch)
                )
            )
        return self._order

    def seek(self, epoch: int, position: int) -> None:
        """Continue from there."""
        self.epoch, self.position, self._order = epoch, position, None

    def _turn(self) -> None:
        self.epoch += 1
        self.position = 0
        if self.shuffle:
            self._order = None

    def _drawn(self) -> Tensor:
        """With replacement; uniformly or by weight. Here `position` counts batches."""
        g = generator(self.seed, "batches", self.name, self.position)
        self.position += 1
        if self.weighted is None:
            return torch.randint(self.rows.count, (self.batch,), generator=g)
        return torch.multinomial(self.weights(), self.batch, replacement=True, generator=g)

    def weights(self) -> Tensor:
        """One weight per row: a column, or one over the number of rows of the same label
        (`balanced`).
        """
        if self._weights is None:
            name = word(self.weighted)
            columns = self.rows.whole()
            if name == "balanced":
                labels = columns["y"].cpu()
                counts = torch.bincount(labels)
                self._weights = 1.0 / counts[labels].double()
            elif name in columns:
                self._weights = columns[name].double().cpu()
            else:
                raise InputError(
                    report(
                        "MLO0506",
                        None,
                        path=self.name,
                        problem=f"has no column `{name}` of weights",
                    )
                )
        return self._weights


class Batches:
    """The current batch of one draw: `columns` by (draw, field), `index` among them where rows
    have numbers.

    It stays until `advance`; `spent` says that the level it is drawn for has used it.
    """

    def __init__(
        self,
        draw: Draw,
        source: Source | Callable[[int], Columns],
        batch: int | None,
        seed: int,
        device: torch.device,
    ) -> None:
        self.draw = draw
        self.source = source
        self.device = device
        self.count = 0
        self.spent = True
        self.columns: dict[Key, Tensor] = {}
        self.sampler: Sampler | None = None
        self.rows: Tensor | None = None
        if not callable(source) and not isinstance(source, Stream | Tasks) and batch is not None:
            self.sampler = Sampler(draw.name, source, batch, seed, dict(draw.options))

    @property
    def ready(self) -> bool:
        """Whether there is a batch."""
        return bool(self.columns)

    def advance(self) -> None:
        """Draw the next batch."""
        name = self.draw.name
        if self.sampler is not None:
            self.take(self.sampler.next())
        elif callable(self.source):
            self._set(self.source(self.count))
        elif isinstance(self.source, Stream):
            self._set(self.source.next())
        elif not isinstance(self.source, Tasks) and not self.columns:
            count = self.source.count
            self._set(self.source.whole())
            self.columns[name, "index"] = torch.arange(count, device=self.device)
        self.count += 1
        self.spent = False

    def take(self, rows: Tensor) -> None:
        """Make these rows the current batch."""
        assert self.sampler is not None
        self.rows = rows
        self._set(self.sampler.rows.fetch(rows))
        self.columns[self.draw.name, "index"] = rows.to(self.device)

    def _set(self, columns: Columns) -> None:
        self.columns = {(self.draw.name, field): column for field, column in columns.items()}

    def hold(self) -> tuple[Any, ...]:
        """What changes, for `put`; a stream is held apart."""
        place = (0, 0) if self.sampler is None else (self.sampler.epoch, self.sampler.position)
        return place, self.count, self.spent, self.columns, self.rows

    def put(self, held: tuple[Any, ...]) -> None:
        place, self.count, self.spent, self.columns, self.rows = held
        if self.sampler is not None:
            self.sampler.seek(*place)

    def state(self) -> dict[str, Any]:
        """Numbers and tensors from which `restore` continues with the same bits."""
        found: dict[str, Any] = {"count": self.count, "spent": self.spent}
        if self.sampler is not None:
            found |= {"epoch": self.sampler.epoch, "position": self.sampler.position}
            if self.rows is not None:
                found["rows"] = self.rows
        else:
            if isinstance(self.source, Stream):
                found |= {"epoch": self.source.epoch, "taken": self.source.taken}
            if isinstance(self.source, Stream) or callable(self.source):
                found |= {f"batch.{field}": value for (_, field), value in self.columns.items()}
        return found

    def restore(self, state: dict[str, Any]) -> None:
        self.count, self.spent = int(state["count"]), bool(state["spent"])
        if self.sampler is not None:
            self.sampler.seek(int(state["epoch"]), int(state["position"]))
            if "rows" in state:
                self.take(state["rows"].cpu())
            return
        if isinstance(self.source, Stream):
            self.source.seek(int(state["epoch"]), int(state["taken"]))
        held = {k.removeprefix("batch."): v for k, v in state.items() if k.startswith("batch.")}
        if held:
            self._set({field: value.to(self.device) for field, value in held.items()})
        elif not callable(self.source) and not isinstance(self.source, Stream) and self.count:
            count, self.columns = self.count, {}
            self.advance()
            self.count, self.spent = count, bool(state["spent"])
