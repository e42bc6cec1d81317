"""Replicated levels: one solve per replica, cross terms added up; the same as one block-diagonal
level.
"""

import dataclasses

import pytest
import torch
from problems import FRAME, Formula, normal, relative, spd
from trajectories import Steps

from bettyc.plan import Pull
from bettyc.runtime.adjoint import Lower, hypergradient
from bettyc.runtime.objective import Frame
from bettyc.strategies import (
    CG,
    Exact,
    FiniteDiff,
    FixedPoint,
    Forward,
    Neumann,
    OneStep,
    Penalty,
    Sama,
    SingleLoop,
    Unroll,
)

COUNT, SIZE, UPPER = 3, 4, 2
HS = [spd(SIZE, 3 + i, seed=i) for i in range(COUNT)]
BS = [normal(SIZE, UPPER, seed=10 + i) for i in range(COUNT)]
CS = normal(COUNT, SIZE, seed=20)
TASKS = tuple({"c": c} for c in CS)


def own(theta, frame):
    i = frame.replica["task"]
    w, x = theta["task"], theta["meta"]
    return 0.5 * w @ HS[i] @ w + w @ BS[i] @ x + frame.tasks["task"][i]["c"] @ w


def meta(theta):
    return (theta["task"] ** 3).sum() / 3 + 0.5 * theta["meta"].square().sum()


OBJECTIVES = {
    "task": Formula("task", ("task", "meta"), own, framed=True),
    "meta": Formula("meta", ("meta", "task"), meta),
}
THETA = {"task": normal(COUNT, SIZE, seed=30), "meta": normal(UPPER, seed=31)}
FRAMES = {"task": Frame({}, tasks={"task": TASKS}), "meta": FRAME}
STEPS = Steps(3, normal(COUNT, SIZE, seed=32), 0.3, [FRAMES["task"]])


def run(strategy, **rest):
    return hypergradient(
        "meta",
        objectives=OBJECTIVES,
        theta=THETA,
        frames=FRAMES,
        lowers={"task": Lower(strategy, lr=0.3, trajectory=STEPS)},
        pulls=(Pull("task", ("meta",)),),
        **rest,
    )


def answer(solve):
    a = THETA["task"].square()
    return THETA["meta"] - sum(BS[i].T @ solve(HS[i], a[i]) for i in range(COUNT))


def series(terms, lr=0.3):
    eye = torch.eye(SIZE, dtype=torch.float64)
    return lambda h, a: sum(
        lr * torch.linalg.matrix_power(eye - lr * h, k) @ a for k in range(terms)
    )


@pytest.mark.parametrize(
    ("strategy", "solve"),
    [
        (Exact(), torch.linalg.solve),
        (CG(tol=1e-13), torch.linalg.solve),
        (Neumann(terms=5, lr=0.3), series(5)),
        (OneStep(), series(1)),
        (FiniteDiff(), series(1)),
        (Sama(), series(1)),
        (Unroll(), series(3)),
        (Unroll(recompute=True), series(3)),
        (Forward(), series(3)),
        (FixedPoint(iters=4, tol=0.0), series(5)),
    ],
)
def test_replicas_add_up(strategy, solve):
    found = run(strategy)

    assert relative(found.grad, answer(solve)) < 1e-9
    assert len(found.reports) == 1


def test_penalty_sees_all_replicas():
    found = run(Penalty(weight=1e6, steps=0))

    assert relative(found.grad, THETA["meta"]) < 1e-12
    assert found.memory["meta/task/y"].shape == (COUNT, SIZE)


def test_memory_has_a_row_per_replica():
    first = run(CG(tol=1e-13, warm=True))
    again = run(CG(tol=1e-13, warm=True), memory=first.memory)

    assert first.memory["meta/task/u"].shape == (COUNT, SIZE)
    assert again.reports[0].iterations == 0
    assert run(SingleLoop()).memory["meta/task/u"].shape == (COUNT, SIZE)


def test_the_report_is_the_least_favourable():
    a = THETA["task"].square()
    u = [series(1)(HS[i], a[i]) for i in range(COUNT)]  # the sum without its last term
    worst = max(float((HS[i] @ u[i] - a[i]).norm() / a[i].norm()) for i in range(COUNT))

    assert run(Neumann(terms=2, lr=0.3)).reports[0].relative_residual == pytest.approx(
        worst, rel=1e-9
    )


def test_the_report_counts_the_products_of_all_replicas():
    assert run(Neumann(terms=4, lr=0.3)).reports[0].products == COUNT * 3


def test_a_replicated_root_has_one_gradient_per_replica():
    found = hypergradient("task", objectives=OBJECTIVES, theta=THETA, frames=FRAMES)
    expected = torch.stack(
        [HS[i] @ THETA["task"][i] + BS[i] @ THETA["meta"] + CS[i] for i in range(COUNT)]
    )

    assert relative(found.grad, expected) < 1e-12
    assert found.loss.shape == (COUNT,)


def test_no_replicas():
    theta = {**THETA, "task": torch.zeros(0, SIZE, dtype=torch.float64)}
    for strategy in (Exact(), Unroll()):
        found = hypergradient(
            "meta",
            objectives=OBJECTIVES,
            theta=theta,
            frames=FRAMES,
            lowers={
                "task": Lower(strategy, trajectory=dataclasses.replace(STEPS, start=theta["task"]))
            },
            pulls=(Pull("task", ("meta",)),),
        )
        assert torch.equal(found.grad, THETA["meta"])
