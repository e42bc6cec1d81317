"""The optimizers a program may write, and their options with defaults. Their updates are in
`bettyc.runtime.optimizers`. Where torch.optim has the optimizer, names and defaults are torch's.
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


@dataclass(frozen=True)
class SignSGD:
    """steps of the gradient's sign (PGD)"""

    lr: float = 1e-3
    differentiable: ClassVar[bool] = False
    solves: ClassVar[bool] = False


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


@dataclass(frozen=True)
class LBFGS:
    """L-BFGS with strong-Wolfe line search; runs until the gradient norm is below `tol`"""

    tol: float = 1e-8
    max_iter: int = 1000
    history: int = 10
    lr: float = 1.0
    differentiable: ClassVar[bool] = False
    solves: ClassVar[bool] = True


@dataclass(frozen=True)
class Newton:
    """Newton's method with backtracking; runs until the gradient norm is below `tol`"""

    tol: float = 1e-10
    max_iter: int = 100
    damping: float = 0.0
    differentiable: ClassVar[bool] = False
    solves: ClassVar[bool] = True


@dataclass(frozen=True)
class Exact:
    """one linear solve, for a quadratic level"""

    differentiable: ClassVar[bool] = False
    solves: ClassVar[bool] = True


OPTIMIZERS: dict[str, type[Any]] = {
    "auto": Auto,
    "exact": Exact,
    "sgd": SGD,
    "sign_sgd": SignSGD,
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": RMSprop,
    "lbfgs": LBFGS,
    "newton": Newton,
}
