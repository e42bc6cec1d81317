r"""Cross terms by a central difference of the lower gradient.

    H^-1 ~ lr I, the lower learning rate:   u = lr a (dg_Q/dtheta_R)^T u  ~  lr [ grad_R C_Q(theta_Q
    + e a) - grad_R C_Q(theta_Q - e a) ] / (2 e),   e = eps / ||a||

One step of the lower level is differentiated, so it is right where the level takes one plain
gradient step per step above, and cheap everywhere: two gradients, no second derivative, one vector
of memory. The difference errs by O(eps^2) in the third derivative and by O(rounding / eps). The
variables are perturbed as a copy; what the objective detaches stays what it is at theta_Q. Where
kinks (of a ReLU, of a maximum) lie between the two points, they are counted too.

Liu, Simonyan, Yang. DARTS, ICLR 2019, arXiv:1806.09055, equation 8, but around the variables after
the step; DARTS takes it around those before, which is what `sama` does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bettyc.runtime.strategies.launched import Launched
from bettyc.runtime.strategies.system import Pulled, System
from bettyc.strategies import FiniteDiff


def pull(system: System, options: FiniteDiff) -> Pulled:
    """The cross terms with u = lr a."""
    return difference(system, system.rhs, options.eps, system.learning_rate())


def launch(system: System, options: FiniteDiff, steps: int) -> Launched:
    """The difference with its length taken on the device."""
    own = system.theta[system.level]
    if not system.into:
        return Launched({}, lambda left: Pulled({}), cross={})
    direction = system.rhs.to(own.dtype)
    size = torch.linalg.vector_norm(system.rhs).double()
    # for a = 0 both points are theta, and their difference is 0
    step = torch.where(size > 0, options.eps / size, 0.0).to(own.dtype)
    gradients = system.gradients_near(system.into)
    plus = gradients(torch.addcmul(own, direction, step))
    minus = gradients(torch.addcmul(own, direction, -step))
    scale = system.learning_rate() * (size / (2 * options.eps))
    cross = {r: (plus[r] - minus[r]) * scale.to(plus[r].dtype) for r in system.into}
    return Launched({}, lambda left: Pulled({}, products=2), cross=cross)


def difference(
    system: System,
    direction: Tensor,
    eps: float,
    factor: float | Tensor = 1.0,
    held: bool = True,
) -> Pulled:
    """(dg/dtheta_R)^T u for every R, u = factor * direction, the variables moved by eps along
    u / ||u|| and back. held: what the objective detaches does not move with them.

    Memory: one vector besides the direction.
    """
    size = float(direction.norm())
    if not size or not system.into:
        return Pulled({name: torch.zeros_like(system.theta[name]) for name in system.into})
    own = system.theta[system.level]
    direction = direction.to(own.dtype)
    near = system.gradients_near(system.into) if held else None
    gradients = near or (lambda own: system.gradients_at(own, system.into))
    point = torch.add(own, direction, alpha=eps / size)
    plus = gradients(point)
    torch.add(own, direction, alpha=-eps / size, out=point)
    minus = gradients(point)
    scale = factor * (size / (2 * eps))
    return Pulled({r: (plus[r] - minus[r]) * scale for r in system.into}, products=2)
