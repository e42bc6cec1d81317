r"""Cross terms by a difference along the optimizer's own Jacobian.

    theta_T = step(theta_T-1, g),   u = -(\partial step / \partial g)^T a
    (dg_Q/dtheta_R)^T u  by a central difference of the gradient at theta_T-1, of length eps

The derivative of the last inner update of the real optimizer (any that is differentiable; momentum,
bias correction and weight decay included): what `unroll` of one step gives, without second
derivatives. As far from the implicit gradient as one step is from convergence. One gradient and one
vector-Jacobian product of the update for u, two gradients for the difference; with `accumulate`, as
many of each as an update has gradients. Where the gradient is exactly zero, Adam's Jacobian is
bounded only by its eps. With sgd and one step, the second order of DARTS, equations 7 and 8. Where
kinks (of a ReLU, of a maximum) lie between the two points, they are counted too;
`unroll(truncate = 1)` has no such error.

Choe, Mehta, Ahn, Neiswanger, Xie, Strubell, Xing. NeurIPS 2023, arXiv:2310.05674.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from bettyc.runtime.report import SolveError
from bettyc.runtime.slope import replica
from bettyc.runtime.strategies.finite_diff import difference
from bettyc.runtime.strategies.replay import gradient_at, replay, trajectory_of
from bettyc.runtime.strategies.system import Pulled, System
from bettyc.strategies import Sama


def pull(system: System, options: Sama) -> Pulled:
    """The cross terms with u from the last inner step."""
    path = trajectory_of(system)
    if not path.length:
        return Pulled({name: torch.zeros_like(system.theta[name]) for name in system.into})
    first = path.length - path.group
    start = path.begin(system.theta)
    theta, state = replay(system, path, start, 0, first, system.theta)
    grads = [gradient_at(system, path, theta, k) for k in range(first, path.length)]
    directions = step_jacobian(system, theta, grads, state, first)
    if not all(bool(torch.isfinite(u).all()) for u in directions):
        raise SolveError(
            f"the optimizer of level `{system.level}` has no derivative at its last gradient;"
            " raise its eps"
        )
    total = {name: torch.zeros_like(system.theta[name]) for name in system.into}
    for k, u in enumerate(directions, first):
        for name, value in _cross(system, theta, u, k, options.eps).items():
            total[name] = total[name] + value
    rows = 1 if theta.ndim == 1 else len(theta)
    return Pulled(total, products=3 * rows * path.group)


def _cross(system: System, theta: Tensor, u: Tensor, k: int, eps: float) -> dict[str, Tensor]:
    """(dg_Q/dtheta_R)^T u for the gradient that step k took at theta; replicas added up."""
    path = trajectory_of(system)
    seen = {**system.theta, **path.below(k), system.level: theta}
    at = dataclasses.replace(system, theta=seen, frame=path.frame(k))
    if theta.ndim == 1:
        return dict(difference(at, u, eps).cross)
    total = {name: torch.zeros_like(system.theta[name]) for name in system.into}
    for i, row in enumerate(theta):
        one = dataclasses.replace(
            at, theta={**seen, system.level: row}, frame=replica(at.frame, system.level, i)
        )
        for name, value in difference(one, u[i], eps).cross.items():
            total[name] = total[name] + value
    return total


def step_jacobian(
    system: System, theta: Tensor, grads: Sequence[Tensor], state: dict[str, Tensor], first: int
) -> tuple[Tensor, ...]:
    """-(d theta_T / d g)^T a, the shape of theta, for every gradient g of the last update, which
    begins with step `first`.
    """
    path = trajectory_of(system)
    with torch.enable_grad():
        leaves = [g.detach().requires_grad_() for g in grads]
        moved = theta.detach()
        for k, g in enumerate(leaves, first):
            moved, state = path.advance(k, moved, g, state, system.theta)
        back = torch.autograd.grad(
            moved,
            leaves,
            system.rhs.reshape(theta.shape).to(moved.dtype),
            allow_unused=True,
            materialize_grads=True,
        )
    return tuple(-x for x in back)
