"""Replaying the recorded inner steps of a level, with or without a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from bettyc.runtime.report import SolveError
from bettyc.runtime.slope import first_derivative, slope, value_of
from bettyc.runtime.strategies.system import System, Trajectory

State = dict[str, Tensor]
Way = Literal["plain", "graph", "constant"]


def trajectory_of(system: System) -> Trajectory:
    """The recorded steps. Raises SolveError where there are none."""
    if system.trajectory is None:
        raise SolveError(f"level `{system.level}` has no recorded steps to differentiate through")
    return system.trajectory


def replay(
    system: System,
    path: Trajectory,
    point: tuple[Tensor, State],
    start: int,
    end: int,
    others: Mapping[str, Tensor],
    way: Way = "plain",
) -> tuple[Tensor, State]:
    """The iterate and optimizer state after steps start .. end-1 from `point`."""
    theta, state = point
    for k in range(start, end):
        theta, state = step(system, path, theta, state, k, others, way)
    return theta, state


def step(
    system: System,
    path: Trajectory,
    theta: Tensor,
    state: State,
    k: int,
    others: Mapping[str, Tensor],
    way: Way,
) -> tuple[Tensor, State]:
    """Step k of the inner optimizer from (theta, state); "graph": differentiable in all of them,
    "constant": but not through the gradient that the step is made of.
    """
    kept = path.gradient(k) if way == "constant" else None
    if kept is not None:
        with torch.enable_grad():
            return path.advance(k, theta, kept, state, others)
    with torch.enable_grad():
        # A view, so that the derivative in `own` leaves out what else depends on the same tensor.
        own = theta.view_as(theta) if theta.requires_grad else theta.detach().requires_grad_()
        values = {**others, **_seen(path.below(k), others), system.level: own}
        if way == "graph":
            moving = [n for n in system.objective.reads if values[n].requires_grad]
            names = dict.fromkeys((system.level, *moving))
            grad = slope(system.objective, values, path.frame(k), list(names))[1]
        else:
            value = value_of(system.objective, values, path.frame(k))
            grad = first_derivative(value, own)
    plain = way == "plain"
    with torch.set_grad_enabled(not plain):
        return path.advance(k, own.detach() if plain else own, grad, state, others)


def _seen(below: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values that a step saw, with the gradient of the present ones."""
    return {
        name: seen + (others[name] - others[name].detach()) if others[name].requires_grad else seen
        for name, seen in below.items()
    }


def gradient_at(system: System, path: Trajectory, theta: Tensor, k: int) -> Tensor:
    """The gradient that step k took at theta, detached."""
    own = theta.detach().requires_grad_()
    with torch.enable_grad():
        values = {**system.theta, **path.below(k), system.level: own}
        value = value_of(system.objective, values, path.frame(k))
    return first_derivative(value, own).detach()


def floating(x: Tensor) -> Tensor:
    """A leaf that carries gradient if the tensor can; counters stay as they are."""
    return x.detach().requires_grad_() if x.is_floating_point() else x
