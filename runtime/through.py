"""One response of a layer as a node of autograd: where the solve ended, and its derivative.

    theta* = response(x),    x_bar = the adjoints of x after a sweep that begins with
                                     a_Q = theta*_bar

The sweep is that of `bettyc.runtime.adjoint` with a root of which nothing but a_Q is known. It
gives first derivatives; whoever asks for more is told so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from bettyc.diagnostics.registry import report
from bettyc.failures import InputError, RunError
from bettyc.plan import Pull
from bettyc.runtime.adjoint import Lower, sweep
from bettyc.runtime.objective import Frame
from bettyc.runtime.products import gradients
from bettyc.runtime.report import Report, SolveError
from bettyc.runtime.response import Point
from bettyc.runtime.signature import Column

# The user's own loss, and the data that carry gradient, as levels; no program can name them so.
ROOT, DATA = "(loss)", "(data)"


class OfData:
    """An objective as a function of columns too: theta["(data)"] holds them one after another."""

    def __init__(self, objective: Any, columns: Sequence[Column]) -> None:
        self._objective = objective
        self._columns = tuple(columns)
        self.level: str = objective.level
        self.reads: tuple[str, ...] = (*objective.reads, DATA)
        self.held = objective.held
        self.once: str | None = None  # as in bettyc.runtime.formula.Formula

    def __call__(self, theta: Mapping[str, Tensor], frame: Frame) -> Tensor:
        """Scalar, as of the objective itself."""
        sizes = [torch.Size(c.shape).numel() for c in self._columns]
        values = zip(self._columns, theta[DATA].split(sizes), strict=True)
        columns = dict(frame.columns)
        tasks = {level: [dict(row) for row in rows] for level, rows in frame.tasks.items()}
        for column, flat in values:
            x = flat.view(column.shape)
            if not column.of_tasks:
                columns[column.owner, column.field] = x
                continue
            for row, value in zip(tasks.get(column.owner, ()), x.unbind(), strict=False):
                row[column.field] = value
        frame = replace(frame, columns=columns, tasks={k: tuple(v) for k, v in tasks.items()})
        return self._objective(theta, frame)  # type: ignore[no-any-return]


@dataclass
class LayerReport:
    """What one call of a layer did.

    level: whose response. updates: of that level in this call. backward: one `Report` per linear
    solve, or its like, of the last backward pass through this call; empty before it.
    """

    level: str
    updates: int
    backward: tuple[Report, ...] = ()
    _point: Point | None = field(default=None, repr=False)
    _sign: float = field(default=1.0, repr=False)

    @cached_property
    def _end(self) -> tuple[float, float]:
        assert self._point is not None
        theta, frames = self._point.theta, self._point.frames
        objective = self._point.objectives[self.level]
        value, found = gradients(objective, theta, frames[self.level], [self.level])
        count = len(theta[self.level]) if theta[self.level].ndim > 1 else 1
        return float(value) * self._sign / count, float(found[self.level].norm())

    @property
    def loss(self) -> float:
        """The level's objective at the response, as the program writes it; of a `foreach` level
        the mean over replicas. Computed when it is read.
        """
        return self._end[0]

    @property
    def grad_norm(self) -> float:
        """Norm of the gradient of that objective: how far from a solution the call ended."""
        return self._end[1]


@dataclass
class Solved:
    """The end of a solve. names: of the tensors that the response is a function of, in order.
    memory: what strategies keep between solves; shared by all calls of a layer. seen: data that
    must not change before the backward pass, with their versions.
    """

    level: str
    point: Point
    lowers: Mapping[str, Lower]
    pulls: Sequence[Pull]
    names: tuple[str, ...]
    memory: dict[str, Tensor]
    report: LayerReport
    seen: Sequence[tuple[str, Tensor, int]] = ()

    @property
    def theta(self) -> Tensor:
        return self.point.theta[self.level]

    def pull_back(self, a: Tensor) -> list[Tensor | None]:
        """The adjoints of `names`, for the adjoint a of the response. Raises RunError."""
        for path, x, version in self.seen:
            if x._version != version:
                raise RunError(
                    f"`{path}` was written to between the call of the layer and its backward pass"
                )
        theta = self.point.theta
        with torch.enable_grad(), torch.autocast(theta[self.level].device.type, enabled=False):
            swept = sweep(
                ROOT,
                {self.level: a.detach()},
                objectives=self.point.objectives,
                theta=theta,
                frames=self.point.frames,
                lowers=self.lowers,
                pulls=self.pulls,
                memory=self.memory,
            )
        self.memory.update(swept.memory)
        self.report.backward = swept.reports
        found = [swept.adjoints.get(name) for name in self.names]
        if not all(x is None or bool(torch.isfinite(x).all()) for x in found):
            raise SolveError(f"the derivative of the response of `{self.level}` is not finite")
        return [None if x is None else x.detach() for x in found]


class Response(torch.autograd.Function):
    """The flat response as a function of the tensors `Solved.names` stands for."""

    @staticmethod
    def forward(ctx: Any, solved: Solved, *tensors: Tensor) -> Tensor:
        ctx.solved = solved
        ctx.save_for_backward(*tensors)
        return solved.theta.clone()

    @staticmethod
    def backward(ctx: Any, a: Tensor) -> Any:
        inputs = ctx.saved_tensors
        found = ctx.solved.pull_back(a)
        if torch.is_grad_enabled():  # create_graph = True
            known = [x for x in found if x is not None]
            guarded = iter(Once.apply(ctx.solved.level, len(known), *known, a, *inputs))
            found = [None if x is None else next(guarded) for x in found]
        return None, *found


class Once(torch.autograd.Function):
    """The first `count` tensors as they are, and a clear refusal to differentiate them."""

    @staticmethod
    def forward(ctx: Any, level: str, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.level = level
        return tuple(x.clone() for x in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise InputError(
            report(
                "MLO0709",
                None,
                name=f'layer("{ctx.level}")',
                level=ctx.level,
                strategy="create_graph = True",
                notes=["a layer has first derivatives; make it a level of the program for more"],
            )
        )
