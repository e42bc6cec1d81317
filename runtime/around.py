r"""Objectives around networks that stay opaque: formulas for the rest, autograd for the networks.

An objective is l(z, x), z what opaque networks return, a function of the variables of some levels,
and l algebra. z stands in l as variables of a level of its own, together with those variables of
the objective's level that l reads itself; derivatives of l are formulas (`Closed`). With
r = \partial l / \partial z and J = \partial z / \partial theta,

    gradient     \partial l / \partial theta + J^T r
    H u          \partial_theta (r^T J u) + J^T q + h,    (h, q) = l'' (u, J u)

and cross terms alike. r^T J, kept with its graph, gives J u and the first term in one backward.
`torch.func.linearize` in its place would follow the network anew at every point, which takes longer
than tens of products save (benchmarks/opaque.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from bettyc.failures import CallbackError
from bettyc.runtime.closed import Closed
from bettyc.runtime.formula import Formula
from bettyc.runtime.layout import Slot
from bettyc.runtime.objective import Frame
from bettyc.runtime.products import Products
from bettyc.runtime.slope import refused

Theta = Mapping[str, Tensor]


class Around:
    """The derivatives of one level's objective around its networks.

    levels: those whose variables it reads with a gradient. through: those that the networks'
    outputs depend on. own: slots of the level that the formula reads itself, and where they lie in
    front of the outputs.
    """

    def __init__(
        self,
        objective: Formula,
        outputs: Formula,
        closed: Closed,
        levels: Sequence[str],
        through: frozenset[str],
        own: Sequence[tuple[Slot, Slot]],
        shapes: Sequence[tuple[int, ...]],
        still: bool,
    ) -> None:
        self.objective, self.outputs, self.closed = objective, outputs, closed
        self.level, self.levels = objective.level, tuple(levels)
        self.through, self.own, self.shapes = through, tuple(own), tuple(shapes)
        self.front = sum(new.stop - new.start for _, new in own)
        self.still = still  # nothing inside the networks' inputs is detached from the level

    def evaluated(
        self, theta: Theta, frame: Frame, wrt: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the networks return, flat, and the variables of `wrt` that it is a function of.

        Raises CallbackError where a network returns another shape than it declares.
        """
        leaves = {n: theta[n].detach().requires_grad_() for n in wrt if n in self.through}
        with torch.set_grad_enabled(bool(leaves)):
            found = self.outputs({**theta, **leaves}, frame)
            self.objective.buffers = self.outputs.buffers
            parts = found if isinstance(found, tuple) else (found,)
            for part, shape in zip(parts, self.shapes, strict=True):
                if tuple(part.shape) != shape:
                    names = ", ".join(self.outputs.networks)
                    raise CallbackError(
                        f"`{names}` returned the shape {tuple(part.shape)}, declared is {shape}"
                    )
            flat = [part.reshape(-1) for part in parts]
            return flat[0] if len(flat) == 1 else torch.cat(flat), leaves

    def point(self, theta: Theta, z: Tensor) -> dict[str, Tensor]:
        """theta for the formula."""
        own = theta[self.level]
        x = self.joined(own, z.detach())
        return {**theta, self.closed.level: x}

    def joined(self, own: Tensor, z: Tensor) -> Tensor:
        """The level's variables that the formula reads itself, and z; or directions of both."""
        if not self.own:
            return z
        return torch.cat([*(own[old.start : old.stop] for old, _ in self.own), z])

    def add_own(self, total: Tensor, x: Tensor) -> Tensor:
        """Add what belongs to the level's own variables to a flat tensor of them, in place."""
        for old, new in self.own:
            total[old.start : old.stop] += x[new.start : new.stop]
        return total

    def gradients(
        self, theta: Theta, frame: Frame, wrt: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The value, scalar, and the gradient in theta[l], of its shape, for l in `wrt`."""
        z, leaves = self.evaluated(theta, frame, wrt)
        with torch.no_grad():
            value, found = self.closed.gradients(self.point(theta, z), frame, self._keys(wrt))
        return value, self._whole(theta, z, leaves, found, wrt)

    def _keys(self, wrt: Sequence[str]) -> tuple[str, ...]:
        return (self.closed.level, *(n for n in wrt if n != self.level))

    def _whole(
        self,
        theta: Theta,
        z: Tensor,
        leaves: Mapping[str, Tensor],
        found: Mapping[str, Tensor],
        wrt: Sequence[str],
    ) -> dict[str, Tensor]:
        """Derivatives of the objective out of those of the formula."""
        x = found[self.closed.level]
        through = back(z, leaves, x[self.front :])
        total = {}
        for name in wrt:
            part = through.get(name)
            if name == self.level:
                part = torch.zeros_like(theta[name]) if part is None else part
                total[name] = self.add_own(part, x)
            elif part is None:
                total[name] = found[name]
            else:
                total[name] = part + found[name] if self.closed.leaves[name] else part
        return total

    def nearby(
        self, theta: Theta, frame: Frame, wrt: Sequence[str]
    ) -> Callable[[Tensor], dict[str, Tensor]] | None:
        """The gradients in theta[l], l in `wrt`, as a function of the level's own variables; what
        the formula detaches stays what it is at theta. None where networks are given such values.
        """
        if not self.still:
            return None
        z, _ = self.evaluated(theta, frame, ())
        keys = self._keys(wrt) if self.through & {*wrt} or self.level in wrt else tuple(wrt)
        with torch.no_grad():
            at = self.closed.nearby(self.point(theta, z), frame, keys)

        def gradients(own: Tensor) -> dict[str, Tensor]:
            moved = {**theta, self.level: own}
            z, leaves = self.evaluated(moved, frame, wrt)
            with torch.no_grad():
                found = at(self.joined(own, z.detach()))
            if self.closed.level not in keys:
                return found
            return self._whole(moved, z, leaves, found, wrt)

        return gradients

    def products(self, theta: Theta, frame: Frame, into: Sequence[str]) -> AroundProducts | None:
        """Second-order products at theta; None where the networks cannot be differentiated
        twice.
        """
        found = AroundProducts(self, theta, frame, into)
        return None if found.refused else found


def back(
    z: Tensor, leaves: Mapping[str, Tensor], v: Tensor, keep: bool = False
) -> dict[str, Tensor]:
    """v^T \\partial z / \\partial theta[l] for every l of leaves."""
    if not leaves or not z.requires_grad:
        return {}
    found = torch.autograd.grad(
        z, [*leaves.values()], v, retain_graph=keep, allow_unused=True, materialize_grads=True
    )
    return dict(zip(leaves, found, strict=True))


class AroundProducts:
    """Second-order products around networks; used as `bettyc.runtime.products.Products`."""

    def __init__(self, around: Around, theta: Theta, frame: Frame, into: Sequence[str]) -> None:
        self.into, self.count = tuple(into), 0
        self._around, self._theta, self._frame = around, theta, frame
        level = around.level
        self.size = theta[level].numel()
        self._z, self._leaves = around.evaluated(theta, frame, (level, *into))
        with torch.no_grad():
            self._formula = around.closed.products(around.point(theta, self._z), frame, self.into)
            slope = self._formula.gradient
        self.value = self._formula.value
        self._r = slope[around.front :].clone().requires_grad_()
        own = self._leaves.get(level)
        self._slope: Tensor | None = None
        self.gradient = torch.zeros_like(theta[level])
        self.refused = False
        if own is not None and self._z.requires_grad:
            with torch.enable_grad():
                (self._slope,) = torch.autograd.grad(
                    self._z, [own], self._r, create_graph=True, allow_unused=True,
                    materialize_grads=True,
                )  # fmt: skip
            self.refused = refused(around.objective, self._slope, own)
            self.gradient = self._slope.detach().clone()
        self.gradient = around.add_own(self.gradient, slope)
        self._crossed: tuple[Tensor, int, dict[str, Tensor]] | None = None

    def hvp(self, v: Tensor) -> Tensor:
        """H v, shape (size,), for v of that shape."""
        self.count += 1
        level = self._around.level
        return self._along(v, {n: x for n, x in self._leaves.items() if n == level})[0]

    def certificate(self, u: Tensor) -> Tensor:
        """H u for the solution u, and the cross terms, which `cross(u)` then has for nothing."""
        self.count += 1
        h_u, direction, parts = self._along(u, self._leaves)
        self._crossed = u, u._version, self._total(direction, parts)
        return h_u

    def cross(self, u: Tensor) -> dict[str, Tensor]:
        """(dg/dtheta_R)^T u for every R of `into`, each of the shape of theta[R]."""
        if self._crossed is not None:
            known, version, crossed = self._crossed
            if known is u and u._version == version:
                return crossed
        if not self.into:
            return {}
        others = {n: x for n, x in self._leaves.items() if n != self._around.level}
        if others:
            _, direction, parts = self._along(u, others)
            return self._total(direction, parts)
        direction, _ = self._direction(u, {})
        return self._total(direction, {})

    def _direction(
        self, u: Tensor, leaves: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(u, J u) for the formula, and the derivatives of r^T J u in the leaves."""
        u = u.detach().reshape(-1)
        if self._slope is None or not self._slope.requires_grad:
            return self._around.joined(u, torch.zeros_like(self._r)), {}
        found = torch.autograd.grad(
            self._slope, [self._r, *leaves.values()], u.reshape(self._slope.shape),
            retain_graph=True, allow_unused=True, materialize_grads=True,
        )  # fmt: skip
        moved, *parts = found
        return self._around.joined(u, moved), dict(zip(leaves, parts, strict=True))

    def _along(
        self, u: Tensor, leaves: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """H u (where the level is among the leaves), (u, J u), and what flows into each leaf
        through the networks.
        """
        around = self._around
        direction, parts = self._direction(u, leaves)
        with torch.no_grad():
            x = self._formula.hvp(direction)
        for name, part in back(self._z, leaves, x[around.front :], keep=True).items():
            parts[name] = part if name not in parts else parts[name] + part
        own = parts.get(around.level)
        if own is None:
            own = torch.zeros_like(self._theta[around.level])
        return around.add_own(own, x), direction, parts

    def _total(self, direction: Tensor, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not self.into:
            return {}
        with torch.no_grad():
            found = self._formula.cross(direction)
        return {n: found[n] + parts[n] if n in parts else found[n] for n in self.into}

    @cached_property
    def _whole(self) -> Products:
        """Of all of the objective by autograd: it takes many directions in one backward."""
        return Products(self._around.objective, self._theta, self._frame, self.into)

    def columns(self, directions: Tensor) -> Tensor:
        """H applied to every row of `directions`, shape (k, size)."""
        self.count += len(directions)
        return self._whole.columns(directions)

    def dense(self, chunk: int = 64) -> Tensor:
        """H, shape (size, size), symmetric to rounding."""
        self.count += self.size
        return self._whole.dense(chunk)
