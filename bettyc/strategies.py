"""The ways to differentiate through a level, and their options. Each one's mathematics, cost and
source stand in its file of `bettyc.runtime.strategies`; here is only what a program may write.

A frozen dataclass per strategy; the checker, the help text and did-you-mean read its fields.
`needs` is the highest thing it takes from the level: "nothing", "gradient", "hvp" or "trajectory".
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from bettyc.model import Call


@dataclass(frozen=True)
class Exact:
    """dense or structured factorisation of the Hessian"""

    needs: ClassVar[str] = "hvp"


@dataclass(frozen=True)
class CG:
    """conjugate gradient; stops on the relative residual, detects negative curvature and breakdown"""

    iters: int = 0  # 0: until `tol`, at most 10 per variable and 1000 in all
    tol: float = 1e-6
    damping: float = 0.0
    precond: str = "none"
    warm: bool = False
    needs: ClassVar[str] = "hvp"


@dataclass(frozen=True)
class Minres:
    """minimal residuals, for an indefinite or singular Hessian"""

    iters: int = 0  # as for cg
    tol: float = 1e-6
    damping: float = 0.0
    needs: ClassVar[str] = "hvp"


@dataclass(frozen=True)
class Neumann:
    """truncated Neumann series, sum of (I - lr H)^k lr v; lr = 0 takes it from the largest eigenvalue"""

    terms: int = 10
    lr: float = 0.0
    needs: ClassVar[str] = "hvp"


@dataclass(frozen=True)
class Unroll:
    """reverse mode through the optimizer's updates; truncate = 0 keeps all of them"""

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
    "minres": Minres,
    "neumann": Neumann,
    "unroll": Unroll,
    "finite_diff": FiniteDiff,
    "none": Frozen,
}


def make(call: Call) -> Any:
    """The options that a call states, e.g. `cg(tol = 1e-8)`; positional ones in the order of the fields.

    Raises ValueError for a name or an option that does not exist.
    """
    if call.name not in STRATEGIES:
        raise ValueError(f"no strategy `{call.name}`; there are {', '.join(STRATEGIES)}")
    cls = STRATEGIES[call.name]
    known = [field.name for field in fields(cls)]
    given = dict(zip(known, call.positional, strict=False)) | dict(call.named)
    unknown = sorted(set(given) - set(known))
    if unknown or len(call.positional) > len(known):
        raise ValueError(f"`{call.name}` has the options {', '.join(known) or 'none'}, not {unknown}")
    return cls(**given)


def name_of(options: Any) -> str:
    """The name in `STRATEGIES` of an instance made by `make`."""
    return next(name for name, cls in STRATEGIES.items() if type(options) is cls)
