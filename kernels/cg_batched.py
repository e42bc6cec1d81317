r"""Conjugate gradient on many systems at once: right-hand sides of one matrix, or tasks.

    (H_i + damping I) x_i = b_i,  i = 1..m

Each system has its own scalars and stops on its own; a stopped one is left alone while others go
on. One program owns a system, so a step after the product is one launch, and no program waits for
another: it sums p.s, p.p and s.s, updates x and r while it sums r.r, and updates p. Vectors longer
than a block are walked over three times, the second and third time from cache.

Bytes per element of float32 from memory: 28 (x, r, p, q; x, r, p). For few systems of great length
the programs of cg_update.py, many to a system, are the faster way.

Hestenes and Stiefel 1952.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bettyc.kernels import checks, dispatch
from bettyc.kernels.cg_update import CONVERGED, CURVATURE, NOT_FINITE, RUNNING
from bettyc.kernels.jit import jit

if TYPE_CHECKING:
    import triton.language as tl

MAX_BLOCK = 2048


@dataclass(frozen=True)
class Recurrence:
    """x, r, p: (m, n), overwritten by each step. state: float64 (m, 4), a row per system: squared
    residual, squared goal, stop code, steps taken.
    """

    x: Tensor
    r: Tensor
    p: Tensor
    state: Tensor
    damping: float


def cg_batched(
    matvec: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    tol: float = 1e-6,
    max_iters: int | None = None,
    damping: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """x (m, n) with |b_i - (H_i + damping I) x_i| <= tol |b_i|, and the systems' state (m, 4).

    matvec: (m, n) -> (m, n), row i by H_i. Systems with b_i = 0 get x_i = 0. All `max_iters` steps
    (10 n, at most 1000, where None) are launched on a GPU; on the CPU the loop ends with the last
    system.
    """
    solve = solved(matvec, b, tol=tol, max_iters=max_iters, damping=damping)
    return solve.x, solve.state


def solved(
    matvec: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    tol: float,
    max_iters: int | None,
    damping: float,
) -> Recurrence:
    """The same with the residuals that the recurrence ends with."""
    if b.dim() != 2:
        raise ValueError(f"cg_batched: `b` has shape {tuple(b.shape)}; it must be (systems, n)")
    steps = min(10 * b.shape[1], 1000) if max_iters is None else max_iters
    solve = start(torch.zeros_like(b), b.clone(), tol * b.double().norm(dim=1), damping)
    for _ in range(steps):
        if b.device.type == "cpu" and not bool((solve.state[:, 2] == RUNNING).any()):
            break
        step(solve, matvec(solve.p))
    return solve


def start(x: Tensor, r: Tensor, goal: Tensor, damping: float = 0.0) -> Recurrence:
    """From x with residuals r, both taken over, until |r_i| <= goal_i; goal is float64 (m,)."""
    checks.vectors("cg_batched", x=x, r=r)
    rr = r.double().square().sum(1)
    code = (rr <= goal**2).double()
    return Recurrence(
        x, r, r.clone(), torch.stack((rr, goal**2, code, torch.zeros_like(rr)), 1), damping
    )


def step(solve: Recurrence, q: Tensor) -> None:
    """One step of every running system with the products q = H p, shape (m, n)."""
    checks.vectors("cg_batched", p=solve.p, q=q)
    dispatch.run("cg_batched", WAYS, q, solve, q)


def reference(solve: Recurrence, q: Tensor) -> None:
    """The step in torch."""
    x, r, p, state = solve.x, solve.r, solve.p, solve.state
    s = q + solve.damping * p
    p64, s64 = p.double(), s.double()
    ps = (p64 * s64).sum(1)
    bound = torch.finfo(x.dtype).eps * p64.norm(dim=1) * s64.norm(dim=1)
    found = torch.where(ps <= bound, CURVATURE, RUNNING)
    found = torch.where(torch.isfinite(ps) & torch.isfinite(bound), found, NOT_FINITE)
    code = torch.where(state[:, 2] == RUNNING, found, state[:, 2].long())
    going = code == RUNNING
    alpha = torch.where(going, state[:, 0] / ps, 0.0)[:, None].to(x.dtype)
    x.copy_(torch.where(going[:, None], x + alpha * p, x))
    r.copy_(torch.where(going[:, None], r - alpha * s, r))
    rr = torch.where(going, r.double().square().sum(1), state[:, 0])
    beta = torch.where(going, rr / state[:, 0], 0.0)[:, None].to(x.dtype)
    p.copy_(torch.where(going[:, None], r + beta * p, p))
    code = torch.where(going & (rr <= state[:, 1]), CONVERGED, code)
    state.copy_(torch.stack((rr, state[:, 1], code.double(), state[:, 3] + going), 1))


@jit
def cg_batched_kernel(
    x, r, p, q, state, n, damping: tl.float64, eps: tl.float64, BLOCK: tl.constexpr
):
    i_m = tl.cast(tl.program_id(0), tl.int64)
    row = i_m * n
    rr = tl.load(state + 4 * i_m)
    if tl.load(state + 4 * i_m + 2) == 0.0:
        b_ps = tl.zeros([BLOCK], tl.float64)
        b_pp = tl.zeros([BLOCK], tl.float64)
        b_ss = tl.zeros([BLOCK], tl.float64)
        for i in range(0, tl.cdiv(n, BLOCK)):
            o = i * BLOCK + tl.arange(0, BLOCK)
            b_p = tl.load(p + row + o, mask=o < n, other=0.0)
            b_s = tl.load(q + row + o, mask=o < n, other=0.0) + tl.cast(damping, b_p.dtype) * b_p
            b_p = tl.cast(b_p, tl.float64)
            b_s = tl.cast(b_s, tl.float64)
            b_ps += b_p * b_s
            b_pp += b_p * b_p
            b_ss += b_s * b_s
        ps = tl.sum(b_ps, 0)
        bound = tl.cast(eps, tl.float64) * tl.sqrt(tl.sum(b_pp, 0)) * tl.sqrt(tl.sum(b_ss, 0))
        # not by v - v: see cg_update.py
        finite = (tl.abs(ps) <= 1.7976931348623157e308) & (tl.abs(bound) <= 1.7976931348623157e308)
        if finite == 0:
            tl.store(state + 4 * i_m + 2, 3.0)
        elif ps <= bound:
            tl.store(state + 4 * i_m + 2, 2.0)
        else:
            alpha = rr / ps
            b_rr = tl.zeros([BLOCK], tl.float64)
            for i in range(0, tl.cdiv(n, BLOCK)):
                o = i * BLOCK + tl.arange(0, BLOCK)
                m = o < n
                b_p = tl.load(p + row + o, mask=m, other=0.0)
                b_s = tl.load(q + row + o, mask=m, other=0.0) + tl.cast(damping, b_p.dtype) * b_p
                b_x = tl.load(x + row + o, mask=m, other=0.0) + tl.cast(alpha, b_p.dtype) * b_p
                b_r = tl.load(r + row + o, mask=m, other=0.0) - tl.cast(alpha, b_p.dtype) * b_s
                tl.store(x + row + o, b_x, mask=m)
                tl.store(r + row + o, b_r, mask=m)
                b_r = tl.cast(b_r, tl.float64)
                b_rr += b_r * b_r
            after = tl.sum(b_rr, 0)
            beta = after / rr
            # each thread reads back what it wrote itself: same block, same layout
            for i in range(0, tl.cdiv(n, BLOCK)):
                o = i * BLOCK + tl.arange(0, BLOCK)
                m = o < n
                b_p = tl.load(p + row + o, mask=m, other=0.0)
                b_r = tl.load(r + row + o, mask=m, other=0.0)
                tl.store(p + row + o, b_r + tl.cast(beta, b_p.dtype) * b_p, mask=m)
            tl.store(state + 4 * i_m, after)
            tl.store(state + 4 * i_m + 3, tl.load(state + 4 * i_m + 3) + 1.0)
            if after <= tl.load(state + 4 * i_m + 1):
                tl.store(state + 4 * i_m + 2, 1.0)


def launch(solve: Recurrence, q: Tensor) -> None:
    """One program per system."""
    m, n = q.shape
    if not m:
        return
    block = min(MAX_BLOCK, max(32, 1 << max(n - 1, 0).bit_length()))
    cg_batched_kernel[(m,)](
        solve.x, solve.r, solve.p, q, solve.state, n, solve.damping, torch.finfo(q.dtype).eps,
        BLOCK=block, num_warps=4 if block <= 1024 else 8,
    )  # fmt: skip


WAYS = {"torch": reference, "triton": launch}
