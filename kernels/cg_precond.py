r"""Conjugate gradient with a preconditioner, with its scalars on the device.

    s = H p + damping p       alpha = r.z / p.s
    x += alpha p              r -= alpha s
    z = M r                   beta = r'.z' / r.z       p = z' + beta p

The preconditioner is a function that the caller owns, so x, r and p cannot be updated in one pass:
this is plain torch, about 20 operations on vectors and scalars, none of which waits for the device.

Saad, Iterative Methods for Sparse Linear Systems, algorithm 9.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bettyc.kernels import checks
from bettyc.kernels.cg_update import RUNNING, note, scalars, stop_code


@dataclass(frozen=True)
class Recurrence:
    """A solve in progress; as in cg_update.py, with r.z in the first slot of the state."""

    x: Tensor
    r: Tensor
    p: Tensor
    state: Tensor
    history: Tensor
    damping: float
    precond: Callable[[Tensor], Tensor]

    def advance(self, matvec: Callable[[Tensor], Tensor], k: int) -> None:
        """One iteration, number k from 0."""
        step(self, matvec(self.p), k)


def start(
    x: Tensor,
    r: Tensor,
    goal: Tensor,
    steps: int,
    damping: float,
    precond: Callable[[Tensor], Tensor],
) -> Recurrence:
    """From x with residual r = b - A x, both taken over, until |r| <= goal."""
    checks.vectors("cg_precond", x=x, r=r)
    state, history = scalars(r, goal, steps)
    z = precond(r)
    checks.vectors("cg_precond", r=r, z=z)
    state[0, 0] = _dot(r, z)
    return Recurrence(x, r, z.clone(), state, history, damping, precond)


def step(solve: Recurrence, q: Tensor, k: int) -> None:
    """Step number k with the product q = H p, shape (n,)."""
    x, r, p = solve.x, solve.r, solve.p
    checks.vectors("cg_precond", p=p, q=q)
    now, then = solve.state[k % 2], solve.state[(k + 1) % 2]
    s = q + solve.damping * p
    ps, rz = _dot(p, s), now[0]
    bound = torch.finfo(x.dtype).eps * _dot(p, p).sqrt() * _dot(s, s).sqrt()
    # an indefinite preconditioner shows up as r.z <= 0
    stop = stop_code(now, _dot(r, r), torch.where(rz > 0, ps, rz.clamp(max=0)), bound)
    going = stop == RUNNING
    alpha = torch.where(going, rz / ps, 0.0)
    x.copy_(torch.where(going, x + alpha.to(x.dtype) * p, x))
    r.copy_(torch.where(going, r - alpha.to(x.dtype) * s, r))
    z = solve.precond(r)
    after = torch.where(going, _dot(r, z), rz)
    beta = torch.where(going, after / rz, 0.0)
    p.copy_(torch.where(going, z + beta.to(x.dtype) * p, p))
    note(solve.history, now, then, stop, after, _dot(r, r), alpha, beta)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() * b.double()).sum()
