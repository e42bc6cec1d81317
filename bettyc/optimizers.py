"""The optimizers a program may write, and their options with defaults. Their updates are in
`bettyc.runtime.optimizers`; `captured` says whether these can be recorded in a CUDA graph. Where
torch.optim has the optimizer, names and defaults are torch's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Auto:
    """exact solve for a quadratic level, Newton or L-BFGS to `tol` for a GLM"""

    tol: float = 1e-8
    differentiable: ClassVar[bool] = False
    solves: ClassVar[bool] = True
    captured: ClassVar[bool] = False


@dataclass(frozen=True)
class SGD:
    """stochastic gradient descent"""

    lr: float = 1e-3
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    differentiable: ClassVar[bool] = True
    solves: ClassVar[bool] = False
    captured: ClassVar[bool] = True


@dataclass(frozen=True)
class SignSGD:
    """steps of the gradient's sign (PGD)"""

    lr: float = 1e-3
    differentiable: ClassVar[bool] = False
    solves: ClassVar[bool] = False
    captured: ClassVar[bool] = True


@dataclass(frozen=True)
class Adam:
    """Adam, Kingma and Ba 2015"""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False
    differentiable: ClassVar[bool] = True
    solves: ClassVar[bool] = False
    captured: ClassVar[bool] = True


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay, Loshchilov and Hutter 2019"""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-2
    amsgrad: bool = False
    differentiable: ClassVar[bool] = True
    solves: ClassVar[bool] = False
    captured: ClassVar[bool] = True


@dataclass(frozen=True)
class RMSprop:
    """RMSprop, Hinton 2012"""

    lr: float = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False
    differentiable: ClassVar[bool] = True
    solves: ClassVar[bool] = False
    captured: ClassVar[bool] = True


@dataclass(frozen=True)
class Adagrad:
    """Adagrad, Duchi et al. 2011"""

    lr: float = 1e-2
    lr_decay: float = 0.0
    weight_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10
    differentiable: ClassVar[bool] = True
    solves: ClassVar[bool] = False
    captured: ClassVar[bool] = True


@dataclass(frozen=True)
class Adadelta:
    """Adadelta, Zeiler 2012"""

    lr: float = 1.0
    rho: float = 0.9
    eps: float = 1e-6
    weight_decay: float = 0.0
    differentiable: ClassVar[bool] = False
    solves: ClassVar[bool] = False
    captured: ClassVar[bool] = False


@dataclass(frozen=True)
class Adamax:
    """Adam in the maximum norm"""

    lr: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    differentiable: ClassVar[bool] = False
    solves: ClassVar[bool] = False
    captured: ClassVar[bool] = False


@dataclass(frozen=True)
class NAdam:
    """Adam with Nesterov momentum, Dozat 2016"""

    lr: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum_decay: float = 4e-3
    decoupled_weight_decay: bool = False
    differentiable: ClassVar[bool] = False
    solves: ClassVar[bool] = False
    captured: ClassVar[bool] = False


@dataclass(frozen=True)
class RAdam:
    """rectified Adam, Liu et al. 2020"""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled_weight_decay: bool = False
    differentiable: ClassVar[bool] = False
    solves: ClassVar[bool] = False
    captured: ClassVar[bool] = False


@dataclass(frozen=True)
class Rprop:
    """resilient propagation, for full batches"""

    lr: float = 1e-2
    etas: tuple[float, float] = (0.5, 1.2)
    step_sizes: tuple[float, float] = (1e-6, 50.0)
    differentiable: ClassVar[bool] = False
    solves: ClassVar[bool] = False
    captured: ClassVar[bool] = False


@dataclass(frozen=True)
class ASGD:
    """averaged SGD, Polyak and Juditsky 1992"""

    lr: float = 1e-2
    lambd: float = 1e-4
    alpha: float = 0.75
    t0: float = 1e6
    weight_decay: float = 0.0
    differentiable: ClassVar[bool] = False
    solves: ClassVar[bool] = False
    captured: ClassVar[bool] = False


@dataclass(frozen=True)
class Adafactor:
    """Adafactor, Shazeer and Stern 2018; eps1 = 0 takes the precision's"""

    lr: float = 1e-2
    beta2_decay: float = -0.8
    eps1: float = 0.0
    eps2: float = 1e-3
    d: float = 1.0
    weight_decay: float = 0.0
    differentiable: ClassVar[bool] = False
    solves: ClassVar[bool] = False
    captured: ClassVar[bool] = False


@dataclass(frozen=True)
class Muon:
    """Muon for matrices, AdamW for everything else (Jordan et al. 2024)"""

    lr: float = 1e-3
    weight_decay: float = 0.1
    momentum: float = 0.95
    nesterov: bool = True
    ns_steps: int = 5
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315)
    eps: float = 1e-7
    adjust_lr_fn: str = ""  # torch's "original" or "match_rms_adamw"; empty: as torch chooses
    differentiable: ClassVar[bool] = False
    solves: ClassVar[bool] = False
    captured: ClassVar[bool] = False


@dataclass(frozen=True)
class LBFGS:
    """L-BFGS with strong-Wolfe line search; runs until the gradient norm is below `tol`"""

    tol: float = 1e-8
    max_iter: int = 1000
    history: int = 10
    lr: float = 1.0
    differentiable: ClassVar[bool] = False
    solves: ClassVar[bool] = True
    captured: ClassVar[bool] = False


@dataclass(frozen=True)
class Newton:
    """Newton's method with backtracking; runs until the gradient norm is below `tol`"""

    tol: float = 1e-10
    max_iter: int = 100
    damping: float = 0.0
    differentiable: ClassVar[bool] = False
    solves: ClassVar[bool] = True
    captured: ClassVar[bool] = False


@dataclass(frozen=True)
class Exact:
    """one linear solve, for a quadratic level"""

    differentiable: ClassVar[bool] = False
    solves: ClassVar[bool] = True
    captured: ClassVar[bool] = False


OPTIMIZERS: dict[str, type[Any]] = {
    "auto": Auto,
    "exact": Exact,
    "sgd": SGD,
    "sign_sgd": SignSGD,
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": RMSprop,
    "adagrad": Adagrad,
    "adadelta": Adadelta,
    "adamax": Adamax,
    "nadam": NAdam,
    "radam": RAdam,
    "rprop": Rprop,
    "asgd": ASGD,
    "adafactor": Adafactor,
    "muon": Muon,
    "lbfgs": LBFGS,
    "newton": Newton,
}
