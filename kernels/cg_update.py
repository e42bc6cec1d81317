r"""One step of conjugate gradient after its product q = A p, in two launches and without a sync.

    s = q + damping p                       alpha = r.r / p.s
    x += alpha p      r -= alpha s          beta = r'.r' / r.r       p = r' + beta p

Launch 1 sums r.r, r.s, s.s, p.s and p.p; launch 2 derives every scalar from these sums and updates
x, r and p. The new residual's norm, which launch 2 needs before it has written r', is foretold as
r.r - 2 alpha r.s + alpha^2 s.s. In the vectors' own precision that cancels; summed in float64 its
error is of the order of the rounding of r' itself, and the next launch 1 measures r.r afresh (the
predict and correct of Meurant 1987). Each solve stops on its own: the state carries a stop code,
and launches after it change nothing. Sums go through per-program partials that are added in a fixed
order: the result depends on the number of programs by rounding only, and on nothing else.

Bytes per element of float32: 12 for launch 1 (p, q, r), 28 for launch 2 (x, r, p, q; x, r, p).
Three separate updates and two dots move 44 + 16.

Hestenes and Stiefel 1952; Meurant, Parallel Computing 5 (1987) 267.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bettyc.kernels import checks, dispatch, native
from bettyc.kernels.jit import jit

if TYPE_CHECKING:
    import triton.language as tl

# Stop codes, also those of native.c; the Triton kernels spell the numbers out.
RUNNING, CONVERGED, CURVATURE, NOT_FINITE = 0, 1, 2, 3

BLOCK = 1024
PROGRAMS = 512  # partial sums; launch 2 adds them again in every program


@dataclass(frozen=True)
class Recurrence:
    """A solve in progress. x, r, p: (n,), overwritten by each step.

    state: float64 (2, 4), rows used in turn: squared residual, squared goal, stop code, steps
    taken. history: float64 (steps, 2), alpha and beta of each step. sums: float64 (5, PROGRAMS).
    """

    x: Tensor
    r: Tensor
    p: Tensor
    state: Tensor
    history: Tensor
    sums: Tensor
    damping: float = 0.0

    def advance(self, matvec: Callable[[Tensor], Tensor], k: int) -> int | None:
        """One iteration, number k from 0. Returns the stop code where it is known without asking
        the device.
        """
        return cg_update(self, matvec(self.p), k)


def start(x: Tensor, r: Tensor, goal: Tensor, steps: int, damping: float = 0.0) -> Recurrence:
    """From x with residual r = b - A x, until |r| <= goal (a float64 scalar) or for `steps` steps.
    x and r are taken over.
    """
    checks.vectors("cg_update", x=x, r=r)
    state, history = scalars(r, goal, steps)
    sums = x.new_zeros((5, PROGRAMS), dtype=torch.float64)
    return Recurrence(x, r, r.clone(), state, history, sums, damping)


def squared(v: Tensor) -> Tensor:
    """v.v summed in float64, a scalar of that type. v: contiguous."""
    if dispatch.way("cg_update", v) == "native":
        found = native.function("sum_squares", v.dtype)(v.data_ptr(), v.numel(), native.threads())
        return torch.tensor(found, dtype=torch.float64)
    return v.double().square().sum()


def scalars(r: Tensor, goal: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The state and the history of a solve that starts with residual r."""
    state = r.new_zeros((2, 4), dtype=torch.float64)
    state[0, 0] = squared(r)
    state[:, 1] = goal.double() ** 2
    state[0, 2] = state[0, 0] <= state[0, 1]
    return state, r.new_zeros((max(steps, 1), 2), dtype=torch.float64)


def cg_update(solve: Recurrence, q: Tensor, k: int) -> int | None:
    """Step number k (from 0) with the product q = H p, shape (n,)."""
    checks.vectors("cg_update", p=solve.p, q=q)
    return dispatch.run("cg_update", WAYS, solve.x, solve, q, k)


def reference(solve: Recurrence, q: Tensor, k: int) -> None:
    """The step in torch: sums in float64, scalars that never leave the device."""
    x, r, p = solve.x, solve.r, solve.p
    now, then = solve.state[k % 2], solve.state[(k + 1) % 2]
    s = q + solve.damping * p
    p64, s64 = p.double(), s.double()
    rr, ps = r.double().square().sum(), (p64 * s64).sum()
    bound = torch.finfo(x.dtype).eps * p64.norm() * s64.norm()
    stop = stop_code(now, rr, ps, bound)
    going = stop == RUNNING
    alpha = torch.where(going, rr / ps, 0.0)
    # not x += 0 p: a product that is not finite must not reach x
    x.copy_(torch.where(going, x + alpha.to(x.dtype) * p, x))
    r.copy_(torch.where(going, r - alpha.to(x.dtype) * s, r))
    after = torch.where(going, r.double().square().sum(), now[0])
    beta = torch.where(going, after / rr, 0.0)
    p.copy_(torch.where(going, r + beta.to(x.dtype) * p, p))
    note(solve.history, now, then, stop, after, after, alpha, beta)


def stop_code(now: Tensor, rr: Tensor, ps: Tensor, bound: Tensor) -> Tensor:
    """How a solve stands before a step with squared residual rr and curvature ps."""
    found = torch.where(ps <= bound, CURVATURE, RUNNING)
    found = torch.where(torch.isfinite(ps) & torch.isfinite(bound), found, NOT_FINITE)
    found = torch.where(rr <= now[1], CONVERGED, found)
    return torch.where(now[2] == RUNNING, found, now[2].long())


def note(
    history: Tensor,
    now: Tensor,
    then: Tensor,
    stop: Tensor,
    first: Tensor,
    rr: Tensor,
    alpha: Tensor,
    beta: Tensor,
) -> None:
    """Write the state after a step, whose slot 0 is `first`, and the step's alpha and beta."""
    going = stop == RUNNING
    step = now[3].long().clamp(max=history.shape[0] - 1).reshape(1)
    entry = torch.where(going, torch.stack((alpha, beta)), history[step][0])
    history.index_copy_(0, step, entry.reshape(1, 2))
    code = torch.where(going & (rr <= now[1]), CONVERGED, stop)
    then.copy_(torch.stack((first, now[1], code.double(), now[3] + going)))


def _native(solve: Recurrence, q: Tensor, k: int) -> int:
    step = native.function("cg_step", q.dtype)
    x, r, p, state, history = solve.x, solve.r, solve.p, solve.state, solve.history
    return step(
        x.data_ptr(), r.data_ptr(), p.data_ptr(), q.data_ptr(), solve.damping, q.numel(),
        state.data_ptr(), history.data_ptr(), history.shape[0], k, native.threads(),
    )  # fmt: skip


@jit
def cg_sums_kernel(p, q, r, state, sums, n, damping: tl.float64, BLOCK: tl.constexpr):
    # sums[i, program]: r.r, r.s, s.s, p.s, p.p
    i_p = tl.program_id(0)
    programs = tl.num_programs(0)
    if tl.load(state + 2) == 0.0:
        b_rr = tl.zeros([BLOCK], tl.float64)
        b_rs = tl.zeros([BLOCK], tl.float64)
        b_ss = tl.zeros([BLOCK], tl.float64)
        b_ps = tl.zeros([BLOCK], tl.float64)
        b_pp = tl.zeros([BLOCK], tl.float64)
        for i in range(i_p, tl.cdiv(n, BLOCK), programs):
            o = tl.cast(i, tl.int64) * BLOCK + tl.arange(0, BLOCK)
            m = o < n
            b_p = tl.load(p + o, mask=m, other=0.0)
            b_s = tl.load(q + o, mask=m, other=0.0) + tl.cast(damping, b_p.dtype) * b_p
            b_r = tl.cast(tl.load(r + o, mask=m, other=0.0), tl.float64)
            b_p = tl.cast(b_p, tl.float64)
            b_s = tl.cast(b_s, tl.float64)
            b_rr += b_r * b_r
            b_rs += b_r * b_s
            b_ss += b_s * b_s
            b_ps += b_p * b_s
            b_pp += b_p * b_p
        tl.store(sums + i_p, tl.sum(b_rr, 0))
        tl.store(sums + programs + i_p, tl.sum(b_rs, 0))
        tl.store(sums + 2 * programs + i_p, tl.sum(b_ss, 0))
        tl.store(sums + 3 * programs + i_p, tl.sum(b_ps, 0))
        tl.store(sums + 4 * programs + i_p, tl.sum(b_pp, 0))


@jit
def cg_update_kernel(
    x, r, p, q, now, then, sums, history, n, steps, damping: tl.float64, eps: tl.float64,
    COUNT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # every program derives the same scalars from the same sums; the first one writes them down
    i_p = tl.program_id(0)
    goal = tl.load(now + 1)
    stop = tl.load(now + 2)
    taken = tl.load(now + 3)
    after = tl.load(now)
    if stop == 0.0:
        o_c = tl.arange(0, COUNT)
        rr = tl.sum(tl.load(sums + o_c), 0)
        rs = tl.sum(tl.load(sums + COUNT + o_c), 0)
        ss = tl.sum(tl.load(sums + 2 * COUNT + o_c), 0)
        ps = tl.sum(tl.load(sums + 3 * COUNT + o_c), 0)
        pp = tl.sum(tl.load(sums + 4 * COUNT + o_c), 0)
        bound = tl.cast(eps, tl.float64) * tl.sqrt(pp) * tl.sqrt(ss)
        after = rr
        # v - v would not tell: of a product the GPU makes a fused fma(a, b, -v), which is not 0
        finite = (tl.abs(ps) <= 1.7976931348623157e308) & (tl.abs(bound) <= 1.7976931348623157e308)
        if rr <= goal:
            stop = tl.cast(1.0, tl.float64)
        elif finite == 0:
            stop = tl.cast(3.0, tl.float64)
        elif ps <= bound:
            stop = tl.cast(2.0, tl.float64)
        if stop == 0.0:
            alpha = rr / ps
            after = tl.maximum(rr - 2.0 * alpha * rs + alpha * alpha * ss, 0.0)
            beta = after / rr
            for i in range(i_p, tl.cdiv(n, BLOCK), tl.num_programs(0)):
                o = tl.cast(i, tl.int64) * BLOCK + tl.arange(0, BLOCK)
                m = o < n
                b_p = tl.load(p + o, mask=m, other=0.0)
                b_s = tl.load(q + o, mask=m, other=0.0) + tl.cast(damping, b_p.dtype) * b_p
                b_r = tl.load(r + o, mask=m, other=0.0) - tl.cast(alpha, b_p.dtype) * b_s
                b_x = tl.load(x + o, mask=m, other=0.0) + tl.cast(alpha, b_p.dtype) * b_p
                tl.store(x + o, b_x, mask=m)
                tl.store(r + o, b_r, mask=m)
                tl.store(p + o, b_r + tl.cast(beta, b_p.dtype) * b_p, mask=m)
            if i_p == 0:
                step = tl.minimum(tl.cast(taken, tl.int64), steps - 1)
                tl.store(history + 2 * step, alpha)
                tl.store(history + 2 * step + 1, beta)
            taken += 1.0
            if after <= goal:
                stop = tl.cast(1.0, tl.float64)
    if i_p == 0:
        tl.store(then, after)
        tl.store(then + 1, goal)
        tl.store(then + 2, stop)
        tl.store(then + 3, taken)


def programs(n: int) -> int:
    """How many programs share n elements: a power of two, so that the sums load without a mask."""
    blocks = max(1, -(-n // BLOCK))
    return min(PROGRAMS, 1 << (blocks.bit_length() - 1))


def launch(solve: Recurrence, q: Tensor, k: int) -> None:
    """Both launches."""
    n = q.numel()
    count = programs(n)
    now, then = solve.state[k % 2], solve.state[(k + 1) % 2]
    cg_sums_kernel[(count,)](
        solve.p, q, solve.r, now, solve.sums, n, solve.damping, BLOCK=BLOCK, num_warps=8
    )
    cg_update_kernel[(count,)](
        solve.x, solve.r, solve.p, q, now, then, solve.sums, solve.history,
        n, solve.history.shape[0], solve.damping, torch.finfo(q.dtype).eps,
        COUNT=count, BLOCK=BLOCK, num_warps=8,
    )  # fmt: skip


WAYS = {"torch": reference, "native": _native, "triton": launch}
