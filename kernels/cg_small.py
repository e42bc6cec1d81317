r"""A whole conjugate-gradient solve in one launch, for systems with a small dense matrix.

    (A_i + damping I) x_i = b_i,  A_i (n, n) symmetric positive definite,  i = 1..m

One program owns a system and runs all its steps; nothing is launched, allocated or read back in
between. Up to n = 128 the matrix lies in registers and memory is read once; up to n = 1024 the
program walks over it in blocks of rows, from the second step on out of cache, and the product's
blocks meet in a scratch vector. Convergence, curvature and 0/0 are handled as in cg_update.py.

Bytes of float32: 4 n^2 per system up to n = 128; otherwise 4 n^2 per step, mostly from cache.

Hestenes and Stiefel 1952.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bettyc.kernels import checks, dispatch
from bettyc.kernels.cg_batched import start, step
from bettyc.kernels.cg_update import RUNNING
from bettyc.kernels.jit import jit

if TYPE_CHECKING:
    import triton.language as tl

MAX_RESIDENT = 128
MAX_SIZE = 1024
TILE = 8192  # elements of the matrix held at a time


def cg_small(
    a: Tensor, b: Tensor, *, tol: float = 1e-6, max_iters: int | None = None, damping: float = 0.0
) -> tuple[Tensor, Tensor]:
    """x (m, n) with |b_i - (A_i + damping I) x_i| <= tol |b_i|, and the state (m, 4) of
    cg_batched.py.

    a: (m, n, n), symmetric: only its transpose-free product is used. b: (m, n). n at most 1024 on a
    GPU; larger ones are solved step by step. max_iters: 10 n, at most 1000, where None.
    """
    checks.operands("cg_small", a=a, b=b)
    if b.dim() != 2 or tuple(a.shape) != (*b.shape, b.shape[-1]) or a.dtype != b.dtype:
        raise ValueError(
            f"cg_small: `a` is {a.dtype} {tuple(a.shape)} and `b` is {b.dtype} {tuple(b.shape)}"
        )
    steps = min(10 * b.shape[1], 1000) if max_iters is None else max_iters
    return dispatch.run("cg_small", WAYS, b, a, b, tol, steps, damping)


def reference(
    a: Tensor, b: Tensor, tol: float, steps: int, damping: float
) -> tuple[Tensor, Tensor]:
    """Step by step."""
    solve = start(torch.zeros_like(b), b.clone(), tol * b.double().norm(dim=1), damping)
    for _ in range(steps):
        if b.device.type == "cpu" and not bool((solve.state[:, 2] == RUNNING).any()):
            break
        step(solve, torch.bmm(a, solve.p[:, :, None])[:, :, 0])
    return solve.x, solve.state


@jit
def cg_small_kernel(
    a, b, x, state, scratch, n, steps, tol: tl.float64, damping: tl.float64, eps: tl.float64,
    N: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    i_m = tl.cast(tl.program_id(0), tl.int64)
    a += i_m * n * n
    scratch += i_m * n
    o = tl.arange(0, N)
    m = o < n
    o_r = tl.arange(0, ROWS)
    b_r = tl.load(b + i_m * n + o, mask=m, other=0.0)
    b_x = tl.zeros([N], b_r.dtype)
    b_p = b_r
    b_64 = tl.cast(b_r, tl.float64)
    rr = tl.sum(b_64 * b_64, 0)
    goal = tl.cast(tol, tl.float64) * tl.cast(tol, tl.float64) * rr
    stop = tl.where(rr <= goal, 1, 0)
    k = stop * 0
    # [ROWS, N]; all of the matrix where ROWS == N
    b_a = tl.load(
        a + o_r[:, None] * n + o[None, :], mask=(o_r < n)[:, None] & m[None, :], other=0.0
    )
    while (k < steps) & (stop == 0):
        if ROWS == N:
            b_q = tl.sum(b_a * b_p[None, :], 1)
        else:
            for i in range(0, tl.cdiv(n, ROWS)):
                o_i = i * ROWS + o_r
                b_a = tl.load(
                    a + o_i[:, None] * n + o[None, :],
                    mask=(o_i < n)[:, None] & m[None, :],
                    other=0.0,
                )
                tl.store(scratch + o_i, tl.sum(b_a * b_p[None, :], 1), mask=o_i < n)
            # other threads read what these wrote, and must have read it before the next step writes
            tl.debug_barrier()
            b_q = tl.load(scratch + o, mask=m, other=0.0)
            tl.debug_barrier()
        b_s = b_q + tl.cast(damping, b_p.dtype) * b_p
        b_p64 = tl.cast(b_p, tl.float64)
        b_s64 = tl.cast(b_s, tl.float64)
        ps = tl.sum(b_p64 * b_s64, 0)
        bound = tl.cast(eps, tl.float64) * tl.sqrt(tl.sum(b_p64 * b_p64, 0))
        bound = bound * tl.sqrt(tl.sum(b_s64 * b_s64, 0))
        # not by v - v: see cg_update.py
        finite = (tl.abs(ps) <= 1.7976931348623157e308) & (tl.abs(bound) <= 1.7976931348623157e308)
        bad = finite == 0
        stop = tl.where(bad, 3, tl.where(ps <= bound, 2, 0))
        if stop == 0:
            alpha = rr / ps
            b_x += tl.cast(alpha, b_p.dtype) * b_p
            b_r -= tl.cast(alpha, b_p.dtype) * b_s
            b_64 = tl.cast(b_r, tl.float64)
            after = tl.sum(b_64 * b_64, 0)
            b_p = b_r + tl.cast(after / rr, b_p.dtype) * b_p
            rr = after
            stop = tl.where(rr <= goal, 1, 0)
            k += 1
    tl.store(x + i_m * n + o, b_x, mask=m)
    tl.store(state + 4 * i_m, rr)
    tl.store(state + 4 * i_m + 1, goal)
    tl.store(state + 4 * i_m + 2, tl.cast(stop, tl.float64))
    tl.store(state + 4 * i_m + 3, tl.cast(k, tl.float64))


def launch(a: Tensor, b: Tensor, tol: float, steps: int, damping: float) -> tuple[Tensor, Tensor]:
    """One program per system."""
    m, n = b.shape
    if n > MAX_SIZE or not b.numel():
        return reference(a, b, tol, steps, damping)
    wide = max(16, 1 << (n - 1).bit_length())
    rows = wide if wide <= MAX_RESIDENT else TILE // wide
    x, scratch = torch.empty_like(b), torch.empty_like(b)
    state = b.new_empty((m, 4), dtype=torch.float64)
    cg_small_kernel[(m,)](
        a, b, x, state, scratch, n, steps, tol, damping, torch.finfo(b.dtype).eps,
        N=wide, ROWS=rows, num_warps=4 if wide <= 32 else 16 if wide == 128 else 8,
    )  # fmt: skip
    return x, state


WAYS = {"torch": reference, "triton": launch}
