r"""Inverse Hessian products by one step of the lower level:  H^-1 a ~ lr a.

The derivative of one plain gradient step; T1-T2 where the lower level takes many. Right where H is
close to I / lr. No product for u, one for the cross terms and one to certify.

Luketina, Berglund, Greff, Raiko. ICML 2016, arXiv:1511.06727.
"""

from __future__ import annotations

from bettyc.runtime.strategies.launched import NO_TENSOR, Launched, Left, certified, rate
from bettyc.runtime.strategies.system import Solution, System, rayleigh
from bettyc.strategies import OneStep


def solve(system: System, options: OneStep) -> Solution:
    """u = lr a."""
    u = system.learning_rate() * system.rhs
    if not system.certify:
        return Solution(u)
    h_u = system.certificate(u)
    return Solution(u, residual=float((h_u - system.rhs).norm()), min_ritz=rayleigh(u, h_u))


def launch(system: System, options: OneStep, steps: int) -> Launched:
    """u = lr a, without a look."""
    u = system.learning_rate() * system.rhs

    def conclude(left: Left) -> Solution:
        if not left:
            return Solution(NO_TENSOR)
        return Solution(NO_TENSOR, residual=float(left["undamped"]), min_ritz=rate(left))

    return Launched(certified(system, u) if system.certify else {}, conclude, u)
