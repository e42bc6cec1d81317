r"""Cross terms by a difference along the optimizer's own Jacobian.

    theta_T = step(theta_T-1, g),   u = -(\partial step / \partial g)^T a
    (dg_Q/dtheta_R)^T u  by a central difference of the gradient at theta_T-1, of length eps

The derivative of the last inner step of the real optimizer (any that is differentiable; momentum,
bias correction and weight decay included): what `unroll` of one step gives, without second
derivatives. As far from the implicit gradient as one step is from convergence. One gradient and one
vector-Jacobian product of the update for u, two gradients for the difference. Where the gradient is
exactly zero, Adam's Jacobian is bounded only by its eps.

Choe, Mehta, Ahn, Neiswanger, Xie, Strubell, Xing. NeurIPS 2023, arXiv:2310.05674.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from bettyc.runtime.products import replica
from bettyc.runtime.report import SolveError
from bettyc.runtime.strategies.finite_diff import difference
from bettyc.runtime.strategies.replay import gradient_at, replay, trajectory_of
from bettyc.runtime.strategies.system import Pulled, System
from bettyc.strategies import Sama


def pull(system: System, options: Sama) -> Pulled:
    """The cross terms with u from the last inner step."""
    path = trajectory_of(system)
    if not path.length:
        return Pulled({name: torch.zeros_like(system.theta[name]) for name in system.into})
    k = path.length - 1
    theta, state = replay(system, path, path.begin(system.theta), 0, k, system.theta, graph=False)
    grad = gradient_at(system, path, theta, k)
    u = step_jacobian(system, theta, grad, state, k)
    if not bool(torch.isfinite(u).all()):
        raise SolveError(
            f"the optimizer of level `{system.level}` has no derivative at its last gradient;"
            " raise its eps"
        )
    seen = {**system.theta, **path.below(k), system.level: theta}
    at = dataclasses.replace(system, theta=seen, frame=path.frame(k))
    if theta.ndim == 1:
        found = difference(at, u, options.eps)
        return dataclasses.replace(found, products=found.products + 1)
    total = {name: torch.zeros_like(system.theta[name]) for name in system.into}
    for i, row in enumerate(theta):
        one = dataclasses.replace(
            at, theta={**seen, system.level: row}, frame=replica(at.frame, system.level, i)
        )
        for name, value in difference(one, u[i], options.eps).cross.items():
            total[name] = total[name] + value
    return Pulled(total, products=3 * len(theta))


def step_jacobian(
    system: System, theta: Tensor, grad: Tensor, state: dict[str, Tensor], k: int
) -> Tensor:
    """-(d theta_k+1 / d g)^T a, the shape of theta."""
    path = trajectory_of(system)
    with torch.enable_grad():
        g = grad.detach().requires_grad_()
        moved, _ = path.advance(k, theta.detach(), g, state, system.theta)
        (back,) = torch.autograd.grad(
            moved,
            [g],
            system.rhs.reshape(theta.shape).to(moved.dtype),
            allow_unused=True,
            materialize_grads=True,
        )
    return -back
