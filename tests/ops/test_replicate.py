"""Formulas of all replicas: every operator against its reference at one replica after the other,
whichever of its operands the replicas have of their own.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from operator_cases import CASES, DTYPES, Case, apply, compiled, names_of, sample, sizes

from bettyc.calculus.replicate import Alone, Replicated, every, replicate, summed
from bettyc.expr import Graph
from bettyc.types import Tensor, symbol

COUNT = 3
REPLICAS = symbol("l.count")
# What has no form over replicas: decompositions, positions, products along axes; the last two with
# rows of each replica's own, and of more than two axes.
MISSING = {
    "accuracy", "argmax", "argmin", "diag", "inv", "logdet", "prod", "solve", "trace",
    "index", "matmul",
}  # fmt: skip


def replicated(case: Case, many: tuple[int, ...]) -> tuple[Graph, int, Replicated] | None:
    graph = Graph()
    root, leaves = apply(graph, case)
    try:
        return graph, root, replicate(graph, [root], [leaves[k] for k in many], REPLICAS)
    except Alone:
        return None


def subsets(case: Case) -> list[tuple[int, ...]]:
    count = range(len(case.operands))
    return [s for n in count for s in itertools.combinations(count, n + 1)]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_value(case: Case, seed: int) -> None:
    for many in subsets(case):
        found = replicated(case, many)
        if found is None:
            continue
        graph, root, all_ = found
        rows = [sample(case, seed, draw) for draw in range(COUNT)]
        rows = [[row[k] if k in many else rows[0][k] for k in range(len(row))] for row in rows]
        given = [
            torch.stack([row[k] for row in rows]) if k in many else rows[0][k]
            for k in range(len(rows[0]))
        ]
        expected = torch.stack([case.reference(*row) for row in rows])
        type_ = graph[root].type
        assert isinstance(type_, Tensor)
        for autograd, fused in ((True, False), (False, True)):
            call = compiled(
                graph, [every(graph, all_, root, REPLICAS), summed(graph, all_, root, REPLICAS)]
                if type_.kind == "real" else [every(graph, all_, root, REPLICAS)],
                names_of(case), autograd=autograd, fused=fused, sizes=sizes(seed),
            )  # fmt: skip
            copies = [x.clone() for x in given]
            out = call(*copies)
            value, total = out if type_.kind == "real" else (out, None)
            # without a real operand, reals are float32
            rtol = 1e-10 if value.dtype == DTYPES[type_.kind] else 1e-6
            torch.testing.assert_close(value, expected.to(value.dtype), rtol=rtol, atol=1e-10)
            if total is not None:
                torch.testing.assert_close(
                    total, expected.sum(0).to(value.dtype), rtol=rtol, atol=1e-10
                )
            for x, y in zip(copies, given, strict=True):
                assert torch.equal(x, y)


def test_only_these_have_no_form() -> None:
    found = {c.op for c in CASES if replicated(c, tuple(range(len(c.operands)))) is None}
    assert found <= MISSING, found - MISSING


def test_what_no_replica_moves_is_multiplied_by_their_number() -> None:
    graph = Graph()
    w, x = (graph.leaf("var", Tensor("real"), level="l", name=n) for n in "wx")
    square = graph.add("square", w)
    both = graph.add("add", square, x)
    found = replicate(graph, [both], [x], REPLICAS)
    outputs = [summed(graph, found, square, REPLICAS), summed(graph, found, both, REPLICAS)]
    total, whole = compiled(graph, outputs, ["w", "x"])(torch.tensor(2.0), torch.arange(3.0))
    assert float(total) == 12.0
    assert float(whole) == 15.0
