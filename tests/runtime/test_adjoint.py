"""The adjoint sweep: one solve per level gives the sum over all paths."""

import pytest
import torch
from problems import relative, ridge, two_levels
from quadratics import Quadratics, build, chain, ladder

from bettyc.plan import Pull
from bettyc.runtime.adjoint import Lower, hypergradient
from bettyc.strategies import CG, Exact, Frozen


def sweep(problem: Quadratics, root: str, z: torch.Tensor, strategy: object):
    at = problem.problem(z)
    pulls = problem.pulls(root)
    return hypergradient(
        root,
        objectives=at.objectives,
        theta=at.theta,
        frames=at.frames,
        lowers={pull.level: Lower(strategy) for pull in pulls},
        pulls=pulls,
    )


def point(problem: Quadratics) -> torch.Tensor:
    return torch.randn(
        sum(problem.sizes.values()), generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 6])
def test_ladder_equals_path_enumeration(k):
    problem = ladder(k)
    z = point(problem)

    found = sweep(problem, "top", z, Exact()).grad

    assert len(list(problem.paths("a1", "top"))) == 2 ** (k - 1)
    assert relative(found, problem.direct_answer("top", z)) < 1e-10


def test_solves_grow_linearly():
    for k in (8, 32, 64):
        problem = ladder(k)
        found = sweep(problem, "top", point(problem), Exact())

        assert len(found.reports) == 2 * k
        assert torch.isfinite(found.grad).all()
        assert float(found.grad.norm()) > 0


def test_indirect_part_of_the_ladder_matters():
    problem = ladder(6)
    z = point(problem)
    frozen = sweep(problem, "top", z, Frozen()).grad

    assert relative(frozen, problem.direct_answer("top", z)) > 1e-3


@pytest.mark.parametrize("strategy", [Exact(), CG(tol=1e-12)])
@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_direct_chain_equals_its_path(depth, strategy):
    problem = chain(depth, size=3)
    z = point(problem)
    top = problem.order[-1]

    assert relative(sweep(problem, top, z, strategy).grad, problem.direct_answer(top, z)) < 1e-10


def test_starred_level_that_does_not_depend_on_the_reader_is_pulled_through():
    # Learning by ignoring: finetune stars pretrain; reweight stars finetune, pretrain reads it.
    problem = build(
        {"pretrain": 3, "finetune": 2, "reweight": 2},
        {"finetune": ("pretrain",), "reweight": ("finetune",)},
        {"pretrain": ("reweight",)},
    )
    z = point(problem)

    assert problem.pulls("reweight") == (
        Pull("finetune", ("pretrain",)),
        Pull("pretrain", ("reweight",)),
    )
    found = sweep(problem, "reweight", z, Exact()).grad
    assert relative(found, problem.direct_answer("reweight", z)) < 1e-12


def test_two_uppers_each_have_their_own_sweep():
    problem = build(
        {"low": 3, "left": 2, "right": 2},
        {"left": ("low",), "right": ("low",)},
        {"low": ("left", "right")},
    )
    z = point(problem)
    for root in ("left", "right"):
        found = sweep(problem, root, z, Exact()).grad
        assert relative(found, problem.direct_answer(root, z)) < 1e-12


def test_variables_are_left_as_they_were():
    problem = ridge()
    before = {name: value.clone() for name, value in problem.theta.items()}
    hypergradient(
        "tune",
        objectives=problem.objectives,
        theta=problem.theta,
        frames=problem.frames,
        lowers={"fit": Lower(Exact())},
        pulls=problem.pulls,
    )

    assert all(torch.equal(before[name], problem.theta[name]) for name in before)
    assert not any(value.requires_grad for value in problem.theta.values())


def test_without_pulls_it_is_the_gradient():
    problem = two_levels(torch.eye(3, dtype=torch.float64))
    found = hypergradient(
        "up", objectives=problem.objectives, theta=problem.theta, frames=problem.frames
    )

    assert torch.equal(found.grad, problem.theta["up"])
    assert found.reports == ()
