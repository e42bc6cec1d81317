r"""Cross terms by a central difference of the lower gradient.

    H^-1 ~ lr I, the lower learning rate:   u = lr a (dg_Q/dtheta_R)^T u  ~  lr [ grad_R C_Q(theta_Q
    + e a) - grad_R C_Q(theta_Q - e a) ] / (2 e),   e = eps / ||a||

One step of the lower level is differentiated, so it is right where the level takes one plain
gradient step per step above, and cheap everywhere: two gradients, no second derivative, two vectors
of memory. The difference errs by O(eps^2) in the third derivative and by O(rounding / eps). The
variables are perturbed as copies.

Liu, Simonyan, Yang. DARTS, ICLR 2019, arXiv:1806.09055, equation 8.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bettyc.runtime.strategies.system import Pulled, System
from bettyc.strategies import FiniteDiff


def pull(system: System, options: FiniteDiff) -> Pulled:
    """The cross terms with u = lr a."""
    return difference(system, system.learning_rate() * system.rhs, options.eps)


def difference(system: System, u: Tensor, eps: float) -> Pulled:
    """(dg/dtheta_R)^T u for every R, the variables moved by eps along u / ||u|| and back."""
    size = u.norm()
    if not float(size) or not system.into:
        return Pulled({name: torch.zeros_like(system.theta[name]) for name in system.into})
    own = system.theta[system.level]
    step = (eps / size * u).to(own.dtype)
    plus = system.gradients_at(own + step, system.into)
    minus = system.gradients_at(own - step, system.into)
    return Pulled({r: (plus[r] - minus[r]) * (size / (2 * eps)) for r in system.into}, products=2)
