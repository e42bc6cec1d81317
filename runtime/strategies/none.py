"""No gradient through the response: the level's solution is taken as a constant, (dg/dtheta_R)^T u
~ 0.

Costs nothing. Right only where the solution does not move with the variables above; with one inner
step from `copy` it is first-order MAML.

Finn, Abbeel, Levine. ICML 2017, arXiv:1703.03400, section 5.2.
"""

from __future__ import annotations

import torch

from bettyc.runtime.strategies.launched import Launched
from bettyc.runtime.strategies.system import Pulled, System
from bettyc.strategies import Frozen


def pull(system: System, options: Frozen) -> Pulled:
    """Zeros."""
    return Pulled({name: torch.zeros_like(system.theta[name]) for name in system.into})


def launch(system: System, options: Frozen, steps: int) -> Launched:
    """Zeros: nothing is looked at."""
    return Launched({}, lambda left: Pulled({}), cross=pull(system, options).cross)
