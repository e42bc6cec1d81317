r"""Inverse Hessian products by conjugate gradient.

    (H + damping I) u = a,   ||residual|| <= tol ||a||   or at most `iters` steps

Valid for positive definite H; after k steps the error in the H-norm is at most
2 ((sqrt(kappa) - 1) / (sqrt(kappa) + 1))^k of the first. One product per step, one more for a warm
start, and one for the true residual where rounding may have moved it; five vectors of memory.

What can go wrong, and what is done about it:
    a = 0                        u = 0 without a product
    the residual vanishes        stop; the next step would be 0/0
    p.Hp <= 0                    H is indefinite, or singular and a leaves its range: the system is
                                 solved by minres, with a warning
    rounding in the residual     `converged` is false and a note says so; a warning above 0.001
    steps run out                the iterate is used, `converged` is false
    a product is not finite      SolveError

The smallest Ritz value comes from the Lanczos matrix that the step lengths define. The loop is
`bettyc.kernels.cg`, fused on a GPU.

Hestenes and Stiefel 1952; in hypergradients Pedregosa 2016 and iMAML, Rajeswaran, Finn, Kakade,
Levine, NeurIPS 2019, arXiv:1909.04630.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bettyc.kernels import cg as kernel
from bettyc.runtime.slope import reason
from bettyc.runtime.strategies import minres
from bettyc.runtime.strategies.launched import NO_TENSOR, Launched, Left, certified, rate
from bettyc.runtime.strategies.precondition import preconditioner
from bettyc.runtime.strategies.system import Solution, System, not_finite, rayleigh, steps_for
from bettyc.strategies import CG

FEW = 10  # in a bound of rounding: steps add up, and a product rounds more than one operation does


def solve(system: System, options: CG) -> Solution:
    """u = (H + damping I)^-1 a by conjugate gradient."""
    a, damping = system.rhs, options.damping
    precond = preconditioner(system, options.precond, damping, options.probes)
    u, info = kernel.cg(
        system.for_solver(),
        a.contiguous(),
        tol=options.tol,
        max_iters=options.iters or steps_for(a.numel()),
        damping=damping,
        x0=system.warm.get("u") if options.warm else None,
        precond=precond,
        certify=system.certify,
    )
    size = info.size
    if not size:
        return Solution(u, residual=0.0, converged=True, memory=_kept(options, u), size=size)
    if info.breakdown:
        raise not_finite(system.level)
    if info.curvature:
        return fall_back(system, options, info.iterations)
    # The residual of the system asked for, and that of H u = a without the damping.
    relative, undamped, least = info.relative_residual, None, info.min_ritz
    if info.certificate is not None:
        undamped, damped, rate = info.certificate
        relative, least = damped / size, rate if least is None else least
    elif system.certify:
        sure = None if options.warm else _without_rounding(system, info, u)
        left = a - system.certificate(u) if sure is None else sure + damping * u
        relative, undamped = float((left - damping * u).norm()) / size, float(left.norm())
        least = rayleigh(u, a - left) if least is None else least
    elif not damping:
        undamped = relative * size
    note, severe = remark(info.converged, info.iterations, relative, options)
    return Solution(
        u,
        iterations=info.iterations,
        residual=undamped,
        min_ritz=least,
        converged=relative <= options.tol,
        note=note,
        severe=severe,
        memory=_kept(options, u),
        size=size,
    )


def launch(system: System, options: CG, steps: int) -> Launched:
    """The solve without a look: `steps` steps at most, those after convergence change nothing.

    The true residual takes a product, always: whether rounding has moved it is not known yet.
    """
    a, damping = system.rhs, options.damping
    allowed = options.iters or steps_for(a.numel())
    steps = min(steps, allowed)
    u, info = kernel.cg(
        system.for_solver(),
        a.contiguous(),
        tol=options.tol,
        max_iters=steps,
        damping=damping,
        x0=system.warm.get("u") if options.warm else None,
    )
    assert isinstance(info, kernel.Info)
    left, certify = dict(info.tensors), system.certify
    if certify:
        left |= certified(system, u, damping)

    def conclude(left: Left) -> Solution | None:
        state, history, rr, bb = (left[n] for n in ("state", "history", "rr", "bb"))
        info = kernel.Info(state, history, NO_TENSOR, rr, bb, damping, True)
        if info.breakdown or info.curvature or (steps < allowed and not info.converged):
            return None
        size = float(bb) ** 0.5
        if not size:
            return Solution(NO_TENSOR, residual=0.0, converged=True)
        relative, least, undamped = info.relative_residual, info.min_ritz, None
        if certify:
            relative, undamped = float(left["damped"]) / size, float(left["undamped"])
            least = rate(left) if least is None else least
        elif not damping:
            undamped = relative * size
        note, severe = remark(info.converged, info.iterations, relative, options)
        return Solution(
            NO_TENSOR,
            iterations=info.iterations,
            residual=undamped,
            min_ritz=least,
            converged=relative <= options.tol,
            note=note,
            severe=severe,
        )

    return Launched(left, conclude, u, memory=_kept(options, u))


def _without_rounding(system: System, info: Any, u: Tensor) -> Tensor | None:
    """The recursive residual where it is the true one to a tenth, so that no product is spent.

    They differ by rounding alone, at most a few k eps ||A|| ||u|| after k steps from zero, A the
    matrix of the system (Greenbaum, SIAM J. Matrix Anal. Appl. 18, 1997); ||A|| is taken from its
    largest Ritz value. None where it may be more, as it is near the end of a solve to a small
    tolerance, or where products are differences and not linear.
    """
    largest = getattr(info, "max_ritz", None)
    if largest is None or reason(system.objective):
        return None
    eps = torch.finfo(system.theta[system.level].dtype).eps
    apart = FEW * info.iterations * eps * largest * float(u.norm())
    residual: Tensor = info.residual
    return residual if 10 * apart <= float(residual.norm()) else None


def _kept(options: CG, u: Tensor) -> dict[str, Tensor]:
    return {"u": u} if options.warm else {}


def remark(met: bool, steps: int, relative: float, options: CG) -> tuple[str, bool]:
    """A note on what is not as asked, and whether it deserves a warning. met: the recurrence has
    reached the tolerance.
    """
    if not met and not options.iters:
        return f"not converged in {steps} steps; raise `iters` or `damping`", True
    if met and relative > 2 * options.tol:
        note = f"rounding keeps the residual at {relative:.1e}; use fp64 or raise `damping`"
        return note, relative > 1e-3
    return "", False


def fall_back(system: System, options: CG, taken: int) -> Solution:
    """minres for the same system, where conjugate gradient met non-positive curvature."""
    steps = options.iters or steps_for(system.size)
    found = minres.symmetric(system, options.tol, steps, options.damping)
    cure = "raise `damping`, or bring the level closer to its minimum"
    return Solution(
        found.u,
        iterations=taken + found.iterations,
        residual=found.residual,
        min_ritz=found.min_ritz,
        converged=found.converged,
        note=f"curvature is not positive: solved by minres; {cure}"
        + (f"; {found.note}" if found.note else ""),
        severe=True,
        memory=_kept(options, found.u),
    )
