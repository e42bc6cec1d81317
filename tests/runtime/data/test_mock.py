"""Made-up data: what programs may count on."""

import torch

from bettyc import types
from bettyc.runtime.data.mock import value


def test_every_class_occurs_where_there_are_rows_enough() -> None:
    rows, classes = types.Dim((((), 31),)), types.Dim((((), 10),))
    made = value(types.Tensor("int", (rows,), labels=classes), torch.Generator().manual_seed(3))

    assert made.shape == (31,)
    assert sorted(torch.bincount(made).tolist()) == [3] * 9 + [4]
