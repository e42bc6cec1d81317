"""Batches: every row once an epoch, one order for one seed, indices that name the rows."""

from __future__ import annotations

import pytest
import torch
from toys import parts, start

from bettyc.api import MloError
from bettyc.failures import InputError
from bettyc.model import Call, Draw
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


@pytest.mark.parametrize("rows", [10, 1 << 12])
def test_rows_are_drawn_in_proportion_to_a_column(rows, monkeypatch):
    """By torch.multinomial, and by the sums that take its place for very many rows."""
    from bettyc.runtime.data import draw

    monkeypatch.setattr(draw, "MULTINOMIAL", 100)
    weights = torch.arange(rows) % 4 * 1.0
    table = Table({"x": torch.zeros(rows), "w": weights}, rows)
    taken = Sampler("b", table, 20_000, 0, {"weights": Call("w")}).next()
    share = torch.bincount(weights[taken].long(), minlength=4) / 20_000
    present = torch.bincount(weights.long()) * torch.arange(4.0)

    # 5 standard deviations of a share are below 0.018
    torch.testing.assert_close(share, present / present.sum(), rtol=0, atol=0.018)
    assert share[0] == 0


@pytest.mark.parametrize(
    ("weights", "columns", "code", "words"),
    [
        ("z", {}, "MLO0506", "no column `z` of weights"),
        ("w", {"w": torch.tensor([-1.0] + [1.0] * 9)}, "MLO0507", "negative weights"),
        ("w", {"w": torch.zeros(10)}, "MLO0507", "none above 0"),
        ("w", {"w": torch.ones(10, 2)}, "MLO0507", "several entries per row"),
        ("balanced", {"y": torch.zeros(10)}, "MLO0507", "`y` is real"),
        ("balanced", {"x": torch.zeros(10)}, "MLO0506", "no column `y` of labels"),
    ],
)
def test_columns_that_cannot_be_weights(weights, columns, code, words):
    s = Sampler("b", Table(columns, 10), 3, 0, {"weights": Call(weights)})
    with pytest.raises(InputError, match=words) as raised:
        s.next()

    assert raised.value.diagnostics[0].code == code


NESTED = """
mlo 0.1
dim n, d
data all : { a: { x: real[n, d], m: bool[n] }, y: real[n] } from memory()
split all into train = 0.5, val = 0.5 with (seed = 1)
level fit {
  var w : real[d] = zeros
  var s : real[train] = zeros
  draw b from train(batch = 2, shuffle = true)
  minimize mean(real(b.a.m) * (b.a.x @ w + s[b.index] - b.y)^2)
  optimizer = sgd(lr = 0.1)
}
metric error = mean((val.a.x @ fit.w - val.y)^2)
run { steps = 5 }
"""


class Rows(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, i: int):
        return {"a": {"x": torch.tensor([i, 1.0]), "m": i % 2 == 0}, "y": float(i)}


def test_nested_records_have_rows_too():
    """In memory, nested tuples, and row by row: the same batches."""
    x, y = torch.tensor([[i, 1.0] for i in range(12)]), torch.arange(12.0)
    odd = torch.arange(12) % 2 == 0
    runs = [
        start(NESTED, {"all": data})
        for data in ({"a": {"x": x, "m": odd}, "y": y}, ((x, odd), y), Rows())
    ]
    for run in runs:
        run.to_end()

    assert torch.equal(parts(runs[0], "train")["a.x"][:, 0], parts(runs[0], "train")["y"])
    for run in runs[1:]:
        assert torch.equal(run["fit"].w, runs[0]["fit"].w)
        assert torch.equal(run["fit"].s, runs[0]["fit"].s)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("corrupt = labels(train, 0.5)", "labels cannot be corrupted"),
        ("stratify = z", "no column `z`"),
    ],
)
def test_splits_that_a_data_set_row_by_row_cannot_have(option, words):
    text = NESTED.replace("seed = 1", option)
    with pytest.raises((InputError, MloError), match=words):
        start(text, {"all": Rows()})


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("shuffle = 3", "`true` or `false`"),
        ("workers = -1", "a whole number of at least 0"),
        ("workers = true", "a whole number of at least 0"),
        ("weights = 2", "`balanced` or a column"),
    ],
)
def test_options_of_a_draw_are_checked(option, expected):
    text = NESTED.replace("shuffle = true", option)
    with pytest.raises(MloError, match="MLO0603") as raised:
        start(text, {"all": Rows()})

    assert expected in raised.value.diagnostics[0].message
