"""One pull of an adjoint through one level: what every strategy is given, and what it gives back.

A strategy answers for `level` Q, with adjoint a: the cross terms (dg_Q/dtheta_R)^T u for every R of
`into`, where H_Q u = a. Most strategies are a `solve`, System -> Solution, and the cross products
are taken for them; those that avoid second derivatives are a `pull`, System -> Pulled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from bettyc.runtime.objective import Frame, Objective
from bettyc.runtime.products import Products, gradients, nearby
from bettyc.runtime.products import products as products_of
from bettyc.runtime.report import SolveError


class Trajectory(Protocol):
    """The inner steps that led to the level's variables, so that they can be replayed.

    `others` maps every level to its flat variables; those that carry gradient stay connected, so
    that a start copied from another level, or a learning rate that is a variable, is
    differentiated. length: steps, each of one gradient. group: steps to one update of the
    optimizer, more than one where gradients are accumulated.
    """

    length: int
    group: int

    def begin(self, others: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The variables, shape of theta[level], and the optimizer's state before the first step."""
        ...

    def frame(self, k: int) -> Frame:
        """What step k, 0 <= k < length, saw."""
        ...

    def below(self, k: int) -> Mapping[str, Tensor]:
        """Variables of the levels below as step k saw them; empty where there are none."""
        ...

    def gradient(self, k: int) -> Tensor | None:
        """The gradient that step k took, where it was kept."""
        ...

    def advance(
        self,
        k: int,
        theta: Tensor,
        grad: Tensor,
        state: dict[str, Tensor],
        others: Mapping[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Step k of the optimizer, clipping and projection included; differentiable in all
        tensors.
        """
        ...


@dataclass(frozen=True)
class Sampling:
    """How a level samples. log_prob: of what a frame holds, scalar, differentiable in theta.
    redraw: the frame with another sample from the same distribution; a number of one's own for
    each.
    """

    log_prob: Callable[[Mapping[str, Tensor], Frame], Tensor]
    redraw: Callable[[Frame, int], Frame]


@dataclass
class System:
    """H u = a for one level, with all that a strategy may use to answer it.

    rhs: a, shape (size,). theta: flat variables of all levels; frame: of the level's objective. mu:
    known strong convexity. lr: the lower learning rate, None where the optimizer has none. scale: a
    positive approximation of diag(H), from the optimizer's state. warm: the last solution.
    trajectory: of the inner steps, where the executor recorded it. upper: the root's derivatives in
    the level's and in its own variables, as functions of the former; None where a has other
    sources. loss: the root's value, likewise. sampling: of a level that `score` goes through.
    certify: whether to spend a product on the true residual. compat: library whose
    formulas are taken; jacobian: of the last update, for Betty's `sama`.
    """

    level: str
    root: str
    objective: Objective
    theta: Mapping[str, Tensor]
    frame: Frame
    rhs: Tensor
    into: tuple[str, ...]
    mu: float | None = None
    lr: float | Tensor | None = None
    scale: Tensor | None = None
    warm: Mapping[str, Tensor] = field(default_factory=dict)
    trajectory: Trajectory | None = None
    upper: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    loss: Callable[[Tensor], Tensor] | None = None
    sampling: Sampling | None = None
    certify: bool = True
    compat: str = ""
    jacobian: Tensor | None = None

    @cached_property
    def products(self) -> Products:
        return products_of(self.objective, self.theta, self.frame, self.into)

    @property
    def size(self) -> int:
        return self.rhs.numel()

    def product(self, v: Tensor) -> Tensor:
        """H v in the precision of v."""
        dtype = self.theta[self.level].dtype
        return self.products.hvp(v.to(dtype)).to(v.dtype)

    def certificate(self, u: Tensor) -> Tensor:
        """H u of the solution in its precision, together with the cross terms where one backward
        gives both.
        """
        found = getattr(self.products, "certificate", self.products.hvp)
        return found(u.to(self.theta[self.level].dtype)).to(u.dtype)  # type: ignore[no-any-return]

    def for_solver(self) -> Callable[[Tensor], Tensor]:
        """`product`, or what computes it without autograd or formulas in between."""
        direct = getattr(self.products, "for_solver", None)
        same = self.rhs.dtype == self.theta[self.level].dtype
        found = direct() if direct is not None and same else None
        return self.product if found is None else found  # type: ignore[no-any-return]

    def product_rows(self, rows: Tensor) -> Tensor:
        """H applied to every row, shape (k, size), in the precision of the rows."""
        dtype = self.theta[self.level].dtype
        return self.products.columns(rows.to(dtype)).to(rows.dtype)

    def dense(self) -> Tensor:
        """H, shape (size, size), in the precision of the right-hand side."""
        return self.products.dense().to(self.rhs.dtype)

    def gradients_at(self, own: Tensor, wrt: Sequence[str]) -> dict[str, Tensor]:
        """First derivatives of the level's objective with the level's variables replaced by
        `own`.
        """
        return gradients(self.objective, {**self.theta, self.level: own}, self.frame, wrt)[1]

    def gradients_near(self, wrt: Sequence[str]) -> Callable[[Tensor], dict[str, Tensor]]:
        """The same as a function of `own`, for points around theta: what the objective detaches
        stays what it is at theta.
        """
        return nearby(self.objective, self.theta, self.frame, wrt)

    def learning_rate(self) -> Tensor:
        """The lower learning rate. Raises SolveError where the level's optimizer has none."""
        if self.lr is None:
            raise SolveError(
                f"level `{self.level}` is solved by an optimizer without a learning rate, which its"
                " `hypergrad` needs; choose cg or exact"
            )
        return torch.as_tensor(self.lr, dtype=self.rhs.dtype, device=self.rhs.device).detach()


@dataclass(frozen=True)
class Solution:
    """u of H u = a, and how it was found (see `Report`). residual: ||H u - a||, None if not known.

    memory: what to hand back as `System.warm` next time. size: ||a||, None if not known.
    """

    u: Tensor
    iterations: int = 0
    residual: float | None = None
    min_ritz: float | None = None
    converged: bool | None = None
    note: str = ""
    severe: bool = False
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    size: float | None = None


@dataclass(frozen=True)
class Pulled:
    """The cross terms of a strategy that takes them itself: for every R of `into`, shape of
    theta[R].

    products: gradient evaluations spent. direction: what the level itself moves along, for the
    rules that move it together with the root.
    """

    cross: Mapping[str, Tensor]
    products: int = 0
    converged: bool | None = None
    note: str = ""
    severe: bool = False
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    direction: Tensor | None = None


def not_finite(level: str) -> SolveError:
    """What to raise when H v is not finite."""
    return SolveError(
        f"a Hessian-vector product of level `{level}` is not finite; lower its learning rate"
    )


def steps_for(size: int) -> int:
    """Krylov steps allowed where the program names none: rounding can take more than `size`."""
    return max(1, min(10 * size, 1000))


def rayleigh(u: Tensor, h_u: Tensor) -> float | None:
    """u.Hu / u.u, which no eigenvalue of H can all exceed; None for u = 0."""
    square = float(u @ u)
    return float(u @ h_u) / square if square > 0 else None
