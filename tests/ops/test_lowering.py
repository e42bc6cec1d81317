"""Every row: its shape rule agrees with torch, and its lowering with a reference."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from operator_cases import CASES, DTYPES, Case, apply, compiled, names_of, sample, sizes

from bettyc.expr import Graph
from bettyc.ops import FUNCTIONS, OPAQUE, OPS
from bettyc.types import Tensor, bind, number

SEEDS = (0, 1, 2)
# Made by the calculus, by the elaborator or with a state of their own; tested where they are made.
ELSEWHERE = {*OPAQUE, "mask", "reshape", "expand", "size", "scatter", "narrow", "pad", "dropout"}


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("seed", SEEDS)
def test_value_and_type(case: Case, seed: int) -> None:
    graph = Graph()
    root, _ = apply(graph, case)
    values = sample(case, seed)
    found = compiled(graph, [root], names_of(case))(*values)
    expected = case.reference(*values)
    type_ = bind(graph[root].type, {k: number(v) for k, v in sizes(seed).items()})
    assert isinstance(type_, Tensor)
    assert list(found.shape) == [d.value for d in type_.shape]
    assert found.dtype == DTYPES[type_.kind]
    torch.testing.assert_close(found, expected.to(found.dtype), rtol=1e-10, atol=1e-10)
    if type_.labels is not None:
        assert found.max() < type_.labels.value


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    """Functions without operands take the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_every_row_has_a_case() -> None:
    covered = {case.op for case in CASES}
    assert sorted((OPS.keys() | FUNCTIONS.keys()) - covered - ELSEWHERE) == []


def test_every_row_is_documented() -> None:
    for row in (*OPS.values(), *FUNCTIONS.values()):
        assert row.doc.endswith("."), row.name
        assert len(row.doc) <= 100, row.name
        assert (row.smooth == "piecewise") <= bool(row.kinks or row.expand), row.name


def test_signatures() -> None:
    assert FUNCTIONS["clip"].signature == "clip(x, lo, hi)"
    assert FUNCTIONS["softmax"].signature == "softmax(x, axis = -1)"
    assert FUNCTIONS["concat"].signature == "concat(xs..., axis = 0)"
