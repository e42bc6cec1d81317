"""Batches: every row once an epoch, one order for one seed, indices that name the rows."""

from __future__ import annotations

import pytest
import torch

from bettyc.model import Draw
from bettyc.runtime.data.draw import Batches, Sampler
from bettyc.runtime.data.rows import Table
from bettyc.types import REAL

TABLE = Table({"x": torch.arange(10.0) * 10, "y": torch.tensor([0] * 9 + [1])}, 10)


def sampler(batch: int = 3, seed: int = 0, **options) -> Sampler:
    return Sampler("b", TABLE, batch, seed, options)


def test_an_epoch_has_every_row_once():
    s = sampler(batch=5, shuffle=True)
    epochs = [torch.cat([s.next(), s.next()]).tolist() for _ in range(3)]

    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_the_rest_of_an_epoch_is_left_out():
    s = sampler(batch=4)

    assert [s.next().tolist() for _ in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]]


def test_or_filled_up_from_the_next():
    s = sampler(batch=4, drop_last=False)

    assert [s.next().tolist() for _ in range(4)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 0, 1],
        [2, 3, 4, 5],
    ]


@pytest.mark.parametrize(
    "options", [{}, {"shuffle": True}, {"replace": True}, {"weights": "balanced"}]
)
def test_resumed_samplers_continue(options):
    whole, first, second = sampler(**options), sampler(**options), sampler(**options)
    expected = [whole.next().tolist() for _ in range(9)]
    found = [first.next().tolist() for _ in range(4)]
    second.seek(first.epoch, first.position)
    found += [second.next().tolist() for _ in range(5)]

    assert found == expected


def test_seeds_and_names_tell_draws_apart():
    orders = [sampler(10, seed, shuffle=True).next().tolist() for seed in (0, 1)]
    other = Sampler("c", TABLE, 10, 0, {"shuffle": True}).next().tolist()

    assert orders[0] != orders[1]
    assert orders[0] != other


def test_balanced_draws_see_rare_labels_as_often():
    s = sampler(batch=5000, weights="balanced")
    share = TABLE.columns["y"][s.next()].double().mean()

    # a fair coin: 5 standard deviations are 0.035
    assert abs(float(share) - 0.5) < 0.036


def test_columns_belong_to_the_index():
    draw = Draw("fit.b", "train", (("shuffle", True),), REAL, None)
    batches = Batches(draw, TABLE, 4, 0, torch.device("cpu"))
    batches.advance()

    assert torch.equal(batches.columns["fit.b", "x"], batches.columns["fit.b", "index"] * 10.0)


def test_without_a_size_the_batch_is_everything():
    batches = Batches(Draw("b", "train", (), REAL, None), TABLE, None, 0, torch.device("cpu"))
    batches.advance()

    assert batches.columns["b", "index"].tolist() == list(range(10))
    assert batches.columns["b", "x"] is TABLE.columns["x"]
