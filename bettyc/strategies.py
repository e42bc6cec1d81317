"""The ways to differentiate through a level, and their options. Each one's mathematics, cost and
source stand in its file of `bettyc.runtime.strategies`; here is only what a program may write.

A frozen dataclass per strategy; the checker, the help text and did-you-mean read its fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Exact:
    """dense or structured factorisation of the Hessian"""

    needs: ClassVar[str] = "hvp"


@dataclass(frozen=True)
class CG:
    """conjugate gradient; stops on the relative residual, detects negative curvature and breakdown"""

    iters: int = 0  # 0: as many as there are variables, at most 1000
    tol: float = 1e-6
    damping: float = 0.0
    precond: str = "none"
    warm: bool = False
    needs: ClassVar[str] = "hvp"


@dataclass(frozen=True)
class Neumann:
    """truncated Neumann series, sum of (I - lr H)^k lr v; lr = 0 estimates it from the largest eigenvalue"""

    terms: int = 10
    lr: float = 0.0
    needs: ClassVar[str] = "hvp"


@dataclass(frozen=True)
class Unroll:
    """reverse mode through the optimizer's updates; truncate = 0 keeps all of them"""

    steps: int = 0
    truncate: int = 0
    recompute: bool = False
    needs: ClassVar[str] = "trajectory"


@dataclass(frozen=True)
class FiniteDiff:
    """DARTS: central difference of the lower gradient, scaled by the lower learning rate"""

    eps: float = 0.01
    needs: ClassVar[str] = "gradient"


@dataclass(frozen=True)
class Frozen:
    """no gradient through the response: first-order approximation"""

    needs: ClassVar[str] = "nothing"


@dataclass(frozen=True)
class Auto:
    """the planner picks; `bettyc plan --why` tells why and why not the others"""

    needs: ClassVar[str] = "nothing"


STRATEGIES: dict[str, type] = {
    "auto": Auto,
    "exact": Exact,
    "cg": CG,
    "neumann": Neumann,
    "unroll": Unroll,
    "finite_diff": FiniteDiff,
    "none": Frozen,
}
