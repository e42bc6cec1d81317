r"""Betty's formulas for the strategies of the same names, of plans with `compat = "betty"`.

    finite_diff   S = I: no lower learning rate,  eps / (||a|| + 1e-15) along a and back; what the
                  objective detaches moves along
    sama          the same along P a, with eps for P a
    neumann       lr \sum_{k=0}^{terms-1} (I - lr H)^k a; lr = 0 is 1. Terms that grow are kept
    cg            `iters` steps, 0 is 1, from zero; no other option, no look at the curvature:
                  x += s p,  r' = r - s H p,  s = r.r / p.Hp,  p' = r + (r'.r' / r.r) p

in place of H^-1. P is the derivative of the last update in its gradient g: 1 for sgd, without the
learning rate, and for adam and adamw

    P = lr [(1 - b1) b2 v' - b1 (1 - b2) g m'] / (sqrt(v) + eps)^3
    m' = (m - (1 - b1) g) / b1,   v' = (v - (1 - b2) g^2) / b2

with the moments m, v after the update. That leaves out the bias correction: 6.5 times the
derivative of torch's Adam at its tenth step, 1.26 times at its thousandth.

The r in p' should be r': from its second step on that is not conjugate gradient and does not
converge (mended in Betty after 0.2.1), and the report says so. Not reproduced: cg stops before
0 / 0, and what is not finite is an error.

Choe, Neiswanger, Xie, Xing. Betty, ICLR 2023, arXiv:2207.02849; betty-ml 0.2.1,
`betty/hypergradient`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bettyc.runtime.report import SolveError
from bettyc.runtime.strategies import sama as optimizers_own
from bettyc.runtime.strategies.finite_diff import difference
from bettyc.runtime.strategies.system import Pulled, Solution, System
from bettyc.strategies import CG, FiniteDiff, Neumann, Sama

# Added to the norm of the direction.
TINY = 1e-15
# Optimizers with a P; where there is none, `sama` takes the derivative of the real update.
MOMENTS = ("adam", "adamw")
PRECONDITIONED = ("sgd", *MOMENTS)


def finite_diff(system: System, options: FiniteDiff) -> Pulled:
    """The cross terms with u = a (type "darts")."""
    return _difference(system, system.rhs, options.eps)


def sama(system: System, options: Sama) -> Pulled:
    """The cross terms with u = P a."""
    if system.jacobian is None:
        return optimizers_own.pull(system, options)
    return _difference(system, system.jacobian * system.rhs, options.eps)


def _difference(system: System, direction: Tensor, eps: float) -> Pulled:
    size = float(direction.norm())
    return difference(system, direction, eps * (size / (size + TINY)), held=False)


def neumann(system: System, options: Neumann) -> Solution:
    """The sum of `terms` terms, whatever they do."""
    a, lr = system.rhs, options.lr or 1.0
    term = a
    total = a.clone()
    for _ in range(options.terms - 1):
        term = term - lr * system.product(term)
        total += term
    grown = float(term.norm()) > float(a.norm())
    note = f"the series diverges for lr = {lr:g}" if grown else ""
    return _certified(system, total.mul_(lr), options.terms, note)


def cg(system: System, options: CG) -> Solution:
    """`iters` steps of Betty's conjugate gradient, whose directions are made of old residuals."""
    x, r = torch.zeros_like(system.rhs), system.rhs
    p, square = r, r @ r
    wanted, taken = options.iters or 1, 0
    while taken < wanted and float(square):
        h_p = system.product(p)
        curvature = p @ h_p
        if not float(curvature):
            break
        step = square / curvature
        x = x + step * p
        after = r - step * h_p
        p = r + (after @ after) / square * p
        r, square = after, after @ after
        taken += 1
    note = ""
    if taken < wanted:
        note = f"it had converged, or met no curvature, at step {taken}"
    elif taken > 1:
        note = "Betty 0.2.1 makes its directions of old residuals: this is not conjugate gradient"
    return _certified(system, x, taken, note)


def _certified(system: System, u: Tensor, iterations: int, note: str) -> Solution:
    """The solution with its residual. Raises SolveError where it is not finite."""
    if not bool(torch.isfinite(u).all()):
        raise SolveError(
            f"the solve through level `{system.level}` is not finite; Betty would go on with it:"
            " lower `lr`, or take fewer terms or iterations"
        )
    left = float((system.product(u) - system.rhs).norm()) if system.certify else None
    return Solution(u, iterations=iterations, residual=left, note=note, severe=bool(note))


def jacobian(
    optimizer: str, options: Mapping[str, Any], state: Mapping[str, Tensor], theta: Tensor
) -> Tensor | None:
    """P, the shape of theta; zero before the first update, None for an optimizer without one.

    options: with the learning rate as it is now; state: with `last_grad`, of the last update.
    """
    if optimizer == "sgd":
        return torch.ones_like(theta)
    if optimizer not in MOMENTS or "groups" in options:
        return None
    if "last_grad" not in state:
        return torch.zeros_like(theta)
    beta1, beta2 = options["betas"]
    g, m, v = state["last_grad"], state["m"], state["v"]
    m_before = (m - (1 - beta1) * g) / beta1 if beta1 else torch.zeros_like(m)
    v_before = (v - (1 - beta2) * g * g) / beta2
    numerator = (1 - beta1) * beta2 * v_before - beta1 * (1 - beta2) * g * m_before
    return numerator / (v.sqrt() + options["eps"]) ** 3 * options["lr"]
