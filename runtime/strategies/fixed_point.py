r"""Cross terms through the fixed point of the optimizer's update.

    z = Phi(z; theta_R), z = (theta_Q, optimizer state) w <- (\partial Phi / \partial z)^T w + (a,
    0)         until ||change|| <= tol ||a|| or `iters` times cross_R = -(\partial Phi / \partial
    theta_R)^T w

Converges where Phi is a contraction, at its rate; for plain gradient descent it is the Neumann
series. With momentum the state is part of the fixed point. One backward pass through one step per
iteration; memory of one graph. An iteration that grows means that the update is no contraction:
SolveError.

Grazzi, Franceschi, Pontil, Salzo. ICML 2020, arXiv:2006.16218; Bai, Kolter, Koltun (DEQ), NeurIPS
2019.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bettyc.runtime.report import SolveError
from bettyc.runtime.strategies.replay import floating, replay, trajectory_of
from bettyc.runtime.strategies.system import Pulled, System
from bettyc.strategies import FixedPoint


def pull(system: System, options: FixedPoint) -> Pulled:
    """The cross terms, the last recorded update taken as that at its fixed point."""
    path = trajectory_of(system)
    a = system.rhs.reshape(system.theta[system.level].shape)
    if not path.length or not float(a.norm()):
        return Pulled({name: torch.zeros_like(system.theta[name]) for name in system.into})
    _, state = replay(system, path, path.begin(system.theta), 0, path.length, system.theta)
    leaves = {name: system.theta[name].detach().requires_grad_() for name in system.into}
    theta = system.theta[system.level].detach().requires_grad_()
    state = {name: floating(x) for name, x in state.items()}
    names = [name for name, x in state.items() if x.requires_grad]
    with torch.enable_grad():
        others = {**system.theta, **leaves}
        first, last = path.length - path.group, path.length
        moved, new = replay(system, path, (theta, state), first, last, others, "graph")
    outputs = [moved, *(new[name] for name in names)]
    at_first = [a, *(torch.zeros_like(state[name]) for name in names)]
    w, taken, change = _iterate(
        system, outputs, [theta, *(state[name] for name in names)], at_first, options
    )
    back = _back(outputs, list(leaves.values()), w)
    converged = change <= options.tol
    return Pulled(
        {name: -x for name, x in zip(system.into, back, strict=True)},
        products=taken,
        converged=converged,
        note="" if converged else f"changed by {change:.1e} in step {taken}; raise `iters`",
    )


def _iterate(
    system: System,
    outputs: list[Tensor],
    inputs: list[Tensor],
    start: list[Tensor],
    options: FixedPoint,
) -> tuple[list[Tensor], int, float]:
    """w, the iterations taken and the last change relative to a."""
    w, term = start, start
    first = float(start[0].norm())
    change, taken = 1.0, 0
    while taken < options.iters and change > options.tol:
        term = _back(outputs, inputs, term)
        w = [x + t for x, t in zip(w, term, strict=True)]
        change = float(torch.cat([t.flatten() for t in term]).norm()) / first
        taken += 1
        # Transients of momentum may grow for a while; nothing that converges grows a millionfold.
        if not change < 1e6:
            raise SolveError(
                f"the update of level `{system.level}` is not a contraction; lower its"
                " learning rate or use cg"
            )
    return w, taken, change


def _back(outputs: list[Tensor], inputs: list[Tensor], v: list[Tensor]) -> list[Tensor]:
    pairs = [(y, x) for y, x in zip(outputs, v, strict=True) if y.requires_grad]
    if not pairs or not inputs:
        return [torch.zeros_like(x) for x in inputs]
    found = torch.autograd.grad(
        [y for y, _ in pairs],
        inputs,
        [x for _, x in pairs],
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return [x.detach() for x in found]
