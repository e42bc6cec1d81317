"""Streams: single examples or batches, epochs, resuming, and streams that run out."""

from __future__ import annotations

import itertools

import pytest
import torch
from test_loading import PROGRAM, STREAM, X, Y, by_hand, epochs
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from toys import start

from bettyc.failures import InputError

# sizes that nothing but the stream tells
BATCHED = PROGRAM.replace(", shuffle = true", "")


class Examples(IterableDataset):
    """Single examples, as iterable data sets give them."""

    def __init__(self, count: int = 12) -> None:
        self.count = count

    def __iter__(self):
        yield from ((X[i % 12], Y[i % 12]) for i in range(self.count))


class Dicts(IterableDataset):
    def __iter__(self):
        yield from ({"y": Y[i].item(), "x": X[i].numpy(), "id": i} for i in range(12))


@pytest.mark.parametrize("data", [Examples(), Dicts()], ids=["tuples", "dicts"])
def test_examples_are_put_together_to_batches(data):
    run = start(BATCHED, {"all": data})
    run.to_end()

    torch.testing.assert_close(run["fit"].w, by_hand(epochs(6)))


def test_a_loader_tells_the_sizes():
    run = start(BATCHED, {"all": DataLoader(TensorDataset(X, Y), batch_size=4)})
    run.to_end()

    torch.testing.assert_close(run["fit"].w, by_hand(epochs(6)))


def test_the_rest_of_an_epoch_is_left_out_or_filled_up():
    """10 examples in batches of 4: two a round, or five in two rounds."""
    left = start(BATCHED, {"all": Examples(10)})
    left.to_end()
    text = BATCHED.replace("(batch = 4)", "(batch = 4, drop_last = false)")
    filled = start(text, {"all": Examples(10)})
    filled.to_end()
    rows = list(itertools.islice(itertools.cycle(range(10)), 24))

    torch.testing.assert_close(
        left["fit"].w, by_hand((X[a : a + 4], Y[a : a + 4]) for a in (0, 4) * 3)
    )
    torch.testing.assert_close(
        filled["fit"].w, by_hand((X[rows[a : a + 4]], Y[rows[a : a + 4]]) for a in range(0, 24, 4))
    )


def shuffled(seed: int | None):
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True, generator=generator)


@pytest.mark.parametrize("seed", [None, 3], ids=["no generator", "own generator"])
@pytest.mark.parametrize("after", [1, 3, 4])
def test_a_shuffled_loader_is_resumed_in_any_epoch(seed, after, tmp_path):
    whole, first, second = (start(STREAM, {"all": shuffled(seed)}) for _ in range(3))
    whole.to_end()
    for _ in range(after):
        first.step()
    first.save(tmp_path / "c")
    torch.manual_seed(99)  # of another process
    second.load(tmp_path / "c")
    second.to_end()

    assert torch.equal(whole["fit"].w, second["fit"].w)


def test_epochs_are_shuffled_anew():
    run = start(STREAM, {"all": shuffled(None)})
    seen = []
    for _ in run:
        seen.append(run.draws["fit.b"].columns["fit.b", "y"])
    first, second = torch.cat(seen[:3]), torch.cat(seen[3:])

    assert not torch.equal(first, second)
    torch.testing.assert_close(first.sort().values, second.sort().values)


class Told(Examples):
    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)


def test_a_data_set_is_told_its_epoch():
    data = Told()
    start(BATCHED, {"all": data}).to_end()

    assert data.epochs[-2:] == [0, 1]


def failure(data, text: str = BATCHED):
    with pytest.raises(InputError) as raised:
        start(text, {"all": data}).to_end()
    (found,) = raised.value.diagnostics
    return found


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda: Examples(0), "is empty"),
        (lambda: Examples(3), "has 3 examples, a batch is 4"),
        (lambda: DataLoader(TensorDataset(X[:0], Y[:0]), batch_size=4), "is empty"),
    ],
    ids=["empty", "shorter than a batch", "empty loader"],
)
def test_streams_that_have_too_little(data, words):
    found = failure(data(), BATCHED.replace("dim n, d", "dim n = 4, d = 3"))

    assert found.code == "MLO0511"
    assert words in found.message
    assert found.span is not None


def test_a_generator_that_is_used_up():
    found = failure(((X[:4], Y[:4]) for _ in range(3)), STREAM)

    assert found.code == "MLO0511"
    assert "is exhausted after 3 batches" in found.message
    assert "runs only once" in found.notes[0].text


def test_a_function_makes_a_new_iterator_for_every_epoch():
    class Again:
        def __iter__(self):
            return ((X[4 * k : 4 * k + 4], Y[4 * k : 4 * k + 4]) for k in range(3))

    run = start(STREAM, {"all": Again()})
    run.to_end()

    torch.testing.assert_close(run["fit"].w, by_hand(epochs(6)))


def test_a_stream_that_is_shorter_than_its_checkpoint(tmp_path):
    run, other = (start(BATCHED, {"all": Examples(count)}) for count in (12, 5))
    for _ in range(3):
        run.step()
    run.save(tmp_path / "c")
    with pytest.raises(InputError, match="gave 12 items when the checkpoint was written"):
        other.load(tmp_path / "c")


def test_rows_of_a_stream_have_no_numbers():
    text = BATCHED.replace("level fit {", "level fit {\n  var s : real[n] = zeros").replace(
        "- b.y)", "- b.y + s[b.index])"
    )
    found = failure(Examples(), text)

    assert found.code == "MLO0508"


def test_single_examples_without_a_size_of_the_batch():
    found = failure(Examples(), STREAM)

    assert "needs `batch`" in found.message
