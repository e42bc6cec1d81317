"""Batches from a loader, an iterable data set or a generator; rows have no numbers.

What the user's code draws at random is drawn under a seed that follows from the run's seed, the
epoch and how much was taken, so a resumed run that skips to the same place sees the same batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bettyc import types
from bettyc.diagnostics.registry import report
from bettyc.failures import InputError
from bettyc.runtime.data.check import Checker, as_tensor, flatten
from bettyc.runtime.data.rows import Columns, checked, collated, raised
from bettyc.runtime.randomness import every_generator
from bettyc.runtime.seeds import seed_of


@dataclass
class Stream:
    """`open` gives the iterator of an epoch; a stream that ends is opened again, unless it is
    `once` (a generator, which runs only once).

    samples: whether it gives single examples, put together here; otherwise it gives batches.
    taken: items since it was opened. generators: of the user's loader; their states at the start
    of the epoch are kept. epoch_of: told the number of each epoch, if the user's data set asks.
    """

    name: str
    open: Callable[[], Iterator[Any]]
    declared: types.Type
    checker: Checker
    device: torch.device
    seed: int = 0
    once: bool = False
    generators: tuple[torch.Generator, ...] = ()
    epoch_of: tuple[Callable[[int], Any], ...] = ()
    samples: bool | None = None  # known with the first item
    iterator: Iterator[Any] | None = None
    epoch: int = 0
    taken: int = 0
    started: list[Tensor] = field(default_factory=list)
    given: list[Columns] | None = None  # since `pause`
    again: list[Columns] = field(default_factory=list)

    def next(self, batch: int | None, drop_last: bool = True) -> Columns:
        """The next batch. batch: its size; needed where the stream gives single examples."""
        if self.again:
            columns = self.again.pop(0)
        else:
            columns = checked(
                self._batch(batch, drop_last), self.declared, self.checker, batch, self.device
            )
        if self.given is not None:
            self.given.append(columns)
        return columns

    def peek(self) -> Any:
        """The first item as the user's code gives it; this stream is then of no more use."""
        return self._item()

    def pause(self) -> Stream:
        """Remember what is given from here on, until `rewind`."""
        self.given = []
        return self

    def rewind(self) -> None:
        """Give it again."""
        self.again = [*(self.given or []), *self.again]
        self.given = None

    def _batch(self, batch: int | None, drop_last: bool) -> Any:
        first = self._item()
        if self.samples is None:
            self.samples = single(first, self.declared)
        if not self.samples:
            return first
        if batch is None:
            raise self._wrong("gives single examples, so a draw of it needs `batch`")
        items, epoch, whole = [first], self.epoch, self.taken == 1
        while len(items) < batch:
            items.append(self._item())
            if self.epoch != epoch and drop_last:
                if whole:
                    raise self._wrong(f"has {len(items) - 1} examples, a batch is {batch}")
                # what did not fill a batch is left out
                epoch, items, whole = self.epoch, items[-1:], True
        return collated(items)

    def _item(self) -> Any:
        for _ in range(2):
            if self.iterator is None:
                self._open()
            assert self.iterator is not None
            try:
                with every_generator(seed_of(self.seed, "item", self.name, self.epoch, self.taken)):
                    value = next(self.iterator)
            except StopIteration:
                if self.once and (self.taken or self.epoch):
                    raise self._exhausted() from None
                self.iterator, self.epoch = None, self.epoch + 1
                continue
            except Exception as error:
                # the user's loader: whatever it raises is shown as its own
                raise raised(self.name, error) from error
            self.taken += 1
            return value
        raise self._wrong("is empty")

    def _open(self) -> None:
        self.started = [g.get_state() for g in self.generators]
        for tell in self.epoch_of:
            tell(self.epoch)
        with every_generator(seed_of(self.seed, "epoch", self.name, self.epoch)):
            try:
                self.iterator = self.open()
            except Exception as error:
                # the user's loader: whatever it raises is shown as its own
                raise raised(self.name, error) from error
        self.taken = 0

    def _exhausted(self) -> InputError:
        words = "batches" if not self.samples else "examples"
        return self._wrong(
            f"is exhausted after {self.taken} {words}",
            "a generator runs only once: give a DataLoader, a data set, or a function that"
            " makes a new iterator",
        )

    def _wrong(self, problem: str, *notes: str) -> InputError:
        return InputError(
            report("MLO0511", self.checker.span, name=self.name, problem=problem, notes=notes)
        )

    def state(self) -> dict[str, Any]:
        """Numbers and tensors from which `seek` continues."""
        return {"epoch": self.epoch, "taken": self.taken, "started": list(self.started)}

    def seek(self, epoch: int, taken: int, started: list[Tensor] | None = None) -> None:
        """Skip to where a checkpoint was written."""
        if (self.epoch, self.taken) == (epoch, taken) and self.iterator is not None:
            return  # another draw of the same stream was here before
        self.epoch, self.iterator, self.taken = epoch, None, 0
        for generator, state in zip(self.generators, started or [], strict=False):
            generator.set_state(state.cpu())
        while self.taken < taken:
            self._item()
            if self.epoch != epoch:
                raise self._wrong(
                    f"gave {taken} items when the checkpoint was written, now it has fewer"
                )


def single(item: Any, declared: types.Type) -> bool:
    """Whether an item is one example: every column lacks its first axis."""
    try:
        parts = flatten(item, declared)
    except KeyError:
        return False  # `checked` says what is missing
    ranks = {name: len(t.shape) for name, t in types.tensors(declared)}
    found = {name: as_tensor(part) for name, part in parts.items()}
    return all(t is not None and t.ndim == ranks[name] - 1 for name, t in found.items())


__all__ = ["Stream", "single"]
