r"""Conjugate gradient for (H + damping I) x = b, from any matrix-vector product.

Converges for positive definite H; after k steps the error in the H-norm is at most
2 ((sqrt(kappa) - 1) / (sqrt(kappa) + 1))^k of the first. One product per step, one more for a warm
start; four vectors of memory besides the product's.

On the CPU the loop ends as soon as the solve has stopped; a product with a method `solve`, such as
`Product` of xt_phi_x.py, runs all of it in one call of native.c (solves.py).
On a GPU nothing is read back inside the solve: convergence is tested on the device, steps after it
change nothing, and the host, which runs ahead, looks at a copy of the stop code every CHECK steps.

What cannot happen is 0/0: a zero right-hand side gives x = 0 without a product, and a step with a
residual of zero, or with p.Hp not above rounding, is not taken.

Hestenes and Stiefel 1952; Saad, Iterative Methods for Sparse Linear Systems, section 6.7.3 (Ritz
values).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bettyc.kernels import capture, cg_precond, cg_single, cg_update, solves
from bettyc.kernels.cg_update import CONVERGED, CURVATURE, NOT_FINITE, RUNNING

Matvec = Callable[[Tensor], Tensor]
CHECK = 16  # steps between two looks at the stop code on a GPU
RITZ_STEPS = 200  # steps whose Lanczos matrix the smallest Ritz value is taken from


class Info:
    """What a solve reports. Reading any of it waits for the device, once."""

    certificate = None  # of the true residual: only a whole solve in one call takes it

    def __init__(
        self,
        state: Tensor,
        history: Tensor,
        r: Tensor,
        rr: Tensor,
        bb: Tensor,
        damping: float,
        ritz: bool,
    ):
        self.residual = r  # the recursive one
        self._tensors = (state, history, rr, bb)
        self._damping = damping
        self._ritz = ritz

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What it reads, by the names of its arguments."""
        return dict(zip(("state", "history", "rr", "bb"), self._tensors, strict=True))

    @cached_property
    def _read(self) -> tuple[int, int, float]:
        state, _, rr, bb = self._tensors
        squared, total = float(rr), float(bb)
        relative = (squared / total) ** 0.5 if total > 0 else 0.0
        code, taken = int(state[2]), int(state[3])
        if code == RUNNING and squared <= float(state[1]):
            code = CONVERGED  # in the last step allowed
        return code, taken, relative

    @property
    def iterations(self) -> int:
        """Steps taken."""
        return self._read[1]

    @property
    def relative_residual(self) -> float:
        """|r| / |b| of the recursive residual r; 0 for b = 0."""
        return self._read[2]

    @property
    def size(self) -> float:
        """|b|."""
        return float(self._tensors[3]) ** 0.5

    @property
    def converged(self) -> bool:
        """Whether |r| <= tol |b|."""
        return self._read[0] == CONVERGED

    @property
    def curvature(self) -> bool:
        """Whether a direction with p.(H + damping I)p <= 0 (up to rounding) ended the solve. x is
        the iterate before it.
        """
        return self._read[0] == CURVATURE

    @property
    def breakdown(self) -> bool:
        """Whether a product that is not finite ended the solve. x is the iterate before it."""
        return self._read[0] == NOT_FINITE

    @cached_property
    def steps(self) -> Tensor:
        """(iterations, 2), float64: the alpha and beta of each step."""
        return self._tensors[1][: self.iterations].cpu()

    @property
    def min_ritz(self) -> float | None:
        """The smallest Ritz value of H, an upper bound of its smallest eigenvalue. None without a
        step, or under a preconditioner, where the Lanczos matrix is of another operator.
        """
        return None if self._ritz_values is None else float(self._ritz_values[0]) - self._damping

    @property
    def max_ritz(self) -> float | None:
        """The largest of H + damping I, a lower bound of its largest eigenvalue."""
        return None if self._ritz_values is None else float(self._ritz_values[-1])

    @cached_property
    def _ritz_values(self) -> np.ndarray | None:
        """Those of H + damping I, ascending."""
        count = min(self.iterations, RITZ_STEPS)
        if not self._ritz or count == 0:
            return None
        # NumPy: on a matrix of three rows its calls take a quarter of torch's time.
        alpha, beta = self.steps[:count].numpy().T
        diagonal = 1 / alpha
        diagonal[1:] += beta[:-1] / alpha[:-1]
        lanczos = np.diag(diagonal)
        lower = np.arange(1, count)
        lanczos[lower, lower - 1] = np.sqrt(beta[:-1].clip(min=0)) / alpha[:-1]
        found: np.ndarray = np.linalg.eigvalsh(lanczos, UPLO="L")
        return found


def cg(
    matvec: Matvec,
    b: Tensor,
    *,
    tol: float = 1e-6,
    max_iters: int | None = None,
    damping: float = 0.0,
    x0: Tensor | None = None,
    precond: Matvec | None = None,
    method: Literal["classic", "single"] = "classic",
    certify: bool = False,
) -> tuple[Tensor, Info | solves.Info]:
    """x with |b - (H + damping I) x| <= tol |b|, and how the solve went.

    matvec: v -> H v on (n,) tensors; the result may be a buffer that the next call overwrites, and
    v is overwritten after the call. b: (n,), float32 or float64, contiguous. max_iters: 10 n, at
    most 1000, where None. precond: v -> M v, M an approximate inverse. method: "single" has one
    reduction per step (cg_single.py). certify: say what the true residual is where that comes
    with the solve, as `certificate` of what is returned. b and x0 are left as they are.
    Raises ValueError for operands that the kernels cannot take.
    """
    if b.dim() != 1:
        raise ValueError(f"cg: `b` has shape {tuple(b.shape)}; it must be flat")
    if not (tol >= 0 and damping >= 0):
        raise ValueError(f"cg: tol and damping must be at least 0, not {tol} and {damping}")
    if precond is not None and method != "classic":
        raise ValueError(f"cg: method {method!r} takes no preconditioner")
    steps = min(10 * b.numel(), 1000) if max_iters is None else max_iters
    waiting = not capture.underway()
    whole = getattr(matvec, "solve", None) if b.device.type == "cpu" and waiting else None
    if whole is not None and precond is None and method == "classic":
        found: tuple[Tensor, solves.Info] | None = whole(
            b, tol=tol, max_iters=steps, damping=damping, x0=x0, certify=certify
        )
        if found is not None:
            return found
    bb = cg_update.squared(b)
    zero = bb == 0
    if b.device.type == "cpu" and waiting and bool(zero):
        x0, steps = None, 0
    if x0 is None:
        x, r = torch.zeros_like(b), b.clone()
    else:
        # b = 0 has the answer 0 wherever the solve starts
        x = torch.where(zero, 0.0, x0)
        r = b - matvec(x) - damping * x
    goal = tol * bb.sqrt()
    solve: cg_update.Recurrence | cg_single.Recurrence | cg_precond.Recurrence
    if precond is not None:
        solve = cg_precond.start(x, r, goal, steps, damping, precond)
    elif method == "single":
        solve = cg_single.start(x, r, goal, steps, damping)
    else:
        solve = cg_update.start(x, r, goal, steps, damping)
    done = _loop(lambda k: solve.advance(matvec, k), solve.state, steps)
    rr = cg_update.squared(solve.r)
    state = solve.state[done % 2]
    return solve.x, Info(state, solve.history, solve.r, rr, bb, damping, precond is None)


def _loop(step: Callable[[int], int | None], state: Tensor, steps: int) -> int:
    """Call step(k) until the solve has stopped; how many calls that was."""
    if state.device.type == "cuda" or capture.underway():
        return _run_ahead(step, state, steps)
    if steps and state[0, 2] != RUNNING:
        return 0
    for k in range(steps):
        stop = step(k)
        if (state[(k + 1) % 2, 2] if stop is None else stop) != RUNNING:
            return k + 1
    return steps


def _run_ahead(step: Callable[[int], int | None], state: Tensor, steps: int) -> int:
    """The loop on a GPU. Nobody looks while a graph is captured, or for few steps. Otherwise the
    host keeps at most two times CHECK steps queued: it waits for the older half while the other one
    runs, so the device never waits for the host, and few steps come after the solve has stopped.
    """
    if steps <= CHECK or capture.underway():
        for k in range(steps):
            step(k)
        return steps
    copies = torch.zeros(2, dtype=torch.float64, pin_memory=True)
    events = (torch.cuda.Event(), torch.cuda.Event())
    for k in range(steps):
        step(k)
        block, last = divmod(k + 1, CHECK)
        if last:
            continue
        new, old = block % 2, (block + 1) % 2
        copies[new : new + 1].copy_(state[(k + 1) % 2, 2:3], non_blocking=True)
        events[new].record()
        if block > 1:
            events[old].synchronize()
            if copies[old] != RUNNING:
                return k + 1
    return steps
