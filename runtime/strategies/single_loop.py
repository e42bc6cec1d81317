r"""Variables, linear system and upper variables move together, one step each.

    u        the iterate of the linear system, kept between calls
    cross    (dg_Q/dtheta_R)^T u                 with u as it stands
    u       <- u - lr (H u - a)                  one step of gradient descent on 1/2 u.Hu - a.u

soba uses the resulting direction; ma_soba a moving average of the root's whole direction,
d <- (1 - average) d + average * direction, which brings stochastic gradients the rate of SGD.

Right in the limit: u follows H^-1 a when the levels move slowly enough. One product for H u and one
backward for the cross terms per update; one vector of memory, ma_soba a second of the root's size.

Plan: the level takes `steps = 1` per update of the root and `start = warm`; nothing is solved.

Dagréou, Ablin, Vaiter, Moreau. NeurIPS 2022, arXiv:2201.13409; Chen, Xiao, Balasubramanian,
arXiv:2306.12067 (moving average).
"""

from __future__ import annotations

import torch
from torch import Tensor

from bettyc.runtime.report import SolveError
from bettyc.runtime.strategies.launched import NO_TENSOR, Launched, Left, rate
from bettyc.runtime.strategies.system import Solution, System, rayleigh
from bettyc.strategies import SingleLoop


def solve(system: System, options: SingleLoop) -> Solution:
    """u of the call before; the step of the linear system goes to `memory`."""
    u = system.warm.get("u", torch.zeros_like(system.rhs))
    h_u = system.product(u)
    r = h_u - system.rhs
    lr = options.lr or float(system.learning_rate())
    moved = u - lr * r
    if not bool(torch.isfinite(moved).all()):
        raise SolveError(
            f"the linear system of level `{system.level}` diverges; lower `lr` of its single_loop"
        )
    return Solution(
        u,
        iterations=1,
        residual=float(r.norm()),
        min_ritz=rayleigh(u, h_u),
        memory={"u": moved},
    )


def launch(system: System, options: SingleLoop, steps: int) -> Launched:
    """The same without a look."""
    u = system.warm.get("u", torch.zeros_like(system.rhs))
    h_u = system.product(u)
    r = h_u - system.rhs
    moved = u - (options.lr or system.learning_rate()) * r
    left = {
        "finite": torch.isfinite(moved).all(),
        "residual": torch.linalg.vector_norm(r),
        "square": u @ u,
        "along": u @ h_u,
    }

    def conclude(left: Left) -> Solution | None:
        if not bool(left["finite"]):
            return None
        residual = float(left["residual"])
        return Solution(NO_TENSOR, iterations=1, residual=residual, min_ritz=rate(left))

    return Launched(left, conclude, u, memory={"u": moved})


def average(direction: Tensor, before: Tensor | None, weight: float) -> Tensor:
    """The moving average of the root's direction; the first one is taken whole."""
    return direction if before is None else (1 - weight) * before + weight * direction
