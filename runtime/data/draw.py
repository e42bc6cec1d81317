"""Batches: which rows come next, and the columns of the current batch.

The order of epoch e is a function of the run's seed, the draw's name and e, so the state of a
sampler is two numbers, and a resumed run sees the same batches. Batches are always full: with
`drop_last = false` the rest of an epoch is filled up from the next one, otherwise it is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from bettyc.diagnostics.registry import report
from bettyc.diagnostics.span import Span
from bettyc.failures import InputError
from bettyc.model import Draw
from bettyc.runtime.data.load import Source
from bettyc.runtime.data.rows import Columns, Rows, Tasks
from bettyc.runtime.data.split import word
from bettyc.runtime.data.stream import Stream
from bettyc.runtime.data.workers import Order, Workers
from bettyc.runtime.seeds import generator, seed_of

Key = tuple[str, str]
# Rows up to which torch.multinomial can choose.
MULTINOMIAL = 1 << 24


class Sampler:
    """Row numbers, batch by batch: int64 (batch,) on the CPU."""

    def __init__(
        self,
        name: str,
        rows: Rows | Tasks,
        batch: int,
        seed: int,
        options: dict[str, Any],
        span: Span | None = None,
    ) -> None:
        self.name = name
        self.options = options
        self.span = span
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
        weights = self.weights()
        if len(weights) <= MULTINOMIAL:
            return torch.multinomial(weights, self.batch, replacement=True, generator=g)
        edges = weights.cumsum(0)
        at = torch.rand(self.batch, generator=g, dtype=torch.float64) * edges[-1]
        return torch.searchsorted(edges, at, right=True).clamp(max=len(edges) - 1)

    def weights(self) -> Tensor:
        """One weight per row: a column, or one over the number of rows of the same label
        (`balanced`). Raises InputError for a column that cannot be weights or labels.
        """
        if self._weights is None:
            self._weights = self._found_weights(word(self.weighted) or "")
        return self._weights

    def _found_weights(self, name: str) -> Tensor:
        balanced = name == "balanced"
        column = self.rows.column("y" if balanced else name)  # type: ignore[union-attr]
        if column is None:
            what = "column `y` of labels" if balanced else f"column `{name}` of weights"
            raise self._unfit("MLO0506", path=self.name, problem=f"has no {what}")
        column = column.cpu()
        if column.ndim != 1:
            raise self._unfit(
                "MLO0507", column=name, found="has several entries per row", declared="one number"
            )
        if not balanced:
            found = column.double()
            if bool((found < 0).any()) or not bool(found.sum() > 0):
                raise self._unfit(
                    "MLO0507",
                    column=name,
                    found="holds negative weights or none above 0",
                    declared="weights",
                )
            return found
        if column.is_floating_point():
            raise self._unfit(
                "MLO0507", column="y", found="is real", declared="labels (weights = balanced)"
            )
        counts = torch.bincount(column.long())
        return 1.0 / counts[column.long()].double()

    def _unfit(self, code: str, **values: Any) -> InputError:
        return InputError(report(code, self.span, **values))

    def copy(self) -> Sampler:
        """One that goes on from here on its own."""
        other = Sampler(self.name, self.rows, self.batch, self.seed, self.options, self.span)
        other.seek(self.epoch, self.position)
        other._weights = self._weights
        return other


class Batches:
    """The current batch of one draw: `columns` by (draw, field), `index` among them where rows
    have numbers.

    It stays until `advance`; `spent` says that the level it is drawn for has used it; `watched`
    that only metrics read it.
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
        self.seed = seed
        self.size = batch
        self.count = 0
        self.spent = True
        self.watched = False
        self.columns: dict[Key, Tensor] = {}
        self.sampler: Sampler | None = None
        self.workers: Workers | None = None
        self.rows: Tensor | None = None
        options = dict(draw.options)
        self.drop_last = bool(options.get("drop_last", True))
        if not callable(source) and not isinstance(source, Stream | Tasks) and batch is not None:
            self.sampler = Sampler(draw.name, source, batch, seed, options, draw.span)
            self.workers = self._workers(source, options.get("workers"))

    def _workers(self, source: Rows, count: Any) -> Workers | None:
        """Processes that fetch ahead, where Python fetches row by row; page-locked for a GPU."""
        found = source.items(torch.arange(0)) if count else None
        if found is None:
            return None
        return Workers(found[0], int(count), self._ahead, self.device.type == "cuda")

    def _ahead(self, number: int) -> Iterator[Order]:
        """The orders from batch `number` on, which the sampler has just drawn."""
        assert self.sampler is not None
        assert self.rows is not None
        sampler, rows = self.sampler.copy(), self.rows
        while True:
            found = sampler.rows.items(rows)  # type: ignore[union-attr]
            assert found is not None
            yield number, found[1].tolist(), self._seed(number)
            number, rows = number + 1, sampler.next()

    def _seed(self, number: int) -> int:
        """Of what the user's data set draws at random for batch `number`."""
        return seed_of(self.seed, "items", self.draw.name, number)

    @property
    def ready(self) -> bool:
        """Whether there is a batch."""
        return bool(self.columns)

    @property
    def epoch(self) -> int:
        """The epoch that the batch at hand belongs to."""
        if isinstance(self.source, Stream):
            return self.source.epoch
        return 0 if self.sampler is None else self.sampler.epoch

    def advance(self) -> None:
        """Draw the next batch."""
        name = self.draw.name
        if self.sampler is not None:
            self.rows = self.sampler.next()
            self._take(self.count)
        elif callable(self.source):
            self._set(self.source(self.count))
        elif isinstance(self.source, Stream):
            self._set(self.source.next(self.size, self.drop_last))
        elif not isinstance(self.source, Tasks) and not self.columns:
            count = self.source.count
            self._set(self.source.whole())
            self.columns[name, "index"] = torch.arange(count, device=self.device)
        self.count += 1
        self.spent = False

    def another(self, number: int) -> dict[Key, Tensor]:
        """What a source that samples could have given in place of the batch at hand: one for each
        number, drawn with the variables as they are now.
        """
        assert callable(self.source)
        columns = self.source(seed_of("another", self.count, number))
        return {(self.draw.name, field): column for field, column in columns.items()}

    def _take(self, number: int) -> None:
        """Fetch the rows at hand, as batch `number`."""
        assert self.sampler is not None
        assert self.rows is not None
        if self.workers is not None:
            columns = self.workers.fetch(number, self.rows)
        else:
            columns = self.sampler.rows.fetch(self.rows, self._seed(number))  # type: ignore[union-attr]
        self._set(columns)
        self.columns[self.draw.name, "index"] = self.rows.to(self.device)

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
                found["stream"] = self.source.state()
            if isinstance(self.source, Stream) or callable(self.source):
                found |= {f"batch.{field}": value for (_, field), value in self.columns.items()}
        return found

    def restore(self, state: dict[str, Any]) -> None:
        self.count, self.spent = int(state["count"]), bool(state["spent"])
        if self.sampler is not None:
            self.sampler.seek(int(state["epoch"]), int(state["position"]))
            if "rows" in state:
                self.rows = state["rows"].cpu()
                self._take(self.count - 1)
            return
        if isinstance(self.source, Stream):
            at = state["stream"]
            self.source.seek(int(at["epoch"]), int(at["taken"]), at["started"])
        held = {k.removeprefix("batch."): v for k, v in state.items() if k.startswith("batch.")}
        if held:
            self._set({field: value.to(self.device) for field, value in held.items()})
        elif not callable(self.source) and not isinstance(self.source, Stream) and self.count:
            count, self.columns = self.count, {}
            self.advance()
            self.count, self.spent = count, bool(state["spent"])
