r"""Cross terms by partial zeroth order: the inner steps replayed for perturbed upper variables.

    cross = -mean_j  d_j <a, theta_T(theta_R + sigma d_j) - theta_T(theta_R - sigma d_j)> / (2
    sigma),  d_j ~ N(0, I)

Only the response is estimated, the rest of the chain rule is exact. Unbiased for a response that is
linear in theta_R, otherwise for the response smoothed over sigma; the variance of one sample is
about the number of upper scalars times the square of the answer, so the error falls as sqrt(upper
scalars / samples). 2 * samples replays of the inner steps, first derivatives only, two vectors of
memory. The directions are drawn from the frame's seed.

Sow, Ji, Guan, Liang (PZOBO). AAAI 2022, arXiv:2203.01123.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bettyc.runtime.strategies.replay import replay, trajectory_of
from bettyc.runtime.strategies.system import Pulled, System, Trajectory
from bettyc.strategies import ZerothOrder


def pull(system: System, options: ZerothOrder) -> Pulled:
    """The mean over antithetic pairs."""
    path = trajectory_of(system)
    generator = torch.Generator().manual_seed(system.frame.seed)
    a = system.rhs.reshape(system.theta[system.level].shape)
    total = {name: torch.zeros_like(system.theta[name]) for name in system.into}
    for _ in range(options.samples if system.into else 0):
        d = {
            name: torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
            for name, x in total.items()
        }
        change = _end(system, path, d, options.sigma) - _end(system, path, d, -options.sigma)
        slope = (a * change).sum() / (2 * options.sigma * options.samples)
        total = {name: x - slope * d[name] for name, x in total.items()}
    return Pulled(total, products=2 * options.samples * path.length)


def _end(system: System, path: Trajectory, d: dict[str, Tensor], sigma: float) -> Tensor:
    """theta_T for the upper variables moved by sigma d."""
    moved = {**system.theta, **{name: system.theta[name] + sigma * x for name, x in d.items()}}
    return replay(system, path, path.begin(moved), 0, path.length, moved)[0]
