"""Second-order products by formula; stands in for `bettyc.runtime.products.Products`."""

from __future__ import annotations

import torch
from torch import Tensor

from bettyc.kernels import dispatch
from bettyc.kernels.formula import BoundFormula
from bettyc.kernels.one_pass import Pass
from bettyc.kernels.xt_phi_x import Product
from bettyc.runtime import passes
from bettyc.runtime.closed_text import Function, Texts, Theta
from bettyc.runtime.compiled import Native
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
        self._pass: Pass | Product | BoundFormula | None = None
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
        if isinstance(self._pass, Pass | BoundFormula) and v.is_contiguous():
            return self._pass.into(v, torch.empty_like(v))
        closed, theta = self._closed, self._theta
        out = closed.memory(theta, [closed.level])
        parts = self._hessian.at(theta, self._frame, self._fixed, v, out)
        return closed._collected(theta, [closed.level], parts, out)[closed.level].flatten()

    def for_solver(self) -> passes.Curvature | None:
        """H v in one call each, where native.c can take it: one pass over the data, or a formula
        that is compiled.
        """
        if self._pass is None and self._covers():
            self._pass = self._bound()
        if self._pass is None:
            return None
        slot, _ = self._closed.leaves[self._closed.level][0]
        return passes.Curvature(self._pass, slot.free, self._counted)

    def _bound(self) -> Pass | Product | BoundFormula | None:
        level = self._closed.level
        if isinstance(self._hessian, Native):
            if dispatch.way("cg_update", self._own) != "native":
                return None
            return self._hessian.matrix(self._theta, self._frame, self._fixed, level, self.size)
        if self._hessian.bound is None or len(self._closed.leaves[level]) > 1:
            return None
        v = torch.empty_like(self._own)
        inputs = self._hessian.inputs(self._theta, self._frame, self._fixed, v)
        return self._hessian.bound(*inputs)

    def _covers(self) -> bool:
        """Whether the variables of the product are all of the level."""
        slots = [slot for slot, _ in self._closed.leaves[self._closed.level]]
        return sum(slot.stop - slot.start for slot in slots) == self.size

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
