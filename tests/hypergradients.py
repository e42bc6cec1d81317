"""Short ways to call the code under test on a problem."""

from __future__ import annotations

import dataclasses

import torch
from problems import Problem
from torch import Tensor
from trajectories import Steps

from bettyc.runtime.adjoint import Lower, hypergradient
from bettyc.runtime.report import Hypergradient


def differentiate(problem: Problem, lower: Lower, **rest) -> Hypergradient:
    """The hypergradient of the top level, with `lower` for every level below it."""
    return hypergradient(
        problem.top,
        objectives=problem.objectives,
        theta=problem.theta,
        frames=problem.frames,
        lowers={pull.level: lower for pull in problem.pulls},
        pulls=problem.pulls,
        **rest,
    )


def after(problem: Problem, steps: Steps) -> Problem:
    """The problem with the lowest level where the steps lead it."""
    low = problem.order[0]
    theta, state = steps.begin(problem.theta)
    for k in range(steps.length):
        own = theta.detach().requires_grad_()
        value = problem.objectives[low]({**problem.theta, low: own}, steps.frame(k))
        grad = torch.zeros_like(theta)
        if value.requires_grad:
            (grad,) = torch.autograd.grad(value, [own], materialize_grads=True, allow_unused=True)
        theta, state = steps.advance(k, own.detach(), grad, state, problem.theta)
    return dataclasses.replace(problem, theta={**problem.theta, low: theta.detach()})


def unrolled(problem: Problem, steps: Steps, x: Tensor) -> Tensor:
    """The top objective after the steps, as plain torch of the top variables: the oracle of
    `unroll`.
    """
    low, up = problem.order[0], problem.top
    others = {**problem.theta, up: x}
    theta, state = steps.begin(others)
    for k in range(steps.length):
        own = theta.view_as(theta) if theta.requires_grad else theta.requires_grad_()
        value = problem.objectives[low]({**others, low: own}, steps.frame(k))
        (grad,) = torch.autograd.grad(value, [own], create_graph=True)
        theta, state = steps.advance(k, own, grad, state, others)
    return problem.objectives[up]({**others, low: theta}, steps.frame(0))
