r"""Objectives around networks that stay opaque: formulas for the rest, autograd for the networks.

An objective is l(z, x), z what opaque networks return, a function of the variables of some levels,
and l algebra. z stands in l as variables of a level of its own, together with those variables of
the objective's level that l reads itself; derivatives of l are formulas (`Closed`). With
J = \partial z / \partial theta, the gradient is \partial l / \partial theta plus J^T times
\partial l / \partial z.

Second derivatives are one backward through a graph of the whole gradient (products.py). Around the
networks they would take two, because J^T l'' J u begins with what the first one gives: measured,
products of an mlp took a third longer. `torch.func.linearize` follows the network anew at every
point, which takes longer than tens of products save (benchmarks/opaque.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from bettyc.failures import CallbackError
from bettyc.runtime.closed import Closed
from bettyc.runtime.formula import Formula
from bettyc.runtime.layout import Slot
from bettyc.runtime.objective import Frame

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
        """The level's variables that the formula reads itself, and z."""
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


def back(z: Tensor, leaves: Mapping[str, Tensor], v: Tensor) -> dict[str, Tensor]:
    """v^T \\partial z / \\partial theta[l] for every l of leaves."""
    if not leaves or not z.requires_grad:
        return {}
    found = torch.autograd.grad(z, [*leaves.values()], v, allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))
