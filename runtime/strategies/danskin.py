r"""No second-order term: the level and the root are opposite senses of one objective.

    C_Q = -C_P  and theta_Q optimal   =>   d C_P / d theta_P = \partial C_P / \partial theta_P

Exact for zero-sum levels at their optimum, constrained or not (envelope theorem); the planner
proves that the objectives are the same formula. Costs nothing.

Danskin 1967; in adversarial training Madry et al., arXiv:1706.06083, appendix A.
"""

from __future__ import annotations

import torch

from bettyc.runtime.strategies.launched import Launched
from bettyc.runtime.strategies.system import Pulled, System
from bettyc.strategies import Danskin


def pull(system: System, options: Danskin) -> Pulled:
    """Zeros."""
    return Pulled({name: torch.zeros_like(system.theta[name]) for name in system.into})


def launch(system: System, options: Danskin, steps: int) -> Launched:
    """Zeros: nothing is looked at."""
    return Launched({}, lambda left: Pulled({}), cross=pull(system, options).cross)
