r"""First-order hypergradients from the value function of the lower level.

The lower optimality is a constraint C_Q(x, y) <= min_y C_Q(x, y), with x the upper variables, z the
level's own variables (which follow min C_Q), and y a second copy, kept between calls.

f2sa    y follows min_y C_P(x, y) + w C_Q(x, y), by `steps` gradient steps per call;
            direction in x: \partial_x C_P(x, y) + w (\partial_x C_Q(x, y) - \partial_x C_Q(x, z))
        The error falls as 1 / w; w grows by `growth` per call.
bome    y = z, and y_T from `steps` gradient steps on C_Q; q = C_Q(x, z) - C_Q(x, y_T), y_T held
fixed;
            direction in (x, z): \nabla C_P + m \nabla q,  m = max(0, eta - <\nabla C_P, \nabla q> /
            |\nabla q|^2)
        The level does not take steps of its own: its direction comes back beside the root's, and
        `steps`, `start`, `stop` and a solving optimizer are refused. m divides by |\nabla q|^2, so
        with fixed steps z jumps around its optimum at a distance of about a step, and the run
        settles off the best by as much: lower both learning rates together.

No second derivative; two vectors of the level's size. Where adjoints of other levels reach the
level too (so that C_P alone does not say how the root depends on it), C_P is replaced by its
linearisation, for f2sa; bome is refused.

Plan: f2sa, the level keeps its own steps, `start = warm`. bome, its step is
`Hypergradient.directions[level]`.

Kwon, Kwon, Wright, Nowak. ICML 2023, arXiv:2301.10945; Ye, Liu, Wright, Stone, Liu. NeurIPS 2022,
arXiv:2209.08709.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bettyc.runtime.report import SolveError
from bettyc.runtime.strategies.system import Pulled, System
from bettyc.strategies import Penalty


def pull(system: System, options: Penalty) -> Pulled:
    """The cross terms of the rule, and the auxiliary variables in `memory`."""
    return f2sa(system, options) if options.rule == "f2sa" else bome(system, options)


def f2sa(system: System, options: Penalty) -> Pulled:
    """The penalised direction minus what the root's own partial derivative already holds."""
    z = system.theta[system.level].detach()
    lr = options.lr or float(system.learning_rate())
    weight = system.warm.get("weight", torch.tensor(options.weight, dtype=torch.float64))
    y = system.warm.get("y", z)
    w = float(weight)
    for _ in range(options.steps):
        g = system.gradients_at(y, (system.level,))[system.level]
        # Divided by w, so that the step fits the curvature of C_Q however large w is.
        y = y - lr * (g + _root_at(system, y)[0] / w)
    if not bool(torch.isfinite(y).all()):
        raise SolveError(
            f"the penalty of level `{system.level}` diverges; lower `lr` of its penalty"
        )
    at_y, at_z = system.gradients_at(y, system.into), system.gradients_at(z, system.into)
    cross = {name: w * (at_z[name] - at_y[name]) for name in system.into}
    moved, here = _root_at(system, y)[1], _root_at(system, z)[1]
    if moved is not None and here is not None:
        cross[system.root] = cross.get(system.root, torch.zeros_like(here)) - (moved - here)
    return Pulled(
        cross,
        products=2 * options.steps + 2,
        memory={"y": y, "weight": weight + options.growth},
    )


def bome(system: System, options: Penalty) -> Pulled:
    """The barrier direction of the root minus its own partial derivative, and the level's
    direction.
    """
    if system.upper is None:
        raise SolveError(
            f"penalty(rule = bome) through `{system.level}` needs it to be read by"
            f" `{system.root}` only"
        )
    level, root = system.level, system.root
    z = system.theta[level].detach()
    lr = options.lr or float(system.learning_rate())
    y = z
    for _ in range(options.steps):
        y = y - lr * system.gradients_at(y, (level,))[level]
    wrt = tuple(dict.fromkeys((level, root, *system.into)))
    at_z = system.gradients_at(z, wrt)
    at_y = system.gradients_at(y, wrt)
    own, upper = system.upper(z)
    q_own, q_upper = at_z[level], at_z[root] - at_y[root]
    square = q_own.square().sum() + q_upper.square().sum()
    inner = (own * q_own).sum() + (upper * q_upper).sum()
    m = (
        torch.clamp(options.eta - inner / square, min=0)
        if float(square)
        else torch.zeros_like(square)
    )
    cross = {name: m * (at_y[name] - at_z[name]) for name in dict.fromkeys((root, *system.into))}
    return Pulled(cross, products=options.steps + 2, direction=own + m * q_own)


def _root_at(system: System, own: Tensor) -> tuple[Tensor, Tensor | None]:
    """The root's derivatives in the level's variables and in its own, at another value of the
    former.
    """
    if system.upper is None:
        return system.rhs.reshape(own.shape).to(own.dtype), None
    return system.upper(own)
