"""What Python callers may hand over, and what is said when it is wrong."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from toys import parts, start

import bettyc
from bettyc.api import MloError
from bettyc.failures import CallbackError, InputError

PROGRAM = """
mlo 0.1
dim n, d
data all : { x: real[n, d], y: real[n] } from memory()
level fit {
  var w : real[d] = zeros
  draw b from all(batch = 4, shuffle = true)
  minimize mean((b.x @ w - b.y)^2)
  optimizer = sgd(lr = 0.1)
}
run { steps = 6 }
"""
# the batch axis of a stream is declared, since nothing else tells it
STREAM = PROGRAM.replace("dim n, d", "dim n = 4, d = 3").replace("(batch = 4, shuffle = true)", "")

X = torch.arange(36.0).reshape(12, 3) / 36
Y = X.sum(1)


class Items(Dataset):
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int):
        return X[i], Y[i]


class Named(Items):
    def __getitem__(self, i: int):
        return {"y": Y[i], "x": X[i].numpy(), "extra": 3}


Pair = collections.namedtuple("Pair", "x y")


class Frame:
    """Columns by name, as data frames and Hugging Face data sets have them."""

    column_names = ("x", "y")

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, name: str):
        return {"x": X.tolist(), "y": Y.numpy()}[name]


SAME = {
    "dict of tensors": {"x": X, "y": Y},
    "dict of arrays": {"x": X.numpy(), "y": Y.numpy()},
    "dict of lists": {"x": X.tolist(), "y": Y.tolist()},
    "tuple": (X, Y),
    "named tuple": Pair(X, Y),
    "TensorDataset": TensorDataset(X, Y),
    "data set of tuples": Items(),
    "data set of dicts": Named(),
    "columns by name": Frame(),
    "double precision": {"x": X.double().numpy(), "y": Y.double()},
}


@pytest.mark.parametrize("kind", SAME)
def test_the_same_rows_in_any_container(kind):
    expected = start(PROGRAM, {"all": SAME["dict of tensors"]})
    run = start(PROGRAM, {"all": SAME[kind]})
    expected.to_end()
    run.to_end()

    torch.testing.assert_close(run["fit"].w, expected["fit"].w)
    assert float(run["fit"].w.norm()) > 0


def by_hand(batches) -> torch.Tensor:
    w = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([w], lr=0.1)
    for x, y in batches:
        optimizer.zero_grad()
        torch.mean((x @ w - y) ** 2.0).backward()
        optimizer.step()
    return w.detach()


def epochs(count: int):
    for k in range(count):
        yield X[4 * (k % 3) : 4 * (k % 3) + 4], Y[4 * (k % 3) : 4 * (k % 3) + 4]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_gives_its_own_batches_again_and_again(workers):
    loader = DataLoader(Items(), batch_size=4, num_workers=workers)
    run = start(STREAM, {"all": loader})
    run.to_end()

    torch.testing.assert_close(run["fit"].w, by_hand(epochs(6)))


def test_a_resumed_stream_goes_on_where_it_was(tmp_path):
    loader = DataLoader(Items(), batch_size=4)
    whole, first, second = (start(STREAM, {"all": loader}) for _ in range(3))
    whole.to_end()
    for _ in range(4):
        first.step()
    first.save(tmp_path / "c")
    second.load(tmp_path / "c")
    second.to_end()

    assert torch.equal(whole["fit"].w, second["fit"].w)


class Counted(IterableDataset):
    def __iter__(self):
        yield from ((X[i], Y[i]) for i in range(12))


def test_an_iterable_data_set_through_a_loader():
    run = start(STREAM, {"all": DataLoader(Counted(), batch_size=4)})
    run.to_end()

    torch.testing.assert_close(run["fit"].w, by_hand(epochs(6)))


class Growing(Items):
    length = 12

    def __len__(self) -> int:
        return self.length


class Raising(Items):
    def __getitem__(self, i: int):
        if i == 7:
            raise RuntimeError("disk on fire")
        return super().__getitem__(i)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_that_raises_is_named(workers):
    with pytest.raises(CallbackError, match=r"`all` raised RuntimeError.*disk on fire"):
        start(STREAM, {"all": DataLoader(Raising(), batch_size=4, num_workers=workers)}).to_end()
    if not workers:
        with pytest.raises(CallbackError, match="disk on fire"):
            start(PROGRAM, {"all": Raising()}).to_end()


def test_a_data_set_that_changes_its_length():
    data = Growing()
    run = start(PROGRAM, {"all": data})
    run.step()
    data.length = 13
    with pytest.raises(InputError, match="now has 13 rows instead of 12"):
        run.to_end()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"x": X}, "no column `y`"),
        ({"x": X, "y": Y[:5]}, "has shape 5"),
        ({"x": X, "y": [None] * 12}, "y"),
        ({"x": torch.zeros(0, 3), "y": torch.zeros(0)}, "is empty"),
        (DataLoader(Counted(), batch_size=3), "has shape 3"),
        (3.5, "float"),
        ({"x": X.clone().fill_(float("nan")), "y": Y}, "nan in row 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_does_not_fit(value, words):
    program = STREAM if isinstance(value, DataLoader) else PROGRAM
    with pytest.raises((InputError, MloError), match=words):
        start(program, {"all": value}).to_end()


def test_an_empty_loader():
    with pytest.raises(InputError, match="is empty"):
        start(STREAM, {"all": DataLoader(TensorDataset(X[:0], Y[:0]), batch_size=4)}).to_end()


def test_no_data_at_all():
    with pytest.raises(MloError):
        start(PROGRAM)


def test_a_name_that_the_program_does_not_have():
    with pytest.raises((InputError, MloError), match="no data set"):
        start(PROGRAM, {"all": (X, Y), "al": (X, Y)})


def test_later_writes_of_the_caller_do_not_reach_the_run():
    x = X.numpy().copy()
    run = start(PROGRAM, {"all": {"x": x, "y": Y.numpy()}})
    x[:] = np.nan

    assert torch.isfinite(parts(run, "all")["x"]).all()


def test_columns_without_a_common_length_are_one_record():
    text = """
    dim n, m
    data two : { x: real[n], y: real[m] } from memory()
    level l { var w : real = 0  minimize mean((two.x - w)^2) + mean((two.y - w)^2) }
    run { steps = 1 }
    """
    run = bettyc.loads(text).compile({"two": {"x": np.ones(3), "y": np.full(5, 3.0)}}).start()
    run.to_end()

    assert float(run["l"].w) == pytest.approx(2, abs=1e-5)
