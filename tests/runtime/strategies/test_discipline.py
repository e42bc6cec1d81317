"""All evaluations of one derivative see one frame; nothing is written; half precision works."""

from dataclasses import replace

import pytest
import torch
from problems import FRAME, Formula, normal, relative, ridge, spd, two_levels
from quadratics import chain
from rows import LR, ROWS
from trajectories import Steps

from bettyc.plan import Pull
from bettyc.runtime.adjoint import Lower, hypergradient
from bettyc.runtime.nesting import Nest
from bettyc.runtime.objective import Frame
from bettyc.runtime.response import Point, Reduced
from bettyc.strategies import CG, Exact, FiniteDiff, Neumann, Unroll

N = 6


def masked(theta, frame):
    """A level with dropout: the mask is drawn from the seed of the frame."""
    mask = torch.rand(N, generator=torch.Generator().manual_seed(frame.seed)) > 0.4
    w, x = theta["low"], theta["up"]
    scale = frame.columns["low.b", "y"].to(w.dtype)
    return 0.5 * (w * (1 + mask)).square().sum() + (w * mask * scale).sum() * x.sum() + w.sum()


def noisy(dtype):
    seen = []

    def watched(theta, frame):
        seen.append(frame)
        return masked(theta, frame)

    objectives = {
        "low": Formula("low", ("low", "up"), watched, framed=True),
        "up": Formula(
            "up", ("up", "low"), lambda t: t["low"].square().sum() + t["up"].square().sum()
        ),
    }
    theta = {"low": normal(N, seed=1).to(dtype), "up": normal(2, seed=2).to(dtype)}
    frames = {"low": Frame({("low.b", "y"): normal(N, seed=3)}, seed=5), "up": FRAME}
    return seen, objectives, theta, frames


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ROWS)
def test_one_frame_and_untouched_variables(name, dtype):
    seen, objectives, theta, frames = noisy(dtype)
    steps = Steps(3, theta["low"].clone(), LR, [frames["low"]])
    before = {n: x.clone() for n, x in theta.items()}
    call = {
        "objectives": objectives,
        "theta": theta,
        "frames": frames,
        "lowers": {"low": Lower(ROWS[name][0], lr=LR, trajectory=steps)},
        "pulls": (Pull("low", ("up",)),),
    }
    found = hypergradient("up", **call)
    again = hypergradient("up", **call)

    mine = frames["low"]
    assert all(f.columns is mine.columns and f.seed == mine.seed for f in seen)
    assert all(torch.equal(before[n], theta[n]) for n in theta)
    assert not any(x.requires_grad for x in theta.values())
    assert torch.equal(found.grad, again.grad)
    assert found.grad.dtype == dtype
    assert torch.isfinite(found.grad).all()


@pytest.mark.parametrize("strategy", [Exact(), CG(tol=1e-5), Neumann(terms=60)])
def test_half_precision_solves_accumulate_in_single(strategy):
    _, objectives, theta, frames = noisy(torch.bfloat16)
    call = {
        "objectives": objectives,
        "frames": frames,
        "lowers": {"low": Lower(strategy)},
        "pulls": (Pull("low", ("up",)),),
    }
    half = hypergradient("up", theta=theta, **call).grad
    full = hypergradient("up", theta={n: x.double() for n, x in theta.items()}, **call).grad

    assert relative(half.double(), full) < 0.03


def test_single_precision_is_as_good_as_single_precision():
    problem = ridge()
    theta = {n: x.float() for n, x in problem.theta.items()}
    low = problem.objectives["fit"]
    # the same data, in the precision of the variables
    single = replace(low, function=lambda t: low.function({n: x.double() for n, x in t.items()}))
    for strategy in (Exact(), CG(tol=1e-6)):
        found = hypergradient(
            "tune",
            objectives={
                **problem.objectives,
                "fit": single,
                "tune": replace(
                    problem.objectives["tune"],
                    function=lambda t: problem.objectives["tune"].function(
                        {n: x.double() for n, x in t.items()}
                    ),
                ),
            },
            theta=theta,
            frames=problem.frames,
            lowers={"fit": Lower(strategy)},
            pulls=problem.pulls,
        )
        assert found.grad.dtype == torch.float32
        assert relative(found.grad.double(), problem.answer) < 1e-5


def test_finite_diff_of_a_reduced_objective_solves_the_levels_inside_anew():
    problem = chain(3, size=2)
    z = problem.solution()
    at = problem.problem(z)
    nest = Nest({n: f.reads for n, f in at.objectives.items()}, at.order)
    point = Point(nest, at.objectives, at.frames, at.theta)
    pulls = nest.sweep("l3", frozenset(at.order))
    found = hypergradient(
        "l3",
        objectives=at.objectives,
        theta=at.theta,
        frames=at.frames,
        lowers={
            p.level: Lower(FiniteDiff(), lr=0.1, reduced=Reduced(p.level, point)) for p in pulls
        },
        pulls=pulls,
    )
    # u = lr a, through the reduced objective of l2, which is quadratic: the difference is exact
    gradient = problem.matrices["l3"] @ z + problem.vectors["l3"]
    row, _ = problem.stationarity("l2")
    a = gradient[problem.place("l2")]
    expected = gradient[problem.place("l3")] - row[:, problem.place("l3")].T @ (0.1 * a)

    assert relative(found.grad, expected) < 1e-8


def test_a_sweep_of_direct_curvature_is_refused_for_a_reduced_objective():
    problem = chain(3, size=2)
    at = problem.problem()
    nest = Nest({n: f.reads for n, f in at.objectives.items()}, at.order)
    point = Point(nest, at.objectives, at.frames, at.theta)
    with pytest.raises(ValueError, match=r"Nest\.sweep"):
        hypergradient(
            "l3",
            objectives=at.objectives,
            theta=at.theta,
            frames=at.frames,
            lowers={"l2": Lower(Exact(), reduced=Reduced("l2", point))},
            pulls=(Pull("l2", ()),),
        )


def test_a_trajectory_that_saw_moving_levels_below_is_replayed_with_what_it_saw():
    # The level stars `base`, which does not depend on it and moved while the level did.
    h = spd(3, 4, seed=1)
    two = two_levels(h, uppers=3)
    low = two.objectives["low"]
    mid = Formula(
        "low", ("low", "base"), lambda t: low.function({"low": t["low"], "up": t["base"]})
    )
    up = Formula("up", ("up", "low"), lambda t: 0.5 * t["low"].square().sum() + 0 * t["up"].sum())
    seen = [{"base": normal(3, seed=20 + k)} for k in range(3)]
    steps = Steps(3, normal(3, seed=30), 0.3, [FRAME], seen=seen)
    b_x, b = two.extra["b_x"], two.extra["b"]
    w = steps.start
    for k in range(3):
        w = w - 0.3 * (h @ w + b_x @ seen[k]["base"] + b)
    base = Formula("base", ("base", "up"), lambda t: 0.5 * (t["base"] - t["up"]).square().sum())
    eye = torch.eye(3, dtype=h.dtype)
    u = sum(0.3 * torch.linalg.matrix_power(eye - 0.3 * h, k) @ w for k in range(3))
    found = hypergradient(
        "up",
        objectives={"low": mid, "base": base, "up": up},
        theta={"low": w, "base": seen[-1]["base"], "up": normal(3, seed=40)},
        frames=dict.fromkeys(("low", "base", "up"), FRAME),
        lowers={"low": Lower(Unroll(), trajectory=steps), "base": Lower(Exact())},
        pulls=(Pull("low", ("base",)), Pull("base", ("up",))),
    )

    assert relative(found.grad, -b_x.T @ u) < 1e-10
