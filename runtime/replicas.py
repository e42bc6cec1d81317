"""All replicas of a `foreach` level at once, by vmap, or one after another.

Objectives that are algebra are not evaluated here: their derivatives are written for all replicas
(`bettyc.runtime.closed_replicas`) where this says that they are taken together.

vmap costs one operator for all replicas in place of one each, which wins where operators are small:
their number, not their arithmetic, is then what takes the time. A loop is as fast where operators
are large, holds the intermediate values of one replica at a time, and takes any network. `auto`
looks at one evaluation of one replica:

    loop    vmap cannot take it: it draws random masks, updates buffers (BatchNorm's statistics),
            or depends on values
    loop    an operator costs more than LARGE flops on average
    vmap    otherwise

so the choice depends on the program and the sizes alone. LARGE is a compromise between time and
memory, for one thread: `benchmarks/tasks.py widths` finds vmap still 1.2 times faster at 5 Mflop,
but its peak then grows with the number of replicas, for little. Other networks and processors meet
elsewhere: `replicas = vmap` or `loop` says what is right where it was measured.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from bettyc.failures import RunError
from bettyc.runtime.objective import Frame
from bettyc.runtime.randomness import masks
from bettyc.runtime.work import Operators

Body = Callable[[Mapping[str, Tensor], Frame], Tensor]
LARGE = 2_000_000


class Replicas:
    """How functions of one replica of `level` are evaluated at all of them.

    way: "auto", "vmap" or "loop", as the program says. reasons: why functions are looped over, by
    function; empty for those that vmap takes. each: flops per operator of
    functions, as `auto` counts them.
    """

    def __init__(self, level: str, way: str, device: str) -> None:
        self.level = level
        self.way = way
        self.reasons: dict[Body, str] = {}
        self.each: dict[Body, float] = {}
        self._device = device
        self._tasks: Any = None
        self._stacked: dict[str, Tensor] = {}

    @property
    def taken(self) -> str:
        """What is done so far: "vmap", "loop", or "loop: " and why."""
        said = sorted({reason for reason in self.reasons.values() if reason})
        if said:
            return "loop: " + "; ".join(said)
        return "vmap" if self.reasons else "loop"

    def together(self, body: Body, theta: Mapping[str, Tensor], frame: Frame) -> bool:
        """Whether vmap takes the function; found out the first time. Raises RunError where it must
        and cannot.
        """
        if self.way == "loop" or not len(theta[self.level]):
            return False
        if body not in self.reasons:
            self.reasons[body] = self._reason(body, theta, frame)
            if self.reasons[body] and self.way == "vmap":
                raise RunError(
                    f"`replicas = vmap` of level `{self.level}`: {self.reasons[body]};"
                    " say `replicas = loop`"
                )
        return not self.reasons[body]

    def values(self, body: Body, theta: Mapping[str, Tensor], frame: Frame) -> Tensor:
        """The function at every replica, stacked along a new first axis."""
        way = self.batched if self.together(body, theta, frame) else self.looped
        return way(body, theta, frame)

    def looped(self, body: Body, theta: Mapping[str, Tensor], frame: Frame) -> Tensor:
        """The same, one replica after another; where only first derivatives follow, without the
        graph of more than one of them at a time.
        """
        moving = [n for n, x in theta.items() if x.requires_grad]
        if frame.first and moving and torch.is_grad_enabled():
            found: Tensor = _Each.apply(self, body, theta, frame, moving, *map(theta.get, moving))
            return found
        rows = theta[self.level].unbind()
        return torch.stack([body(*self.one(theta, frame, i, row)) for i, row in enumerate(rows)])

    def stacked(self, frame: Frame) -> Frame:
        """The frame in which the columns of the one task are those of all, along a first axis."""
        tasks = {**frame.tasks, self.level: (self._columns(frame),)}
        return replace(frame, tasks=tasks, replica={**frame.replica, self.level: 0})

    def batched(self, body: Body, theta: Mapping[str, Tensor], frame: Frame) -> Tensor:
        """The same by vmap."""
        level = self.level

        def one(row: Tensor, task: dict[str, Tensor]) -> Tensor:
            tasks = {**frame.tasks, level: (task,)}
            seen = replace(frame, tasks=tasks, replica={**frame.replica, level: 0})
            return body({**theta, level: row}, seen)

        found: Tensor = torch.func.vmap(one)(theta[level], self._columns(frame))
        return found

    def one(
        self, theta: Mapping[str, Tensor], frame: Frame, index: int, row: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Frame]:
        """Variables and frame of one replica."""
        level = self.level
        own = theta[level][index] if row is None else row
        return {**theta, level: own}, replace(frame, replica={**frame.replica, level: index})

    def _columns(self, frame: Frame) -> dict[str, Tensor]:
        """The columns of all tasks with a first axis of tasks; kept while they are the same."""
        tasks = frame.tasks.get(self.level, ())
        if tasks is not self._tasks:
            names = tasks[0] if tasks else ()
            self._stacked = {name: torch.stack([t[name] for t in tasks]) for name in names}
            self._tasks = tasks
        return self._stacked

    def _reason(self, body: Body, theta: Mapping[str, Tensor], frame: Frame) -> str:
        """Why the function is looped over; empty where it is not. Leaves buffers and random
        generators as they are.
        """
        with torch.no_grad(), masks(frame.seed, self._device):
            if self.way == "auto":
                # here, since it imports triton: 75 MiB and 0.2 s
                from torch.utils.flop_counter import FlopCounterMode

                with FlopCounterMode(display=False) as flops, Operators() as operators:
                    body(*self.one(theta, _copied(frame), 0))
                each = self.each[body] = flops.get_total_flops() / max(operators.count, 1)
                if each > LARGE:
                    return f"its operators are large: {each / 1e6:.1f} Mflop each"
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    self.batched(body, theta, _copied(frame))
            except torch.OutOfMemoryError:
                return "vmap runs out of memory"
            except Exception as error:
                # whatever torch or the user's network says: the loop shows what is really wrong
                return f"vmap cannot take it: {str(error).splitlines()[0]}"
        return ""


class _Each(torch.autograd.Function):
    """The values of a function at every replica, whose derivatives are taken with them."""

    @staticmethod
    def forward(
        ctx: Any,
        replicas: Replicas,
        body: Body,
        theta: Mapping[str, Tensor],
        frame: Frame,
        moving: Sequence[str],
        *tensors: Tensor,
    ) -> Tensor:
        values, slopes = [], []
        for i in range(len(theta[replicas.level])):
            at, seen = replicas.one(theta, frame, i)
            leaves = [at[name].detach().requires_grad_() for name in moving]
            with torch.enable_grad():
                value = body({**at, **dict(zip(moving, leaves, strict=True))}, seen)
            values.append(value.detach())
            if value.requires_grad:
                found = torch.autograd.grad(
                    value, leaves, allow_unused=True, materialize_grads=True
                )
            else:
                found = tuple(torch.zeros_like(x) for x in leaves)
            slopes.append(found)
        ctx.own = [name == replicas.level for name in moving]
        ctx.save_for_backward(*(torch.stack(parts) for parts in zip(*slopes, strict=True)))
        return torch.stack(values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        """g: shape (replicas,). A level that all of them read adds up."""
        found = [
            g[:, None] * slopes if own else torch.tensordot(g, slopes, 1)
            for own, slopes in zip(ctx.own, ctx.saved_tensors, strict=True)
        ]
        return None, None, None, None, None, *found


def _copied(frame: Frame) -> Frame:
    return replace(
        frame,
        buffers=tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, dict(frame.buffers)),
    )
