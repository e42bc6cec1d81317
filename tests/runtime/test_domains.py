"""Domains: values lie inside, the inverse inverts, projections are nearest points."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import bettyc
from bettyc.model import Call
from bettyc.runtime import domains
from bettyc.runtime.layout import transformed

TRANSFORMED = [Call("positive"), Call("unit"), Call("interval", (-2.0, 3.0)), Call("simplex")]


@pytest.mark.parametrize("domain", TRANSFORMED, ids=lambda d: d.name)
def test_free_inverts_the_value(domain):
    shape = domains.free_shape(domain, (3, 4))
    u = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    value = transformed(domain, u)

    assert value.shape == (3, 4)
    torch.testing.assert_close(domains.free(domain, value), u)


@pytest.mark.parametrize("domain", TRANSFORMED, ids=lambda d: d.name)
def test_second_derivatives(domain):
    u = torch.linspace(-1, 1, 4, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradgradcheck(lambda x: transformed(domain, x), (u,))


def test_simplex_is_a_distribution_and_its_basis_is_orthonormal():
    u = torch.randn(5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    value = domains.simplex(u)
    basis = torch.stack([domains.sum_to_zero(e) for e in torch.eye(5, dtype=torch.float64)])

    assert (value > 0).all()
    assert float(value.sum()) == pytest.approx(1.0)
    torch.testing.assert_close(basis @ basis.T, torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(basis.sum(1), torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("domain", "value"),
    [
        (Call("positive"), torch.tensor([1.0, -3.0])),
        (Call("unit"), torch.tensor([0.5, 1.0])),
        (Call("interval", (0, 2)), torch.tensor([2.5])),
        (Call("simplex"), torch.tensor([0.5, 0.6])),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_outside_is_refused(domain, value):
    with pytest.raises(ValueError, match=domain.name):
        domains.free(domain, value)


def nearest_on_a_grid(inside: Tensor, x: Tensor) -> float:
    return float((inside - x).norm(dim=1).min())


@pytest.mark.parametrize("p", [1.0, 2.0, float("inf")])
def test_ball_gives_the_nearest_point(p):
    """No point of a fine grid of the ball is nearer."""
    domain = Call("ball", (Call("inf") if p == float("inf") else p, 0.7))
    axis = torch.linspace(-0.7, 0.7, 281, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    grid = grid[torch.linalg.vector_norm(grid, p, dim=1) <= 0.7]
    for x in torch.tensor([[2.0, 0.3], [-0.5, 0.6], [0.1, 0.2], [0.0, -3.0]], dtype=torch.float64):
        found = domains.project(domain, x)

        assert float(torch.linalg.vector_norm(found, p)) <= 0.7 + 1e-12
        assert float((found - x).norm()) <= nearest_on_a_grid(grid, x) + 1e-12
        if float(torch.linalg.vector_norm(x, p)) <= 0.7:
            assert torch.equal(found, x)


def test_box_clips():
    found = domains.project(Call("box", (-1.0, 0.5)), torch.tensor([-2.0, 0.0, 1.0]))

    assert found.tolist() == [-1.0, 0.0, 0.5]


def test_a_simplex_without_a_start_begins_with_equal_entries():
    text = """
    level l { var q : real[2, 4] in simplex  minimize sumsq(q[:, 0])  optimizer = sgd(lr = 0.1) }
    """
    run = bettyc.loads(text).compile().start()

    torch.testing.assert_close(run["l"].q, torch.full((2, 4), 0.25))
