"""Worker processes change nothing but the time: rows, random augmentation, resuming, messages."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from toys import start

from bettyc.failures import CallbackError, InputError

PROGRAM = """
mlo 0.1
dim n, d
data all : { x: real[n, d], y: real[n] } from memory()
split all into train = 0.8, val = 0.2 with (seed = 0)
level fit {
  var w : real[d] = zeros
  draw b from train(batch = 4, shuffle = true, workers = WORKERS)
  draw other from train(batch = 2, weights = y, workers = WORKERS)
  minimize mean((b.x @ w - b.y)^2) + 0.1 * mean((other.x @ w - other.y)^2)
           + 0.01 * sum(exp(tune.decay) * w^2)
  optimizer = sgd(lr = 0.1)
  steps = 3
  hypergrad = one_step
}
level tune {
  var decay : real = 0
  draw v from val(batch = 3, shuffle = true, workers = WORKERS)
  minimize mean((v.x @ fit*.w - v.y)^2)
  optimizer = sgd(lr = 0.1)
}
run { steps = 4 }
"""


class Augmented(Dataset):
    """Every look at a row draws from all three generators."""

    def __len__(self) -> int:
        return 30

    def __getitem__(self, i: int):
        noise = torch.rand(()) + random.random() + np.random.rand()
        return {"x": torch.tensor([i, 1.0, 2.0]) / 30 + noise, "y": i / 30}


class Raising(Augmented):
    def __getitem__(self, i: int):
        if i == 7:
            raise RuntimeError("disk on fire")
        return super().__getitem__(i)


def run_with(workers: int, dataset: Dataset | None = None):
    text = PROGRAM.replace("WORKERS", str(workers))
    return start(text, {"all": dataset or Augmented()})


def final(run) -> list[torch.Tensor]:
    return [run["fit"].w, run["tune"].decay]


def test_workers_and_none_have_the_same_bits():
    """Two draws of one level among them; whatever else draws from the generators meanwhile."""
    runs = [run_with(workers) for workers in (0, 2)]
    for k, run in enumerate(runs):
        torch.manual_seed(k)
        np.random.seed(k)
        run.to_end()

    assert all(torch.equal(a, b) for a, b in zip(*map(final, runs), strict=True))


def test_augmentation_leaves_the_user_s_generators_alone():
    run = run_with(0)
    torch.manual_seed(5)
    before = torch.get_rng_state(), random.getstate()
    run.to_end()

    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 1), (1, 0)])
def test_resumed_in_the_middle_of_a_period(first, second, tmp_path):
    from bettyc.runtime.execute import Stopped

    whole = run_with(0)
    whole.to_end()
    begun, goes_on = run_with(first), run_with(second)
    begun.step()
    begun.interrupt()
    with pytest.raises(Stopped):
        begun.step()
    if first == second:
        begun.save(tmp_path / "c")
        goes_on.load(tmp_path / "c")
    else:
        # the number of workers is part of the program, so its checkpoint is another program's
        begun.save(tmp_path / "c")
        with pytest.raises(InputError, match="another program"):
            goes_on.load(tmp_path / "c")
        return
    goes_on.to_end()

    assert all(torch.equal(a, b) for a, b in zip(final(whole), final(goes_on), strict=True))


def test_a_hypergradient_that_looks_ahead_gives_the_batches_back():
    plain, looked = run_with(1), run_with(1)
    plain.to_end()
    looked.step()
    looked.hypergrad("tune")
    looked.to_end()

    assert all(torch.equal(a, b) for a, b in zip(final(plain), final(looked), strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_worker_that_raises_is_named(workers):
    with pytest.raises(CallbackError, match=r"`all` raised RuntimeError.*disk on fire"):
        run_with(workers, Raising()).to_end()


class Ragged(Augmented):
    def __getitem__(self, i: int):
        return {"x": torch.zeros(3 + i % 2), "y": 0.0}


@pytest.mark.parametrize("workers", [0, 1])
def test_rows_of_several_shapes(workers):
    with pytest.raises(CallbackError, match="`all` raised RuntimeError"):
        run_with(workers, Ragged()).to_end()


class Shrinking(Augmented):
    count = 30

    def __len__(self) -> int:
        return self.count


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_that_changes_its_length(workers):
    data = Shrinking()
    run = run_with(workers, data)
    run.step()
    data.count = 29
    with pytest.raises(InputError, match="now has 29 rows instead of 30") as raised:
        run.to_end()

    assert raised.value.diagnostics[0].code == "MLO0511"
    assert raised.value.diagnostics[0].span is not None


def test_memory_is_pinned_for_a_gpu_only():
    from bettyc.model import Draw
    from bettyc.runtime.data.draw import Batches
    from bettyc.types import REAL

    source = run_with(0).sources["train"]
    draw = Draw("b", "train", (("workers", 2),), REAL, None)
    pinned = [
        Batches(draw, source, 4, 0, torch.device(kind)).workers.pin for kind in ("cpu", "cuda")
    ]

    assert pinned == [False, True]


SHARED = """
mlo 0.1
dim n, d
data all : { x: real[n, d], y: real[n] } from memory()
draw b from all(batch = 4, shuffle = true, workers = WORKERS)
level fit {
  var w : real[d] = zeros
  minimize mean((b.x @ w - b.y)^2) + 0.01 * sum(exp(tune.decay) * w^2)
  optimizer = sgd(lr = 0.1)
  steps = 3
  hypergrad = one_step
}
level tune {
  var decay : real = 0
  minimize mean(abs(b.x @ fit*.w - b.y))
  optimizer = sgd(lr = 0.1)
}
run { steps = 4 }
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shared_batch_is_fetched_again_with_its_own_augmentation(workers, tmp_path):
    """Stopped while the batch is still in use: the resumed run makes the same one anew."""
    from bettyc.runtime.execute import Stopped

    text = SHARED.replace("WORKERS", str(workers))
    whole, begun, goes_on = (start(text, {"all": Augmented()}) for _ in range(3))
    whole.to_end()
    begun.step()
    begun.interrupt()
    with pytest.raises(Stopped):
        begun.step()
    begun.save(tmp_path / "c")
    goes_on.load(tmp_path / "c")
    goes_on.to_end()

    assert all(torch.equal(a, b) for a, b in zip(final(whole), final(goes_on), strict=True))
