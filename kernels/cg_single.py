r"""Conjugate gradient with one reduction per step (Chronopoulos and Gear).

    w = A r                       gamma = r.r      delta = r.w
    beta  = gamma / gamma'        alpha = gamma / (delta - beta gamma / alpha')
    p = r + beta p                s = w + beta s
    x += alpha p                  r -= alpha s

with gamma', alpha' of the step before (beta = 0 in the first). s = A p by recurrence, so the
product is with r and both sums can be taken together: one reduction to wait for where vectors lie
on several devices. It costs one more vector, and s drifts from A p, so the attainable residual is a
little larger than that of cg_update.py.

Bytes per element of float32: 8 for launch 1 (r, w), 36 for launch 2 (x, r, p, s, w; x, r, p, s).

Chronopoulos and Gear, J. Comput. Appl. Math. 25 (1989) 153.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bettyc.kernels import checks, dispatch
from bettyc.kernels.cg_update import (
    BLOCK,
    CONVERGED,
    CURVATURE,
    NOT_FINITE,
    PROGRAMS,
    RUNNING,
    programs,
    scalars,
)
from bettyc.kernels.jit import jit

if TYPE_CHECKING:
    import triton.language as tl


@dataclass(frozen=True)
class Recurrence:
    """A solve in progress. x, r, p, s: (n,), overwritten by each step. state, history, sums as in
    cg_update.py; `last`, float64 (2, 2), holds gamma and alpha of the step before.
    """

    x: Tensor
    r: Tensor
    p: Tensor
    s: Tensor
    state: Tensor
    last: Tensor
    history: Tensor
    sums: Tensor
    damping: float = 0.0

    def advance(self, matvec: Callable[[Tensor], Tensor], k: int) -> None:
        """One iteration, number k from 0."""
        cg_single(self, matvec(self.r), k)


def start(x: Tensor, r: Tensor, goal: Tensor, steps: int, damping: float = 0.0) -> Recurrence:
    """From x with residual r = b - A x, both taken over, until |r| <= goal."""
    checks.vectors("cg_single", x=x, r=r)
    state, history = scalars(r, goal, steps)
    last = x.new_zeros((2, 2), dtype=torch.float64)
    sums = x.new_zeros((2, PROGRAMS), dtype=torch.float64)
    return Recurrence(
        x, r, torch.zeros_like(r), torch.zeros_like(r), state, last, history, sums, damping
    )


def cg_single(solve: Recurrence, w: Tensor, k: int) -> None:
    """Step number k (from 0) with the product w = H r, shape (n,)."""
    checks.vectors("cg_single", r=solve.r, w=w)
    dispatch.run("cg_single", WAYS, solve.x, solve, w, k)


def reference(solve: Recurrence, w: Tensor, k: int) -> None:
    """The step in torch."""
    x, r, p, s = solve.x, solve.r, solve.p, solve.s
    now, then = solve.state[k % 2], solve.state[(k + 1) % 2]
    last, new = solve.last[k % 2], solve.last[(k + 1) % 2]
    u = w + solve.damping * r
    gamma, delta = r.double().square().sum(), (r.double() * u.double()).sum()
    first = now[3] == 0
    beta = torch.where(first, 0.0, gamma / last[0])
    curvature = torch.where(first, delta, delta - beta * gamma / last[1])
    stop = torch.where(curvature <= 0, CURVATURE, RUNNING)
    stop = torch.where(torch.isfinite(curvature), stop, NOT_FINITE)
    stop = torch.where(gamma <= now[1], CONVERGED, stop)
    stop = torch.where(now[2] == RUNNING, stop, now[2].long())
    going = stop == RUNNING
    alpha = gamma / curvature
    a, b = alpha.to(x.dtype), beta.to(x.dtype)
    p.copy_(torch.where(going, r + b * p, p))
    s.copy_(torch.where(going, u + b * s, s))
    x.copy_(torch.where(going, x + a * p, x))
    r.copy_(torch.where(going, r - a * s, r))
    after = torch.where(going, r.double().square().sum(), now[0])
    _note(solve, now, then, stop, after, alpha, beta)
    new.copy_(torch.where(going, torch.stack((gamma, alpha)), last))


def _note(
    solve: Recurrence,
    now: Tensor,
    then: Tensor,
    stop: Tensor,
    after: Tensor,
    alpha: Tensor,
    beta: Tensor,
) -> None:
    """The state after a step. In the order of cg_update.py this beta is of the step before."""
    going = stop == RUNNING
    step = now[3].long().clamp(max=solve.history.shape[0] - 1).reshape(1)
    before = (step - 1).clamp(min=0)
    solve.history[before, 1] = torch.where(going & (step > 0), beta, solve.history[before, 1])
    solve.history[step, 0] = torch.where(going, alpha, solve.history[step, 0])
    code = torch.where(going & (after <= now[1]), CONVERGED, stop)
    then.copy_(torch.stack((after, now[1], code.double(), now[3] + going)))


@jit
def cg_single_sums_kernel(r, w, state, sums, n, damping: tl.float64, BLOCK: tl.constexpr):
    # sums[i, program]: r.r, r.w
    i_p = tl.program_id(0)
    count = tl.num_programs(0)
    if tl.load(state + 2) == 0.0:
        b_rr = tl.zeros([BLOCK], tl.float64)
        b_rw = tl.zeros([BLOCK], tl.float64)
        for i in range(i_p, tl.cdiv(n, BLOCK), count):
            o = tl.cast(i, tl.int64) * BLOCK + tl.arange(0, BLOCK)
            m = o < n
            b_r = tl.load(r + o, mask=m, other=0.0)
            b_w = tl.load(w + o, mask=m, other=0.0) + tl.cast(damping, b_r.dtype) * b_r
            b_r = tl.cast(b_r, tl.float64)
            b_rr += b_r * b_r
            b_rw += b_r * tl.cast(b_w, tl.float64)
        tl.store(sums + i_p, tl.sum(b_rr, 0))
        tl.store(sums + count + i_p, tl.sum(b_rw, 0))


@jit
def cg_single_kernel(
    x, r, p, s, w, now, then, last, new, sums, history, n, steps, damping: tl.float64,
    COUNT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # every program derives the same scalars from the same sums; the first one writes them down
    i_p = tl.program_id(0)
    goal = tl.load(now + 1)
    stop = tl.load(now + 2)
    taken = tl.load(now + 3)
    rr = tl.load(now)
    gamma = tl.load(last)
    alpha = tl.load(last + 1)
    if stop == 0.0:
        o_c = tl.arange(0, COUNT)
        rr = tl.sum(tl.load(sums + o_c), 0)
        curvature = tl.sum(tl.load(sums + COUNT + o_c), 0)
        beta = rr * 0.0
        if taken > 0.0:
            beta = rr / gamma
            curvature -= beta * rr / alpha
        # not by v - v: see cg_update.py
        if rr <= goal:
            stop = tl.cast(1.0, tl.float64)
        elif (tl.abs(curvature) <= 1.7976931348623157e308) == 0:
            stop = tl.cast(3.0, tl.float64)
        elif curvature <= 0.0:
            stop = tl.cast(2.0, tl.float64)
        if stop == 0.0:
            alpha = rr / curvature
            gamma = rr
            for i in range(i_p, tl.cdiv(n, BLOCK), tl.num_programs(0)):
                o = tl.cast(i, tl.int64) * BLOCK + tl.arange(0, BLOCK)
                m = o < n
                b_r = tl.load(r + o, mask=m, other=0.0)
                b_w = tl.load(w + o, mask=m, other=0.0) + tl.cast(damping, b_r.dtype) * b_r
                b_p = b_r + tl.cast(beta, b_r.dtype) * tl.load(p + o, mask=m, other=0.0)
                b_s = b_w + tl.cast(beta, b_r.dtype) * tl.load(s + o, mask=m, other=0.0)
                b_x = tl.load(x + o, mask=m, other=0.0) + tl.cast(alpha, b_r.dtype) * b_p
                tl.store(p + o, b_p, mask=m)
                tl.store(s + o, b_s, mask=m)
                tl.store(x + o, b_x, mask=m)
                tl.store(r + o, b_r - tl.cast(alpha, b_r.dtype) * b_s, mask=m)
            if i_p == 0:
                step = tl.minimum(tl.cast(taken, tl.int64), steps - 1)
                tl.store(history + 2 * step, alpha)
                if step > 0:
                    tl.store(history + 2 * step - 1, beta)
            taken += 1.0
    if i_p == 0:
        tl.store(then, rr)
        tl.store(then + 1, goal)
        tl.store(then + 2, stop)
        tl.store(then + 3, taken)
        tl.store(new, gamma)
        tl.store(new + 1, alpha)


def launch(solve: Recurrence, w: Tensor, k: int) -> None:
    """Both launches. Convergence is seen at the start of the next step, which is then not taken."""
    n = w.numel()
    count = programs(n)
    now, then = solve.state[k % 2], solve.state[(k + 1) % 2]
    last, new = solve.last[k % 2], solve.last[(k + 1) % 2]
    cg_single_sums_kernel[(count,)](
        solve.r, w, now, solve.sums, n, solve.damping, BLOCK=BLOCK, num_warps=8
    )
    cg_single_kernel[(count,)](
        solve.x, solve.r, solve.p, solve.s, w, now, then, last, new, solve.sums, solve.history,
        n, solve.history.shape[0], solve.damping, COUNT=count, BLOCK=BLOCK, num_warps=8,
    )  # fmt: skip


WAYS = {"torch": reference, "triton": launch}
