"""The hypergradient at the solution itself, in float64: what every library comes near to.

The lower problem is solved by Newton's method and the linear systems by conjugate gradient, each to
rounding, with products by autograd: nothing of bettyc takes part.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from bilevel import PROBLEMS
from torch import Tensor


def reference(name: str) -> Tensor:
    """The derivative of the upper objective at lam, flat. Raises ArithmeticError where the lower
    problem is not solved.
    """
    problem = PROBLEMS[name](dtype=torch.float64)
    w, lam = problem.start.clone(), problem.lam.clone().requires_grad_()
    for _ in range(50):
        w = w.detach().requires_grad_()
        (g,) = torch.autograd.grad(problem.lower(w, lam), w, create_graph=True)
        size = float(g.detach().norm())
        if size < 1e-12:
            break
        tol = max(1e-12, min(1e-2, size) * 1e-1)
        w = w.detach() - cg(lambda v, g=g, w=w: _back(g, w, v), g.detach(), tol)
    else:
        raise ArithmeticError(f"{name}: the lower gradient is still {size:.1e}")
    (b,) = torch.autograd.grad(problem.upper(w), w)
    u = cg(lambda v: _back(g, w, v), b, 1e-12)
    return -_back(g, lam, u)


def cg(product: Callable[[Tensor], Tensor], b: Tensor, tol: float) -> Tensor:
    """H^-1 b, H positive definite."""
    x, r = torch.zeros_like(b), b.clone()
    p, rho = r.clone(), r @ r
    goal = float(rho) * tol**2
    for _ in range(2000):
        if float(rho) <= goal:
            break
        hp = product(p)
        alpha = rho / (p @ hp)
        x, r = x + alpha * p, r - alpha * hp
        rho, old = r @ r, rho
        p = r + rho / old * p
    return x


def _back(g: Tensor, wrt: Tensor, v: Tensor) -> Tensor:
    return torch.autograd.grad(g, wrt, v, retain_graph=True)[0].detach()
