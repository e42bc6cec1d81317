"""What rows say about smoothness is true: flat, blocked, and where the kinks are."""

from __future__ import annotations

import pytest
import torch
from operator_cases import CASES, Case, apply, compiled, names_of, parse, sample

from bettyc.calculus.reverse import reverse
from bettyc.expr import Graph
from bettyc.ops import OPS
from bettyc.ops.term import Term

ROWS = [c for c in CASES if c.op in OPS and any(o.startswith("real") for o in c.operands)]
KINKS = [c for c in CASES if c.kink is not None]
STEP = 1e-6


def _slopes(case: Case, point: list[torch.Tensor], way: list[torch.Tensor]) -> torch.Tensor:
    """Right minus left difference quotient of every entry along a direction."""
    graph = Graph()
    call = compiled(graph, [apply(graph, case)[0]], names_of(case))

    def at(step: float) -> torch.Tensor:
        return call(
            *(p + step * w if p.is_floating_point() else p for p, w in zip(point, way, strict=True))
        )

    right, left = (at(STEP) - at(0)) / STEP, (at(0) - at(-STEP)) / STEP
    return (right - left).abs().max()


def _way(point: list[torch.Tensor], seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in point]


@pytest.mark.parametrize("case", [c for c in ROWS if OPS[c.op].smooth == "flat"], ids=str)
def test_flat_operators_have_no_gradient(case: Case) -> None:
    graph = Graph()
    call = compiled(graph, [apply(graph, case)[0]], names_of(case))
    values = [v.requires_grad_() if v.is_floating_point() else v for v in sample(case, 1)]
    out = call(*values)
    if out.requires_grad:
        for grad in torch.autograd.grad(out.sum(), [v for v in values if v.requires_grad]):
            assert (grad == 0).all()


@pytest.mark.parametrize("case", [c for c in ROWS if OPS[c.op].blocked], ids=str)
def test_blocked_operands_carry_no_gradient(case: Case) -> None:
    graph = Graph()
    call = compiled(graph, [apply(graph, case)[0]], names_of(case))
    free = [i for i, text in enumerate(case.operands) if parse(text).kind == "real"]
    carried = dict.fromkeys(free, False)
    for seed in range(1, 7):  # a scalar condition takes one arm at a time
        values = sample(case, seed)
        for position in free:
            values[position].requires_grad_()
        out = call(*values)
        if out.is_floating_point() and out.requires_grad:
            points = [values[i] for i in free]
            grads = torch.autograd.grad(out.sum(), points, allow_unused=True)
            for position, grad in zip(free, grads, strict=True):
                carried[position] |= grad is not None and bool((grad != 0).any())
    assert carried == {i: i not in OPS[case.op].blocked for i in free}


@pytest.mark.parametrize("case", [c for c in ROWS if OPS[c.op].smooth == "smooth"], ids=str)
def test_smooth_operators_have_no_kink_at_zero_or_at_ties(case: Case) -> None:
    for seed in (1, 2):
        point = sample(case, seed)
        if case.domain == "any":
            point = [torch.zeros_like(p) for p in point]
        elif case.domain == "positive":
            point = [torch.ones_like(p) for p in point]
        assert _slopes(case, point, _way(point, seed)) < 1e-3


@pytest.mark.parametrize("case", KINKS, ids=str)
def test_piecewise_operators_have_their_kink(case: Case) -> None:
    assert case.kink is not None
    assert OPS[case.op].smooth == "piecewise"
    point = list(case.kink)
    jump = max(_slopes(case, point, _way(point, seed)) for seed in range(4))
    assert jump > 0.05


def test_every_piecewise_row_has_a_kink_case() -> None:
    named = {c.op for c in KINKS} | {"where"}  # whose kink is its condition's
    assert {name for name, row in OPS.items() if row.smooth == "piecewise"} == named


@pytest.mark.parametrize("case", KINKS, ids=str)
def test_the_derivative_at_a_kink_is_the_one_of_autograd(case: Case) -> None:
    graph = Graph()
    root, leaves = apply(graph, case)
    total = Term(graph, root).sum().index
    found = reverse(graph, total, leaves)
    names = [*names_of(case), "n"]
    call = compiled(graph, [found.parts[leaf] for leaf in leaves], names)
    assert case.kink is not None
    ours = call(*case.kink, 1)
    points = [p.clone().requires_grad_() for p in case.kink]
    value = compiled(graph, [total], names)(*points, 1)
    theirs = torch.autograd.grad(value, points)
    for a, b in zip(ours if len(leaves) > 1 else [ours], theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
