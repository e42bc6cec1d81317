"""A pull whose device work is queued without a look at the device, as a CUDA graph needs it.

What the host wants to know is left in tensors that come back with the results, and looked at once
they are there. Where a decision then falls otherwise than was assumed (curvature that is not
positive, more steps than were queued), the pull is taken again by the strategy itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bettyc.runtime.strategies.system import Pulled, Solution, System

Left = Mapping[str, Tensor]
NO_TENSOR = torch.empty(0)


@dataclass(frozen=True)
class Launched:
    """u: the solution, whose cross products are still to be taken, or None; then cross is given.

    left: what the host reads later, on the device; conclude: what it makes of that, on the CPU and
    in float64: a Solution or Pulled without its tensors, or None where the strategy itself has to
    take the pull again. memory: as `Solution.memory`.
    """

    left: Left
    conclude: Callable[[Left], Solution | Pulled | None]
    u: Tensor | None = None
    cross: Mapping[str, Tensor] | None = None
    memory: Mapping[str, Tensor] = field(default_factory=dict)


# (system, options, steps that may be queued) -> the work
Launch = Callable[[System, Any, int], Launched]


def certified(system: System, u: Tensor, damping: float = 0.0) -> dict[str, Tensor]:
    """Of the true residual: its norm with and without the damping, u.u and u.Hu."""
    h_u = system.certificate(u)
    left = system.rhs - h_u
    return {
        "undamped": torch.linalg.vector_norm(left),
        "damped": torch.linalg.vector_norm(left - damping * u),
        "square": u @ u,
        "along": u @ h_u,
    }


def rate(left: Left) -> float | None:
    """u.Hu / u.u of `certified`, None for u = 0."""
    square = float(left["square"])
    return float(left["along"]) / square if square > 0 else None
