"""Three levels with third derivatives that matter, and their hypergradient by solving everything
anew.

The solver here knows only torch.func and the implicit function theorem of first order, written out
for this chain: low is solved by Newton, mid by Newton on the gradient of its reduced objective
(with its Jacobian by central differences), and the top is differentiated by central differences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from problems import Formula, Problem, central, normal, spd
from torch import Tensor

Cost = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Chain:
    """low(x, y, z), mid(x, y, z), top(x, y, z): objectives of the levels with variables x, y and z.

    low_reads_top: whether low reads z (else only y); top_stars_low: whether top reads x.
    """

    low: Cost
    mid: Cost
    top: Cost
    sizes: tuple[int, int, int]

    def solve_low(self, y: Tensor, z: Tensor) -> Tensor:
        x = torch.zeros(self.sizes[0], dtype=torch.float64)
        for _ in range(30):
            g = torch.func.grad(self.low)(x, y, z)
            if float(g.norm()) < 1e-15:
                break
            x = x - torch.linalg.solve(torch.func.jacrev(torch.func.grad(self.low))(x, y, z), g)
        return x

    def gradient_mid(self, y: Tensor, z: Tensor) -> Tensor:
        x = self.solve_low(y, z)
        h = torch.func.jacrev(torch.func.grad(self.low))(x, y, z)
        cross = torch.func.jacrev(torch.func.grad(self.low), argnums=1)(x, y, z)
        a, own = torch.func.grad(self.mid, argnums=(0, 1))(x, y, z)
        return own - cross.T @ torch.linalg.solve(h, a)

    def solve_mid(self, z: Tensor) -> Tensor:
        y = torch.zeros(self.sizes[1], dtype=torch.float64)
        for _ in range(30):
            g = self.gradient_mid(y, z)
            if float(g.norm()) < 1e-14:
                break
            e = 1e-5 * torch.eye(len(y), dtype=y.dtype)
            jacobian = torch.stack(
                [(self.gradient_mid(y + d, z) - self.gradient_mid(y - d, z)) / 2e-5 for d in e], 1
            )
            y = y - torch.linalg.solve(jacobian, g)
        return y

    def value(self, z: Tensor) -> Tensor:
        y = self.solve_mid(z)
        return self.top(self.solve_low(y, z), y, z)

    def problem(self, z: Tensor) -> Problem:
        y = self.solve_mid(z)
        theta = {"low": self.solve_low(y, z), "mid": y, "top": z}

        def objective(level: str, cost: Cost) -> Formula:
            reads = (level, *(n for n in ("low", "mid", "top") if n != level))
            return Formula(level, reads, lambda t: cost(t["low"], t["mid"], t["top"]))

        objectives = {n: objective(n, getattr(self, n)) for n in ("low", "mid", "top")}
        return Problem(
            objectives, theta, ("low", "mid", "top"), answer=central(self.value, z, step=1e-4)
        )


def curved(seed: int = 0, strength: float = 0.4) -> Chain:
    """Strongly convex quadratics with smooth couplings of all three variables in every level."""
    sizes = (3, 2, 2)
    total = sum(sizes)
    hs = [spd(n, 3, seed=seed + i) for i, n in enumerate(sizes)]
    ws = [normal(4, total, seed=seed + 10 + i) / total**0.5 for i in range(3)]
    bs = [normal(4, seed=seed + 20 + i) for i in range(3)]

    def cost(i: int) -> Cost:
        def function(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
            own = (x, y, z)[i]
            mixed = torch.cat([x, y, z])
            waves = torch.sin(ws[i] @ mixed + bs[i])
            return (
                0.5 * own @ hs[i] @ own
                + strength * waves.sum()
                + strength / 4 * (mixed @ mixed) * waves[0] / total
            )

        return function

    return Chain(cost(0), cost(1), cost(2), sizes)


def hpo_of_hpo(seed: int = 0) -> Chain:
    """Ridge; its log penalties, pulled towards a prior; the prior. fit reads reg only, prior stars
    fit only.
    """
    n, d = 25, 3
    x_train, x_val, x_meta = (normal(n, d, seed=seed + i) for i in range(3))
    truth = normal(d, seed=seed + 3)
    y_train, y_val, y_meta = (
        x @ truth + 0.5 * normal(n, seed=seed + 4 + i)
        for i, x in enumerate((x_train, x_val, x_meta))
    )

    def fit(w: Tensor, log_wd: Tensor, prior: Tensor) -> Tensor:
        return 0.5 * (x_train @ w - y_train).square().mean() + 0.5 * (log_wd.exp() * w * w).sum()

    def reg(w: Tensor, log_wd: Tensor, prior: Tensor) -> Tensor:
        return (x_val @ w - y_val).square().mean() + prior[1].exp() * (
            log_wd - prior[0]
        ).square().sum()

    def prior(w: Tensor, log_wd: Tensor, prior: Tensor) -> Tensor:
        return (x_meta @ w - y_meta).square().mean()

    return Chain(fit, reg, prior, (d, d, 2))
