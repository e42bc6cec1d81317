"""Slices of a flat tensor as parts of one split: the same values, gaps and scalars included."""

from __future__ import annotations

import pytest
import torch

from bettyc.runtime.pieces import split

SIZES = {"fit": 10, "tune.inner": 4}


def values(texts: list[str], split_first: bool) -> list[torch.Tensor]:
    theta = {name: torch.arange(float(size)) + 100 for name, size in SIZES.items()}
    lines, parts = split(texts, SIZES) if split_first else ([], texts)
    names = {"theta": theta, "torch": torch}
    exec("\n".join(lines), names)
    return [eval(part, names) for part in parts]


@pytest.mark.parametrize(
    "texts",
    [
        ['theta["fit"][2:8].view(2, 3)', 'torch.exp(theta["fit"][9])', 'theta["fit"][1:2]'],
        ['theta["fit"][0:4]', 'theta["fit"][4:10].view(6, 1)', 'theta["tune.inner"][0:2]'],
        ['theta["tune.inner"][3]', 'theta["tune.inner"][0:2]'],
    ],
)
def test_parts_are_the_slices(texts):
    for found, expected in zip(values(texts, True), values(texts, False), strict=True):
        torch.testing.assert_close(found, expected)


def test_one_slice_and_overlapping_slices_stay():
    one = ['theta["fit"][2:8]', 'theta["tune.inner"]']
    over = ['theta["fit"][2:8]', 'theta["fit"][0:4]']

    assert split(one, SIZES) == ([], one)
    assert split(over, SIZES) == ([], over)


def test_a_slice_read_twice_is_one_part():
    lines, parts = split(['theta["fit"][0:4]', 'theta["fit"][4:10]', 'theta["fit"][0:4]'], SIZES)

    assert lines == ['fit_0, fit_4 = theta["fit"].split([4, 6])']
    assert parts == ["fit_0", "fit_4", "fit_0"]
