r"""Inverse Hessian products by a truncated Neumann series.

    H^-1 a  ~  lr \sum_{k=0}^{terms-1} (I - lr H)^k a

Converges when every eigenvalue of H lies in (0, 2/lr); the relative error is then at most max|1 -
lr lambda|^terms. Costs terms - 1 products and two vectors of memory.

The residual of the first k terms is term k of the series, so that of all terms but the last is
known: reports give this one, and where the series converges that of all terms is smaller still. A
bound on the error takes the residual of all terms, one more product, spent where strong convexity
is known.

lr = 0 takes 1 / lambda with lambda an estimate from above of the largest eigenvalue (power
iteration, 10 products). A given lr above 2 / lambda makes the terms grow: that is detected on the
terms themselves, the series starts again with an estimated lr, and the report warns. If it still
diverges H is indefinite: SolveError. Negative curvature along a term is a warning, and terms may
then grow tenfold: near an MLP's minimum a short series is of use although H is not definite.

Lorraine, Vicol, Duvenaud. AISTATS 2020, arXiv:1911.02590, algorithm 3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bettyc.kernels.neumann_update import neumann_queued, neumann_update
from bettyc.runtime.report import SolveError
from bettyc.runtime.strategies.launched import NO_TENSOR, Launched, Left, certified, rate
from bettyc.runtime.strategies.system import Solution, System, not_finite, rayleigh
from bettyc.strategies import Neumann

# So much may a term exceed the first where curvature is negative: a few terms are still the sum
# that was asked for, with a warning; beyond, the last one is all there is to it.
GROWTH = 10.0
CURVED = "curvature is not positive: the series does not converge; use minres"


def solve(system: System, options: Neumann) -> Solution:
    """The sum of `terms` terms of the series."""
    a = system.rhs
    lr, note = options.lr, ""
    found = series(system, lr, options.terms) if lr else None
    if found is None:
        if not a.any():
            return Solution(torch.zeros_like(a), residual=0.0)
        largest = largest_eigenvalue(system)
        if lr:
            note = f"the series diverges for lr = {lr:g}: lr = {1 / largest:.3g} is used instead"
        found = series(system, 1 / largest, options.terms)
    if found is None:
        raise SolveError(
            f"the Neumann series of level `{system.level}` diverges: its Hessian is indefinite;"
            " use minres, or bring the level closer to its minimum by a smaller learning rate"
        )
    u, least, residual = found
    if system.certify and system.mu is not None:
        h_u = system.certificate(u)
        least, residual = min(least, rayleigh(u, h_u) or least), float((h_u - a).norm())
    if least < 0 and not note:
        note = CURVED
    return Solution(
        u,
        iterations=options.terms,
        residual=residual,
        min_ritz=least if math.isfinite(least) else None,
        note=note,
        severe=bool(note),
    )


def launch(system: System, options: Neumann, steps: int) -> Launched:
    """The series without a look at its terms, for a given lr."""
    term = system.rhs.clone(memory_format=torch.contiguous_format)
    total, sums = term.clone(), [torch.stack((term @ term, term @ term)).double()]
    for _ in range(options.terms - 1):
        q = system.product(term).contiguous()
        sums.append(torch.as_tensor(neumann_queued(term, total, q, options.lr)).double())
    u = total.mul_(options.lr)
    left = {"sums": torch.stack(sums)}
    known = system.certify and system.mu is not None
    if known:
        left |= certified(system, u)

    def conclude(left: Left) -> Solution | None:
        terms = left["sums"].tolist()
        first = size = math.sqrt(terms[0][1])
        if not first:
            return Solution(NO_TENSOR, residual=0.0)
        least = math.inf
        for along, square in terms[1:]:
            least = min(least, along / size**2) if size else least
            size = math.sqrt(square) if square >= 0 else math.nan
            if not size <= first * (GROWTH if least < 0 else 1 + 1e-3):
                return None
        residual = size
        if known:
            least, residual = min(least, rate(left) or least), float(left["undamped"])
        note = CURVED if least < 0 else ""
        return Solution(
            NO_TENSOR,
            iterations=options.terms,
            residual=residual,
            min_ritz=least if math.isfinite(least) else None,
            note=note,
            severe=bool(note),
        )

    return Launched(left, conclude, u)


def series(system: System, lr: float, terms: int) -> tuple[Tensor, float, float] | None:
    """The truncated series, the least Rayleigh quotient of its terms, and the norm of the last one;
    None where a term grows although no curvature is negative, or beyond GROWTH times the first.
    """
    whole = getattr(system.for_solver(), "series", None)
    if whole is not None:
        found = whole(system.rhs.contiguous(), lr=lr, terms=terms, growth=GROWTH)
        if found is not None:
            return None if found.stopped else (found.total, found.least, found.residual)
    # The series of lr a: no sum has to be scaled in the end.
    term = (lr * system.rhs).contiguous()
    first = size = float(torch.linalg.vector_norm(term))
    total, least = term.clone(), math.inf
    for _ in range(terms - 1 if first else 0):
        along, square = neumann_update(term, total, system.product(term).contiguous(), lr)
        if size:
            least = min(least, along / size**2)
        size = math.sqrt(square)
        # For a symmetric H with eigenvalues in [0, 2/lr] no term is larger than the one before.
        if not size <= first * (GROWTH if least < 0 else 1 + 1e-3):
            return None
    return total, least, size / abs(lr)


def largest_eigenvalue(system: System, steps: int = 10) -> float:
    """An estimate from above of max |eigenvalue| of H: power iteration, its quotient plus its
    residual.
    """
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(system.size, generator=generator, dtype=torch.float64).to(system.rhs)
    v = v / v.norm()
    quotient, slack = 0.0, 0.0
    for _ in range(steps):
        h_v = system.product(v)
        quotient = float(v @ h_v)
        slack = float((h_v - quotient * v).norm())
        norm = float(h_v.norm())
        if not 0 < norm < float("inf"):
            break
        v = h_v / norm
    estimate = abs(quotient) + slack
    if not estimate < float("inf"):
        raise not_finite(system.level)
    return estimate or 1.0
