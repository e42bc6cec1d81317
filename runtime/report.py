"""What a hypergradient says about itself: one report per solve, and the error of a solve that
failed.

    RunError            (bettyc.failures) a run that cannot go on
      SolveError        a linear system or an inner problem has no answer that can be used
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from bettyc.failures import RunError


@dataclass(frozen=True)
class Report:
    """The certificate of one pull through one level.

    level, root: the adjoint went through `level` on its way to `root`; strategy: the name in the
    program. products: Hessian-vector products spent (for strategies without any: gradient
    evaluations). iterations: of the solver, 0 where it has none. relative_residual: ||H u - a|| /
    ||a||, None where the strategy solves no system; of a Neumann series whose mu is not known,
    that of all terms but the last. min_ritz: smallest Ritz value met, an upper bound on the
    smallest eigenvalue of H; None if not known. converged: whether the tolerance was met; None
    where there is none to meet. bound: ||H u - a|| / mu, an upper bound on ||u - H^-1 a||, where
    strong convexity mu is known. note: what was detected and done about it; empty when all went as
    planned. `severe` says that the answer is a fallback and deserves a warning.
    """

    level: str
    root: str
    strategy: str
    products: int = 0
    iterations: int = 0
    relative_residual: float | None = None
    min_ritz: float | None = None
    converged: bool | None = None
    bound: float | None = None
    note: str = ""
    severe: bool = False


@dataclass(frozen=True)
class Hypergradient:
    """The derivative of a level's objective with respect to its flat variables, and how sure it is.

    grad: shape of `theta[root]`. loss: scalar, or (replicas,) of a `foreach` level. reports: one
    per pull, in the order of the sweep. memory: what strategies keep between calls (warm starts,
    the iterates of `single_loop`); pass it to
        the next call and to checkpoints. Keys are "root/level/what".
    directions: for a lower level that moves with the root (penalty, rule bome), what its optimizer
    is to
        step along in place of a step of its own.
    """

    grad: Tensor
    loss: Tensor
    reports: tuple[Report, ...] = ()
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    directions: Mapping[str, Tensor] = field(default_factory=dict)


class SolveError(RunError):
    """A solve that has no usable answer. The message names the level, the setting to change and
    where to.
    """
