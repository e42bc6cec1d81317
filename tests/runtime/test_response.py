"""curvature = total: the hypergradient is the derivative of the nested problem."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from nonlinear import curved, hpo_of_hpo
from problems import relative
from quadratics import chain

from bettyc.plan import Pull
from bettyc.runtime.adjoint import Lower, hypergradient
from bettyc.runtime.nesting import Nest
from bettyc.runtime.response import Point, Reduced
from bettyc.strategies import CG, Exact


def nested(at, root, strategy, solver=None):
    nest = Nest({name: f.reads for name, f in at.objectives.items()}, at.order)
    point = Point(
        nest, at.objectives, at.frames, at.theta, dict.fromkeys(at.order, solver) if solver else {}
    )
    pulls = nest.sweep(root, frozenset(at.order))
    return hypergradient(
        root,
        objectives=at.objectives,
        theta=at.theta,
        frames=at.frames,
        lowers={p.level: Lower(strategy, reduced=Reduced(p.level, point)) for p in pulls},
        pulls=pulls,
    )


@pytest.mark.parametrize("strategy", [Exact(), CG(tol=1e-12)])
@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_total_chain_equals_the_nested_problem(depth, strategy):
    problem = chain(depth, size=2 if depth > 3 else 3)
    z = problem.solution()
    top = problem.order[-1]

    assert (
        relative(nested(problem.problem(z), top, strategy).grad, problem.nested_answer(top, z))
        < 1e-8
    )


def test_direct_is_wrong_where_total_is_right():
    problem = chain(3, size=3)
    z = problem.solution()

    assert relative(problem.direct_answer("l3", z), problem.nested_answer("l3", z)) > 0.05


def test_middle_level_is_at_the_minimum_of_its_reduced_objective():
    problem = chain(3)
    found = nested(problem.problem(), "l2", Exact())

    assert float(found.grad.norm()) < 1e-12


@cache
def solved(seed):
    return curved(seed).problem(torch.tensor([0.3, -0.7], dtype=torch.float64))


@pytest.mark.parametrize("solver", [None, CG(tol=1e-13)])
@pytest.mark.parametrize("strategy", [Exact(), CG(tol=1e-12)])
@pytest.mark.parametrize("seed", [0, 1])
def test_total_equals_differences_of_the_nested_problem(seed, strategy, solver):
    at = solved(seed)

    assert relative(nested(at, "top", strategy, solver).grad, at.answer) < 1e-6


def test_hpo_of_hpo_total_equals_differences_and_direct_does_not():
    at = hpo_of_hpo().problem(torch.tensor([-1.0, -2.5], dtype=torch.float64))
    reads = {"low": ("low", "mid"), "mid": ("mid", "low", "top"), "top": ("top", "low")}
    at = replace(at, objectives={n: replace(f, reads=reads[n]) for n, f in at.objectives.items()})
    pulls = Nest(reads, at.order).sweep("top")
    direct = hypergradient(
        "top",
        objectives=at.objectives,
        theta=at.theta,
        frames=at.frames,
        lowers={p.level: Lower(Exact()) for p in pulls},
        pulls=pulls,
    )

    assert pulls == (Pull("low", ("mid",)), Pull("mid", ("top",)))
    assert relative(nested(at, "top", Exact()).grad, at.answer) < 1e-6
    assert relative(direct.grad, at.answer) > 1e-2
