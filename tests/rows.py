"""One row per strategy: its options, and the u it must find on 1/2 w.Hw + w.Bx + b.w.

The hypergradient of 1/2 |w - c|^2 + 1/2 |x|^2 is then x - B^T u.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bettyc.strategies import (
    CG,
    Danskin,
    Exact,
    FiniteDiff,
    FixedPoint,
    Forward,
    Frozen,
    Gmres,
    Minres,
    Neumann,
    Nystrom,
    OneStep,
    Penalty,
    Sama,
    Score,
    SingleLoop,
    Unroll,
    ZerothOrder,
)

LR, STEPS = 0.3, 4


@dataclass(frozen=True)
class Case:
    """H, the adjoint a and the level's variables w, all small and dense."""

    h: Tensor
    a: Tensor
    w: Tensor
    g: Tensor

    def series(self, terms: int, lr: float = LR) -> Tensor:
        """sum_k<terms lr (I - lr H)^k a"""
        step = torch.eye(len(self.h), dtype=self.h.dtype) - lr * self.h
        return sum(
            (lr * torch.linalg.matrix_power(step, k) @ self.a for k in range(terms)),
            torch.zeros_like(self.a),
        )

    def inverse(self) -> Tensor:
        values, vectors = torch.linalg.eigh(self.h)
        kept = values.abs() > 1e-12
        return vectors @ torch.where(kept, vectors.T @ self.a / torch.where(kept, values, 1), 0)

    def damped(self) -> Tensor:
        eye = torch.eye(len(self.h), dtype=self.h.dtype)
        return torch.linalg.solve(self.h + 0.1 * eye, self.a)

    def penalised(self) -> Tensor:
        """w (z - y) with y after gradient steps on C_Q + C_P / w, C_P = 1/2 |. - c|^2 and w = 8."""
        y, c = self.w, self.w - self.a
        for _ in range(5):
            y = y - LR * (self.g + self.h @ (y - self.w) + (y - c) / 8)
        return 8 * (self.w - y)


Answer = Callable[[Case], Tensor]

ROWS: dict[str, tuple[Any, Answer]] = {
    "exact": (Exact(), Case.inverse),
    "cg": (CG(tol=1e-13), Case.inverse),
    "minres": (Minres(tol=1e-13), Case.inverse),
    "gmres": (Gmres(tol=1e-13), Case.inverse),
    "neumann": (Neumann(terms=6, lr=LR), lambda c: c.series(6)),
    "nystrom": (Nystrom(rank=9, damping=0.1), Case.damped),
    "one_step": (OneStep(), lambda c: LR * c.a),
    "finite_diff": (FiniteDiff(), lambda c: LR * c.a),
    "sama": (Sama(), lambda c: LR * c.a),
    "unroll": (Unroll(), lambda c: c.series(STEPS)),
    "forward": (Forward(), lambda c: c.series(STEPS)),
    "fixed_point": (FixedPoint(iters=7, tol=0.0), lambda c: c.series(8)),
    "single_loop": (SingleLoop(), lambda c: torch.zeros_like(c.a)),
    "penalty": (Penalty(weight=8.0, steps=5), Case.penalised),
    "zeroth_order": (ZerothOrder(samples=3), None),
    "score": (Score(), lambda c: c.series(STEPS)),  # nothing is sampled: what its updates do
    "danskin": (Danskin(), lambda c: torch.zeros_like(c.a)),
    "none": (Frozen(), lambda c: torch.zeros_like(c.a)),
}
