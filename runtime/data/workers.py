"""Batches fetched ahead by worker processes: `draw b from train(batch = 64, workers = 4)`.

What a batch holds does not depend on who fetches it: rows and seed come with the order. So any
number of workers gives the same bits, and a resumed run begins anew at the place of its sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from bettyc.runtime.data.rows import Columns, Items, collated, raised
from bettyc.runtime.randomness import start_generators

# the number of a batch, its rows and the seed under which they are fetched
Order = tuple[int, list[int], int]


class Workers:
    """Fetches the batches that `orders(number)` lists from batch `number` on."""

    def __init__(
        self, items: Items, count: int, orders: Callable[[int], Iterator[Order]], pin: bool
    ) -> None:
        self.items = items
        self.count = count
        self.orders = orders
        self.pin = pin
        self._iterator: Iterator[Any] | None = None
        self._next = -1

    def fetch(self, number: int, rows: Tensor) -> Columns:
        """Batch `number`. The workers begin anew where it is not the one after the last."""
        self.items.check_length()
        if number != self._next or self._iterator is None:
            self._iterator = iter(self._loader(number))
        try:
            value = next(self._iterator)
        except Exception as error:
            # the user's data set: whatever it raises is shown as its own
            self._iterator = None
            raise raised(self.items.name, error) from error
        self._next = number + 1
        return self.items.batch(value, len(rows))

    def _loader(self, number: int) -> DataLoader[Any]:
        orders: Any = _Orders(lambda: self.orders(number))
        return DataLoader(
            _Fetched(self.items.dataset, self.items.name), sampler=orders, batch_size=None,
            num_workers=self.count, pin_memory=self.pin, collate_fn=_as_it_is,
        )  # fmt: skip


class _Orders(Sampler[Order]):
    """What the loader hands to its workers."""

    def __init__(self, orders: Callable[[], Iterator[Order]]) -> None:
        self.orders = orders

    def __iter__(self) -> Iterator[Order]:
        return self.orders()


class _Fetched(Dataset[Any]):
    """The user's data set inside a worker: an order in, a collated batch out."""

    def __init__(self, dataset: Any, name: str) -> None:
        self.dataset = dataset
        self.name = name

    def __getitem__(self, order: Order) -> Any:
        _, rows, seed = order
        start_generators(seed)  # the process is ours, nothing has to be put back
        if hasattr(self.dataset, "__getitems__"):
            items = self.dataset.__getitems__(rows)
        else:
            items = [self.dataset[i] for i in rows]
        return collated(items)


def _as_it_is(value: Any) -> Any:
    return value
