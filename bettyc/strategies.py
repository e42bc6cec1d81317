"""The ways to differentiate through a level, and their options. Each one's mathematics, cost and
source stand in its file of `bettyc.runtime.strategies`; here is only what a program may write.

A frozen dataclass per strategy; the checker, the help text and did-you-mean read its fields.
`needs` is what it takes from the level: "nothing", "gradient", "hvp" or "trajectory"; `keep` how
many of the last steps of a trajectory it replays, 0 for all (or for `truncate`). `waits` is why it
cannot be recorded in a CUDA graph, if it cannot. `words` are the values that an option that is a
word may have.
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
    waits: ClassVar[str] = "looks at the Hessian to choose a factorisation"


@dataclass(frozen=True)
class CG:
    """conjugate gradient; stops on the residual, detects negative curvature and breakdown"""

    iters: int = 0  # 0: until `tol`, at most 10 per variable and 1000 in all
    tol: float = 1e-6
    damping: float = 0.0
    precond: str = "none"
    probes: int = 10  # products that the preconditioner may spend
    warm: bool = False
    needs: ClassVar[str] = "hvp"
    waits: ClassVar[str] = ""
    words: ClassVar[dict[str, tuple[str, ...]]] = {
        "precond": ("none", "diagonal", "nystrom", "optimizer")
    }


@dataclass(frozen=True)
class Minres:
    """minimal residuals, for an indefinite or singular Hessian"""

    iters: int = 0  # as for cg
    tol: float = 1e-6
    damping: float = 0.0
    needs: ClassVar[str] = "hvp"
    waits: ClassVar[str] = "looks at its residual in every step"


@dataclass(frozen=True)
class Gmres:
    """generalised minimal residuals, for an ill-conditioned or non-symmetric system"""

    iters: int = 0  # as for cg
    tol: float = 1e-6
    damping: float = 0.0
    restart: int = 50
    needs: ClassVar[str] = "hvp"
    waits: ClassVar[str] = "looks at its residual in every step"


@dataclass(frozen=True)
class Neumann:
    """truncated Neumann series; lr = 0 takes it from the largest eigenvalue"""

    terms: int = 10
    lr: float = 0.0
    needs: ClassVar[str] = "hvp"
    waits: ClassVar[str] = ""


@dataclass(frozen=True)
class Nystrom:
    """low-rank sketch of the Hessian with Woodbury"""

    rank: int = 10
    damping: float = 0.01
    needs: ClassVar[str] = "hvp"
    waits: ClassVar[str] = "looks at the spectrum of its sketch"


@dataclass(frozen=True)
class OneStep:
    """one step of the lower level: inverse Hessian ~ learning rate (T1-T2)"""

    needs: ClassVar[str] = "hvp"
    waits: ClassVar[str] = ""


@dataclass(frozen=True)
class FiniteDiff:
    """DARTS: central difference of the lower gradient, scaled by the lower learning rate"""

    eps: float = 0.01
    needs: ClassVar[str] = "gradient"
    waits: ClassVar[str] = ""


@dataclass(frozen=True)
class Sama:
    """central difference along the derivative of the optimizer's last step"""

    eps: float = 0.01
    needs: ClassVar[str] = "trajectory"
    waits: ClassVar[str] = "looks at the optimizer's derivative"
    keep: ClassVar[int] = 1


@dataclass(frozen=True)
class Unroll:
    """reverse mode through the optimizer's updates; truncate = 0 keeps all of them"""

    truncate: int = 0
    recompute: bool = False
    first_order: bool = False
    needs: ClassVar[str] = "trajectory"
    waits: ClassVar[str] = ""


@dataclass(frozen=True)
class Forward:
    """forward mode through the optimizer's updates, for few upper variables"""

    needs: ClassVar[str] = "trajectory"
    waits: ClassVar[str] = "pushes one direction after another"


@dataclass(frozen=True)
class FixedPoint:
    """iteration through the fixed point of the optimizer's update"""

    iters: int = 100
    tol: float = 1e-6
    needs: ClassVar[str] = "trajectory"
    waits: ClassVar[str] = "looks at its residual in every step"
    keep: ClassVar[int] = 1


@dataclass(frozen=True)
class ZerothOrder:
    """evolution strategies: the inner steps replayed for perturbed upper variables"""

    samples: int = 10
    sigma: float = 0.01
    needs: ClassVar[str] = "trajectory"
    waits: ClassVar[str] = "draws its directions on the host"


@dataclass(frozen=True)
class Score:
    """REINFORCE through what the level samples, and `unroll` through its updates"""

    log_prob: float | None = None  # a formula: of what the level drew for one gradient
    samples: int = 10
    baseline: str = "leave_one_out"
    needs: ClassVar[str] = "trajectory"
    waits: ClassVar[str] = "draws anew on the host"
    words: ClassVar[dict[str, tuple[str, ...]]] = {"baseline": ("none", "leave_one_out")}


@dataclass(frozen=True)
class SingleLoop:
    """one step of the linear system per step of the levels; rule is "soba" or "ma_soba" """

    rule: str = "soba"
    lr: float = 0.0  # of the linear system; 0: the level's own
    average: float = 0.1  # ma_soba: weight of the new direction in the moving average
    needs: ClassVar[str] = "hvp"
    waits: ClassVar[str] = ""
    words: ClassVar[dict[str, tuple[str, ...]]] = {"rule": ("soba", "ma_soba")}


@dataclass(frozen=True)
class Penalty:
    """first-order, from the value function of the level; rule is "f2sa" or "bome" """

    rule: str = "f2sa"
    weight: float = 10.0  # f2sa: multiplier of the lower objective
    growth: float = 0.0  # f2sa: added to the weight per update
    steps: int = 10
    lr: float = 0.0  # of the auxiliary variables; 0: the level's own
    eta: float = 0.5  # bome: share of the constraint's gradient that must be descended
    needs: ClassVar[str] = "gradient"
    waits: ClassVar[str] = "steps variables of its own and looks at them"
    words: ClassVar[dict[str, tuple[str, ...]]] = {"rule": ("f2sa", "bome")}


@dataclass(frozen=True)
class Danskin:
    """zero-sum levels: no second-order term"""

    needs: ClassVar[str] = "nothing"
    waits: ClassVar[str] = ""


@dataclass(frozen=True)
class Frozen:
    """no gradient through the response: first-order approximation"""

    needs: ClassVar[str] = "nothing"
    waits: ClassVar[str] = ""


@dataclass(frozen=True)
class Auto:
    """the planner picks; `bettyc plan --why` tells why and why not the others"""

    needs: ClassVar[str] = "nothing"
    waits: ClassVar[str] = "is not chosen yet"


STRATEGIES: dict[str, type[Any]] = {
    "auto": Auto,
    "exact": Exact,
    "cg": CG,
    "minres": Minres,
    "gmres": Gmres,
    "neumann": Neumann,
    "nystrom": Nystrom,
    "one_step": OneStep,
    "finite_diff": FiniteDiff,
    "sama": Sama,
    "unroll": Unroll,
    "forward": Forward,
    "fixed_point": FixedPoint,
    "single_loop": SingleLoop,
    "penalty": Penalty,
    "zeroth_order": ZerothOrder,
    "score": Score,
    "danskin": Danskin,
    "none": Frozen,
}


def make(call: Call) -> Any:
    """The options that a call states, e.g. `cg(tol = 1e-8)`; positional ones in order.

    Raises ValueError for a name, an option or a word that does not exist.
    """
    if call.name not in STRATEGIES:
        raise ValueError(f"no strategy `{call.name}`; there are {', '.join(STRATEGIES)}")
    cls = STRATEGIES[call.name]
    known = [field.name for field in fields(cls)]
    words: dict[str, tuple[str, ...]] = getattr(cls, "words", {})
    given = dict(zip(known, call.positional, strict=False)) | dict(call.named)
    unknown = sorted(set(given) - set(known))
    if unknown or len(call.positional) > len(known):
        options = ", ".join(known) or "no options"
        raise ValueError(f"`{call.name}` has {options}, not {unknown or call.positional}")
    for name, choices in words.items():
        if name in given and given[name] not in choices:
            raise ValueError(f"no {name} `{given[name]}`; there are {', '.join(choices)}")
    return cls(**given)


def name_of(options: Any) -> str:
    """The name in `STRATEGIES` of an instance made by `make`."""
    return next(name for name, cls in STRATEGIES.items() if type(options) is cls)
