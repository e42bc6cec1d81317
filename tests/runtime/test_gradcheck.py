"""gradcheck tells right from wrong, and its references are the derivative of the nested problem."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypergradients import differentiate
from nonlinear import curved
from problems import Formula, Problem, normal, relative, ridge

from bettyc.runtime.adjoint import Lower, hypergradient
from bettyc.runtime.gradcheck import (
    FLOOR,
    REFERENCES,
    Piece,
    by_differences,
    by_unrolling,
    compare,
    compared,
    coordinates,
    gradcheck,
    respond,
    worst,
)
from bettyc.runtime.nesting import Nest
from bettyc.runtime.report import SolveError
from bettyc.runtime.response import Point, Reduced
from bettyc.strategies import CG, Exact, Neumann


def point_of(problem):
    nest = Nest({n: f.reads for n, f in problem.objectives.items()}, problem.order)
    return Point(nest, problem.objectives, problem.frames, problem.theta)


@cache
def three():
    problem = curved().problem(torch.tensor([0.3, -0.7], dtype=torch.float64))
    return problem, point_of(problem)


def test_respond_solves_every_level_below():
    problem, point = three()
    away = {
        n: x + (0.05 * normal(len(x), seed=1) if n != "top" else 0) for n, x in point.theta.items()
    }
    found = respond("top", point.at(away))

    for name in ("low", "mid", "top"):
        assert relative(found.theta[name], problem.theta[name]) < 1e-9


@pytest.mark.parametrize("reference", ["unroll", "differences"])
def test_references_equal_the_nested_derivative(reference):
    problem, point = three()
    if reference == "unroll":
        found = by_unrolling("top", point)
    else:
        found = by_differences("top", point, [0, 1])

    assert relative(found, problem.answer) < 1e-6


def four():
    """Four scalar levels, each coupled to all others by a wave: responses of third order matter."""
    names = ("l1", "l2", "l3", "l4")
    weights, shifts = 1.1 * torch.sign(normal(4, 4, seed=4)), normal(4, seed=5)
    weights.fill_diagonal_(0.5)  # weak in its own variable: every level is convex

    def objective(i):
        def function(theta):
            z = torch.cat([theta[name] for name in names])
            return 0.5 * z[i].square() + 0.5 * torch.sin(weights[i] @ z + shifts[i])

        return Formula(names[i], (names[i], *(n for n in names if n != names[i])), function)

    theta = {name: torch.zeros(1, dtype=torch.float64) for name in names}
    return Problem({name: objective(i) for i, name in enumerate(names)}, theta, names)


def test_total_of_four_curved_levels_equals_differences():
    problem = four()
    point = respond("l4", point_of(problem))
    pulls = point.nest.sweep("l4", frozenset(problem.order))
    found = hypergradient(
        "l4",
        objectives=point.objectives,
        theta=point.theta,
        frames=point.frames,
        lowers={p.level: Lower(Exact(), reduced=Reduced(p.level, point)) for p in pulls},
        pulls=pulls,
    )

    assert relative(found.grad, by_differences("l4", point, [0], step=1e-3)) < 1e-10


def test_differences_are_of_fourth_order():
    wave = Formula("top", ("top",), lambda t: torch.sin(50 * t["top"]).sum())
    theta = {"top": torch.tensor([0.3], dtype=torch.float64)}
    found = by_differences("top", point_of(Problem({"top": wave}, theta, ("top",))), [0])

    assert relative(found, 50 * torch.cos(50 * theta["top"])) < 1e-8


def planned(problem, strategy):
    def gradient(theta):
        return differentiate(replace(problem, theta=theta), Lower(strategy)).grad

    return gradient


def test_a_right_hypergradient_passes_and_a_truncated_one_does_not():
    problem = ridge()
    point = point_of(problem)
    pieces = [Piece("log_wd", 0, 4), Piece("rest", 4, 6)]
    right = gradcheck("tune", planned(problem, CG(tol=1e-12)), point, pieces)
    wrong = gradcheck("tune", planned(problem, Neumann(terms=1, lr=0.1)), point, pieces)

    assert [(row.variable, row.reference) for row in right] == [
        ("log_wd", "unroll"),
        ("rest", "unroll"),
        ("log_wd", "differences"),
        ("rest", "differences"),
    ]
    assert worst(right) < 1e-6
    assert all(row.cosine > 1 - 1e-9 for row in right)
    assert all(row.norm_ratio == pytest.approx(1, abs=1e-6) for row in right)
    assert min(row.relative_error for row in wrong) > 0.1
    assert max(row.norm_ratio for row in wrong) < 0.9


def test_it_finds_that_direct_curvature_is_wrong():
    problem, point = three()
    pulls = point.nest.sweep("top")

    def direct(theta):
        return hypergradient(
            "top",
            objectives=problem.objectives,
            theta=theta,
            frames=problem.frames,
            lowers={p.level: Lower(Exact()) for p in pulls},
            pulls=pulls,
        ).grad

    rows = gradcheck("top", direct, point, [Piece("z", 0, 2)])

    assert all(row.relative_error > 1e-2 for row in rows)


def test_large_variables_are_sampled():
    piece = Piece("w", 10, 1000)
    places = coordinates(piece, 2000, 7)

    assert len(set(places)) == 7
    assert all(10 <= i < 1000 for i in places)
    assert coordinates(piece, 2000, 7) == places
    assert coordinates(Piece("w", 3, 5), 9, 7) == [3, 4]


def test_a_zero_reference_is_measured_by_the_floor():
    zero, one = torch.zeros(2), torch.ones(2)
    same, slip = compare("r", "v", "x", zero, zero), compare("r", "v", "x", 1e-12 * one, zero)

    assert (same.absolute_error, same.relative_error, same.scale) == (0.0, 0.0, FLOOR)
    assert (same.cosine, same.norm_ratio, slip.cosine, slip.norm_ratio) == (None,) * 4
    assert slip.relative_error == pytest.approx(math.sqrt(2) * 1e-12 / FLOOR)
    assert compare("r", "v", "x", one, zero).relative_error == pytest.approx(math.sqrt(2) / FLOOR)
    assert compare("r", "v", "x", one, zero, 0.1).relative_error == pytest.approx(math.sqrt(200))
    gone = compare("r", "v", "x", zero, one)
    assert (gone.cosine, gone.relative_error, gone.norm_ratio) == (None, 1.0, 0.0)


def test_a_wrong_gradient_of_small_size_is_found():
    """A hundred times below the floor, and by one part in a hundred, it is still an error."""
    right = torch.full((4,), 0.5)
    wrong = compare("r", "v", "x", 1.01e-6 * right, 1e-6 * right)
    tiny = compare("r", "v", "x", 1.5e-9 * right, 1e-9 * right)

    assert wrong.relative_error == pytest.approx(1e-2, rel=1e-3)
    assert tiny.relative_error == pytest.approx(0.5e-9 / FLOOR, rel=1e-3)  # 5e-3, more than 1e-3


def test_a_level_that_has_no_solution_is_an_error():
    problem = ridge()
    fit = problem.objectives["fit"]
    endless = replace(fit, function=lambda t: t["fit"].sum() + (t["tune"] * t["fit"]).sum())
    point = point_of(replace(problem, objectives={**problem.objectives, "fit": endless}))
    with pytest.raises(SolveError, match="fit"):
        gradcheck("tune", planned(problem, Exact()), point, [Piece("log_wd", 0, 6)])


def test_a_variable_that_does_not_matter_is_measured_by_the_level():
    """The same constant added to all logits: its gradient is zero, in floating point nearly."""
    top = Formula("top", ("top",), lambda t: torch.log_softmax(t["top"][:3] + t["top"][3], 0)[0])
    theta = {"top": normal(4, seed=2)}

    def off(theta):
        x = theta["top"].clone().requires_grad_()
        (grad,) = torch.autograd.grad(torch.log_softmax(x[:3] + x[3], 0)[0], x)
        return grad + 1e-12

    point = point_of(Problem({"top": top}, theta, ("top",)))
    rows = gradcheck("top", off, point, [Piece("w", 0, 3), Piece("b", 3, 4)], ("differences",))

    assert worst(rows) < 1e-6


def test_o0_needs_no_solution():
    problem = ridge()
    fit = problem.objectives["fit"]
    endless = replace(fit, function=lambda t: t["fit"].sum() + (t["tune"] * t["fit"]).sum())
    point = point_of(replace(problem, objectives={**problem.objectives, "fit": endless}))
    here = []

    def noted(theta):
        here.append(theta)
        return theta["tune"]

    rows, missing = compared(
        "tune", noted, point, [Piece("log_wd", 0, 6)], REFERENCES, plain=lambda t: 2 * t["tune"]
    )

    assert [row.reference for row in rows] == ["O0"]
    assert rows[0].relative_error == pytest.approx(0.5)
    assert [gone.reference for gone in missing] == ["unroll", "differences"]
    assert all("fit" in gone.reason for gone in missing)
    assert all(torch.equal(here[0][name], point.theta[name]) for name in point.theta)


def test_unknown_reference():
    problem = ridge()
    with pytest.raises(ValueError, match="unroll, differences"):
        gradcheck("tune", planned(problem, Exact()), point_of(problem), [], against=["hope"])
