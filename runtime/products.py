r"""Products with the second derivatives of one objective, from one retained graph.

With g = \partial C_Q / \partial theta_Q, the graph of g is built once; then

    H v       = \partial (g . v) / \partial theta_Q          one backward through the graph
    B_R^T u   = \partial (g . u) / \partial theta_R          one backward for all R together

Memory: one graph of the gradient, kept as long as the object lives.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bettyc.runtime.objective import Frame, Objective
from bettyc.runtime.slope import slope, together, value_of


class Products:
    """Second derivatives of `objective` at `theta`.

    into: the levels whose cross products are wanted. All tensors that come back are detached;
    `theta` is never written to. `count` is the number of Hessian-vector products so far.
    """

    def __init__(
        self,
        objective: Objective,
        theta: Mapping[str, Tensor],
        frame: Frame,
        into: Sequence[str] = (),
    ) -> None:
        self.into = tuple(into)
        self.count = 0
        leaves = {name: theta[name].detach().requires_grad_() for name in (objective.level, *into)}
        self._own = leaves[objective.level]
        self._others = [leaves[name] for name in self.into]
        value, self._gradient = slope(objective, {**theta, **leaves}, frame, list(leaves))
        self.value = value.detach()
        self.gradient = self._gradient.detach()
        self.size = self._own.numel()
        self._crossed: tuple[Tensor, int, dict[str, Tensor]] | None = None

    def hvp(self, v: Tensor) -> Tensor:
        """H v, shape (size,), for v of that shape."""
        self.count += 1
        return self._back([self._own], v)[0].flatten()

    def certificate(self, u: Tensor) -> Tensor:
        """H u for the solution u. Its backward gives the cross terms too, which `cross(u)` then
        has for nothing.
        """
        self.count += 1
        h_u, *crossed = self._back([self._own, *self._others], u)
        self._crossed = u, u._version, dict(zip(self.into, crossed, strict=True))
        return h_u.flatten()

    def cross(self, u: Tensor) -> dict[str, Tensor]:
        """(dg/dtheta_R)^T u for every R of `into`, each of the shape of theta[R]."""
        if self._crossed is not None:
            known, version, crossed = self._crossed
            if known is u and u._version == version:
                return crossed
        return dict(zip(self.into, self._back(self._others, u), strict=True)) if self.into else {}

    def columns(self, directions: Tensor) -> Tensor:
        """H applied to every row of `directions`, shape (k, size), in one batched backward if it
        can be.
        """
        if not self._gradient.requires_grad or self.size == 0:
            return torch.zeros_like(directions)
        self.count += len(directions)
        try:
            with warnings.catch_warnings():
                # An operator without a batching rule is slow there, not wrong.
                warnings.simplefilter("ignore", UserWarning)
                (rows,) = torch.autograd.grad(
                    self._gradient,
                    [self._own],
                    directions.reshape(-1, *self._own.shape),
                    retain_graph=True,
                    is_grads_batched=True,
                    allow_unused=True,
                )
            return torch.zeros_like(directions) if rows is None else rows.detach().flatten(1)
        except RuntimeError:
            return torch.stack([self._back([self._own], row)[0].flatten() for row in directions])

    def dense(self, chunk: int = 64) -> Tensor:
        """H, shape (size, size), symmetric to rounding; size products in batches of `chunk`."""
        eye = torch.eye(self.size, dtype=self._own.dtype, device=self._own.device)
        if self.size == 0:
            return eye
        rows = torch.cat([self.columns(part) for part in eye.split(chunk)])
        return 0.5 * (rows + rows.T)

    def _back(self, inputs: list[Tensor], v: Tensor) -> list[Tensor]:
        if not self._gradient.requires_grad:
            return [torch.zeros_like(x) for x in inputs]
        found = torch.autograd.grad(
            self._gradient,
            inputs,
            v.detach().reshape(self._gradient.shape),
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return [x.detach() for x in found]


def products(
    objective: Objective, theta: Mapping[str, Tensor], frame: Frame, into: Sequence[str] = ()
) -> Products:
    """Second derivatives of an objective: by formula where it has them, else by autograd."""
    form = by_formula(objective, theta, frame, [objective.level, *into])
    if form is not None and form.leaves[objective.level]:
        with torch.no_grad():
            return form.products(theta, frame, into)  # type: ignore[no-any-return]
    return Products(objective, theta, frame, into)


def around_networks(objective: Objective, theta: Mapping[str, Tensor], wrt: Sequence[str]) -> Any:
    """The formulas around the networks of an objective if they cover the levels `wrt`, or None."""
    rest = getattr(objective, "around", None)
    if rest is None or any(n not in rest.levels or theta[n].ndim != 1 for n in wrt):
        return None
    return rest


def by_formula(
    objective: Objective, theta: Mapping[str, Tensor], frame: Frame, wrt: Sequence[str]
) -> Any:
    """The closed form of an objective if it covers the levels `wrt`, or None; of a replicated level
    that for all replicas together, where they are evaluated so.
    """
    form = getattr(objective, "closed", None)
    level = objective.level
    if form is None or any(n not in form.levels for n in wrt):
        return None
    if any(theta[n].ndim != 1 for n in wrt if n != level):
        return None
    if theta[level].ndim == 1:
        return form
    return objective.closed_replicas if together(objective, theta, frame) else None  # type: ignore[attr-defined]


def gradients(
    objective: Objective, theta: Mapping[str, Tensor], frame: Frame, wrt: Sequence[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The value, scalar, and the first derivatives with respect to theta[l] for l in `wrt`; all
    detached.
    """
    form = by_formula(objective, theta, frame, wrt)
    if form is not None:
        with torch.no_grad():
            return form.gradients(theta, frame, wrt)  # type: ignore[no-any-return]
    rest = around_networks(objective, theta, wrt)
    if rest is not None:
        return rest.gradients(theta, frame, wrt)  # type: ignore[no-any-return]
    return by_autograd(objective, theta, frame, wrt)


def by_autograd(
    objective: Objective, theta: Mapping[str, Tensor], frame: Frame, wrt: Sequence[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    """As `gradients`, through the objective as it is written."""
    leaves = {name: theta[name].detach().requires_grad_() for name in wrt}
    with torch.enable_grad():
        value = value_of(objective, {**theta, **leaves}, replace(frame, first=True))
    inputs = [leaves[name] for name in wrt]
    if not value.requires_grad or not inputs:
        return value.detach(), {
            name: torch.zeros_like(leaf.detach()) for name, leaf in leaves.items()
        }
    found = torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True)
    return value.detach(), {name: x.detach() for name, x in zip(wrt, found, strict=True)}


def nearby(
    objective: Objective, theta: Mapping[str, Tensor], frame: Frame, wrt: Sequence[str]
) -> Callable[[Tensor], dict[str, Tensor]]:
    """The first derivatives in theta[l], l in `wrt`, as a function of the level's own variables.

    What the objective detaches stays what it is at theta: it is no function of the variables.
    """
    form = by_formula(objective, theta, frame, [objective.level, *wrt])
    if form is not None:
        with torch.no_grad():
            at = form.nearby(theta, frame, wrt)

        def by_text(own: Tensor) -> dict[str, Tensor]:
            with torch.no_grad():
                return at(own)  # type: ignore[no-any-return]

        return by_text
    rest = around_networks(objective, theta, [objective.level, *wrt])
    near = None if rest is None else rest.nearby(theta, frame, wrt)
    if near is not None:
        return near  # type: ignore[no-any-return]
    held = getattr(objective, "held", None)
    if held is not None:
        with torch.no_grad(), held.recording():
            value_of(objective, theta, frame)

    def replayed(own: Tensor) -> dict[str, Tensor]:
        with nullcontext() if held is None else held.replaying():
            return by_autograd(objective, {**theta, objective.level: own}, frame, wrt)[1]

    return replayed
