"""Splits are disjoint, repeatable and of the promised sizes; noise stays in its part."""

from __future__ import annotations

import pytest
import torch

from bettyc.failures import InputError
from bettyc.model import Call, Part, Split
from bettyc.runtime.data import split as splitting
from bettyc.types import symbol


def split(*fractions: float, **options) -> Split:
    parts = tuple(Part(f"p{k}", f, symbol(f"p{k}.n")) for k, f in enumerate(fractions))
    return Split("all", parts, tuple(options.items()), None)


def no_column(name: str) -> None:
    return None


@pytest.mark.parametrize("rows", [7, 100, 569])
def test_parts_are_disjoint_and_repeatable(rows):
    found = splitting.parts(split(0.5, 0.25, 0.25, seed=3), rows, no_column)
    again = splitting.parts(split(0.5, 0.25, 0.25, seed=3), rows, no_column)
    other = splitting.parts(split(0.5, 0.25, 0.25, seed=4), rows, no_column)
    together = torch.cat(list(found.values()))

    assert sorted(together.tolist()) == list(range(rows))
    assert all(torch.equal(found[k], again[k]) for k in found)
    assert not torch.equal(found["p0"], other["p0"])
    assert abs(len(found["p0"]) - rows / 2) <= 0.5


def test_without_shuffling_rows_keep_their_order():
    found = splitting.parts(split(0.5, 0.5, shuffle=False), 10, no_column)

    assert found["p1"].tolist() == [5, 6, 7, 8, 9]


def test_stratified_parts_have_the_mix_of_the_whole():
    y = torch.tensor([0] * 80 + [1] * 20)
    found = splitting.parts(split(0.5, 0.3, 0.2, stratify=Call("y")), 100, {"y": y}.get)

    assert [int(y[rows].sum()) for rows in found.values()] == [10, 6, 4]
    assert sorted(torch.cat(list(found.values())).tolist()) == list(range(100))


def test_stratify_by_a_column_that_is_not_there():
    with pytest.raises(InputError, match="no column `z`"):
        splitting.parts(split(1.0, stratify=Call("z")), 3, {"y": torch.zeros(3)}.get)


def test_noise_stays_in_its_part_and_is_recorded():
    y = torch.arange(200) % 10
    columns = {"y": y, "clean": torch.ones(200, dtype=torch.bool)}
    noisy = split(0.5, 0.5, seed=0, corrupt=Call("labels", (Call("p0"), 0.4)))
    rows = splitting.parts(noisy, 200, columns.get)
    found = splitting.corrupted(noisy, rows, columns, 10)
    changed = found["y"] != y

    # every chosen label is replaced by another one, so the count is exact
    assert int(changed[rows["p0"]].sum()) == 40
    assert int(changed[rows["p1"]].sum()) == 0
    assert torch.equal(found["clean"], ~changed)
    assert found["y"].min() >= 0
    assert found["y"].max() <= 9
    assert torch.equal(y, torch.arange(200) % 10)


@pytest.mark.parametrize(
    "call", [Call("labels", (Call("nope"), 0.4)), Call("labels", (Call("p0"), 1.5)), Call("x")]
)
def test_noise_that_makes_no_sense(call):
    noisy = split(1.0, corrupt=call)
    with pytest.raises(InputError) as raised:
        splitting.corrupted(noisy, {"p0": torch.arange(3)}, {"y": torch.zeros(3)}, 2)

    assert raised.value.diagnostics[0].code == "MLO0603"


def test_standardized():
    g = torch.Generator().manual_seed(0)
    x = 3 + 5 * torch.randn(50, 4, generator=g, dtype=torch.float64)
    x[:, 2] = 7.0
    whole = splitting.standardized({"x": x}, None)["x"]
    by_part = splitting.standardized({"x": x}, torch.arange(10))["x"]

    torch.testing.assert_close(whole.mean(0), torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(whole.std(0, correction=0)[:2], torch.ones(2, dtype=torch.float64))
    assert torch.equal(whole[:, 2], torch.zeros(50, dtype=torch.float64))
    torch.testing.assert_close(by_part[:10].mean(0), torch.zeros(4, dtype=torch.float64))
