"""Second-order products by formula; stands in for `bettyc.runtime.products.Products`."""

from __future__ import annotations

import torch
from torch import Tensor

from bettyc.kernels.one_pass import Pass
from bettyc.kernels.xt_phi_x import Product
from bettyc.runtime import passes
from bettyc.runtime.closed_text import Function, Texts, Theta
from bettyc.runtime.objective import Frame


class ClosedProducts:
    """Second-order products by formula; stands in for `bettyc.runtime.products.Products`."""

    def __init__(
        self,
        closed: Texts,
        theta: Theta,
        frame: Frame,
        into: tuple[str, ...],
        functions: tuple[Function, ...],
    ) -> None:
        self.into = into
        self.count = 0
        # a dictionary of its own: that of a run goes on to other variables
        self._closed, self._theta, self._frame = closed, {**theta}, frame
        self._own = theta[closed.level]
        self.size = self._own.numel()
        prologue, self._hessian, self._cross = functions
        self._pass: Pass | Product | None = None
        self._fixed = prologue.at(theta, frame)
        self._first: tuple[Tensor, Tensor] | None = None

    def __del__(self) -> None:
        # without names of this module, which are gone where the interpreter ends
        release = getattr(self._pass, "release", None)
        if release is not None:
            release()

    @property
    def value(self) -> Tensor:
        return self._evaluated()[0]

    @property
    def gradient(self) -> Tensor:
        return self._evaluated()[1]

    def _evaluated(self) -> tuple[Tensor, Tensor]:
        if self._first is None:
            level = self._closed.level
            value, found = self._closed.gradients(self._theta, self._frame, [level])
            self._first = value, found[level]
        return self._first

    def hvp(self, v: Tensor) -> Tensor:
        """H v, shape (size,), for v of that shape."""
        self.count += 1
        if isinstance(self._pass, Pass) and v.is_contiguous():
            return self._pass.into(v, torch.empty_like(v))
        closed, theta = self._closed, self._theta
        out = closed.memory(theta, [closed.level])
        parts = self._hessian.at(theta, self._frame, self._fixed, v, out)
        return closed._collected(theta, [closed.level], parts, out)[closed.level].flatten()

    def for_solver(self) -> passes.Curvature | None:
        """H v in one call each, where it is one pass over the data that native.c computes."""
        if self._pass is None and self._hessian.bound and self._covers():
            v = torch.empty_like(self._own)
            inputs = self._hessian.inputs(self._theta, self._frame, self._fixed, v)
            self._pass = self._hessian.bound(*inputs)
        if self._pass is None:
            return None
        ((slot, _),) = self._closed.leaves[self._closed.level]
        return passes.Curvature(self._pass, slot.free, self._counted)

    def _covers(self) -> bool:
        """Whether the one variable of the product is all of the level."""
        slots = [slot for slot, _ in self._closed.leaves[self._closed.level]]
        return len(slots) == 1 and slots[0].stop - slots[0].start == self.size

    def _counted(self, products: int) -> None:
        self.count += products

    def cross(self, u: Tensor) -> dict[str, Tensor]:
        """(dg/dtheta_R)^T u for every R of `into`, each of the shape of theta[R]."""
        closed, theta = self._closed, self._theta
        out = closed.memory(theta, self.into)
        parts = self._cross.at(theta, self._frame, self._fixed, u, out)
        return closed._collected(theta, self.into, parts, out)

    def columns(self, directions: Tensor) -> Tensor:
        """H applied to every row of `directions`, shape (k, size)."""
        if len(directions) == 0:
            return torch.zeros_like(directions)
        return torch.stack([self.hvp(row) for row in directions])

    def dense(self, chunk: int = 64) -> Tensor:
        """H, shape (size, size), symmetric to rounding."""
        eye = torch.eye(self.size, dtype=self._own.dtype, device=self._own.device)
        if self.size == 0:
            return eye
        rows = self.columns(eye)
        return 0.5 * (rows + rows.T)
