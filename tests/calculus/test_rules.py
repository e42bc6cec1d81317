"""Every derivative rule against torch autograd in float64, of both orders, on random shapes.

The scalar that is differentiated is sum(c * f(x) + f(x)^2 / 2), so that also linear operators have
a second derivative that goes through their rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from operator_cases import CASES, Case, apply, compiled, names_of, parse, sample, sizes

from bettyc.calculus.forward import forward
from bettyc.calculus.products import Opaque, product
from bettyc.calculus.reverse import reverse
from bettyc.calculus.simplify import simplify
from bettyc.expr import Graph
from bettyc.ops import OPAQUE, OPS
from bettyc.ops.term import Term
from bettyc.types import Tensor

SEEDS = (0, 1)


def _is_real(case: Case) -> bool:
    graph = Graph()
    type_ = graph[apply(graph, case)[0]].type
    return isinstance(type_, Tensor) and type_.kind == "real"


REAL = [c for c in CASES if _is_real(c) and any(o.startswith("real") for o in c.operands)]


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Problem:
    """A scalar made of one case, with the leaves that are real and a weight for every entry."""

    def __init__(self, case: Case, seed: int) -> None:
        self.graph = Graph()
        root, leaves = apply(self.graph, case)
        out = Term(self.graph, root)
        weight = Term(self.graph, self.graph.leaf("var", out.tensor, level="l", name="c"))
        self.root = (weight * out + out.call("square") * 0.5).sum().index
        self.names = [*names_of(case), "c"]
        self.dims = sizes(seed)  # arguments where no tensor that is left tells them
        self.values = sample(case, seed)
        generator = torch.Generator().manual_seed(seed)
        shape = compiled(self.graph, [root], names_of(case))(*self.values).shape
        self.values.append(torch.randn(shape, generator=generator))
        self.wrt = [i for i, text in enumerate(case.operands) if parse(text).kind == "real"]
        self.leaves = [leaves[i] for i in self.wrt]
        self.directions = [torch.randn(self.values[i].shape, generator=generator) for i in self.wrt]

    def run(self, outputs: list[int], *more: torch.Tensor) -> list[torch.Tensor]:
        """Nodes at the sample; `more` are the directions v0, v1, ..."""
        names = [*self.names, *(f"v{k}" for k in range(len(more))), *self.dims]
        found = []
        for fused in (False, True):
            call = compiled(self.graph, outputs, names, autograd=False, fused=fused)
            before = [v.clone() for v in (*self.values, *more)]
            results = call(*self.values, *more, *self.dims.values())
            found.append(list(results) if len(outputs) > 1 else [results])
            for a, b in zip((*self.values, *more), before, strict=True):
                assert torch.equal(a, b), "an argument was overwritten"
        _close(found[1], found[0])
        return found[0]

    def direction_leaves(self) -> list[int]:
        return [
            self.graph.leaf("direction", self.graph[leaf].type, name=f"v{k}")
            for k, leaf in enumerate(self.leaves)
        ]

    def reference(self) -> Callable[..., torch.Tensor]:
        """The scalar as a function of the real operands, for autograd."""
        call = compiled(self.graph, [self.root], self.names)

        def scalar(*operands: torch.Tensor) -> torch.Tensor:
            values: list[Any] = list(self.values)
            for i, operand in zip(self.wrt, operands, strict=True):
                values[i] = operand
            return call(*values)

        return scalar

    def autograd(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Gradient, and Hessian times the directions."""
        points = [self.values[i].clone().requires_grad_() for i in self.wrt]
        value = self.reference()(*points)
        if not value.requires_grad:
            zeros = [torch.zeros_like(p) for p in points]
            return zeros, zeros
        first = _grad(value, points, create_graph=True)
        slope = sum((g * v).sum() for g, v in zip(first, self.directions, strict=True))
        second = _grad(slope, points)
        return [g.detach() for g in first], second


def _grad(value: Any, points: list[torch.Tensor], **more: Any) -> list[torch.Tensor]:
    if not value.requires_grad:
        return [torch.zeros_like(p) for p in points]
    grads = torch.autograd.grad(value, points, allow_unused=True, **more)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(points, grads, strict=True)]


def _close(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", REAL, ids=str)
@pytest.mark.parametrize("seed", SEEDS)
def test_first_order(case: Case, seed: int) -> None:
    problem = Problem(case, seed)
    graph = problem.graph
    expected, _ = problem.autograd()
    raw = reverse(graph, problem.root, problem.leaves)
    assert not raw.opaque
    parts = [raw.parts[leaf] for leaf in problem.leaves]
    _close(problem.run(parts), expected)
    simple = simplify(graph, parts)
    assert [graph[s].type for s in simple] == [graph[p].type for p in parts]
    _close(problem.run(simple), expected)


@pytest.mark.parametrize("case", REAL, ids=str)
@pytest.mark.parametrize("seed", SEEDS)
def test_forward(case: Case, seed: int) -> None:
    problem = Problem(case, seed)
    expected, _ = problem.autograd()
    along = dict(zip(problem.leaves, problem.direction_leaves(), strict=True))
    (tangent,) = forward(problem.graph, [problem.root], along)
    slope = sum((g * v).sum() for g, v in zip(expected, problem.directions, strict=True))
    if tangent is None:
        assert slope == 0
    else:
        _close(problem.run([tangent], *problem.directions), [torch.as_tensor(slope)])


@pytest.mark.parametrize("case", REAL, ids=str)
@pytest.mark.parametrize("seed", SEEDS)
def test_second_order_forward_over_reverse(case: Case, seed: int) -> None:
    problem = Problem(case, seed)
    _, expected = problem.autograd()
    along = dict(zip(problem.leaves, problem.direction_leaves(), strict=True))
    found = product(problem.graph, problem.root, problem.leaves, along)
    assert not isinstance(found, Opaque)
    _close(problem.run(found, *problem.directions), expected)


@pytest.mark.parametrize("case", REAL, ids=str)
@pytest.mark.parametrize("seed", SEEDS)
def test_second_order_reverse_over_reverse(case: Case, seed: int) -> None:
    problem = Problem(case, seed)
    _, expected = problem.autograd()
    first = reverse(problem.graph, problem.root, problem.leaves)
    slope: Term | None = None
    for leaf, v in zip(problem.leaves, problem.direction_leaves(), strict=True):
        part = (Term(problem.graph, first.parts[leaf]) * Term(problem.graph, v)).sum()
        slope = part if slope is None else slope + part
    assert slope is not None
    second = reverse(problem.graph, slope.index, problem.leaves)
    found = simplify(problem.graph, [second.parts[leaf] for leaf in problem.leaves])
    _close(problem.run(found, *problem.directions), expected)


@pytest.mark.parametrize("name", sorted(OPS))
def test_rows_say_how_they_are_differentiated(name: str) -> None:
    row = OPS[name]
    differentiable = row.smooth != "flat" and row.parameters and name not in OPAQUE - {"params"}
    assert (row.reverse is not None) == (row.forward is not None) == bool(differentiable)
