"""The five operations that updates are made of, once out of place and once in place.

Both give the same bits as the corresponding in-place method that torch.optim calls. A scalar that
is a tensor (a learning rate that another level owns) is multiplied in, so that it is
differentiated.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

Scalar: TypeAlias = "float | Tensor"


class Pure:
    """New tensors; differentiable."""

    @staticmethod
    def scale(x: Tensor, a: Scalar) -> Tensor:
        """a x."""
        return torch.mul(x, a)

    @staticmethod
    def add(x: Tensor, y: Tensor, a: Scalar) -> Tensor:
        """x + a y."""
        return torch.addcmul(x, y, a) if isinstance(a, Tensor) else torch.add(x, y, alpha=a)

    @staticmethod
    def lerp(x: Tensor, y: Tensor, a: Scalar) -> Tensor:
        """x + a (y - x)."""
        return torch.lerp(x, y, a)

    @staticmethod
    def addmul(x: Tensor, y: Tensor, z: Tensor, a: Scalar) -> Tensor:
        """x + a y z."""
        if isinstance(a, Tensor):
            return torch.addcmul(x, y * a, z)
        return torch.addcmul(x, y, z, value=a)

    @staticmethod
    def adddiv(x: Tensor, y: Tensor, z: Tensor, a: Scalar) -> Tensor:
        """x + a y / z."""
        if isinstance(a, Tensor):
            return torch.addcdiv(x, y * a, z)
        return torch.addcdiv(x, y, z, value=a)


class InPlace(Pure):
    """The first operand is overwritten; for updates that nobody differentiates."""

    @staticmethod
    def scale(x: Tensor, a: Scalar) -> Tensor:
        return x.mul_(a)

    @staticmethod
    def add(x: Tensor, y: Tensor, a: Scalar) -> Tensor:
        return x.addcmul_(y, a) if isinstance(a, Tensor) else x.add_(y, alpha=a)

    @staticmethod
    def lerp(x: Tensor, y: Tensor, a: Scalar) -> Tensor:
        return x.lerp_(y, a)

    @staticmethod
    def addmul(x: Tensor, y: Tensor, z: Tensor, a: Scalar) -> Tensor:
        if isinstance(a, Tensor):
            return x.addcmul_(y * a, z)
        return x.addcmul_(y, z, value=a)

    @staticmethod
    def adddiv(x: Tensor, y: Tensor, z: Tensor, a: Scalar) -> Tensor:
        if isinstance(a, Tensor):
            return x.addcdiv_(y * a, z)
        return x.addcdiv_(y, z, value=a)


def root(x: Tensor) -> Tensor:
    """Square root whose derivative at 0 is 0 instead of infinite; the bits of `torch.sqrt`.

    A coordinate whose gradients have all been 0 has second moment 0, and the chain rule would
    multiply that infinity by 0.
    """
    if not (torch.is_grad_enabled() and x.requires_grad):
        return torch.sqrt(x)
    zero = x == 0
    return torch.where(zero, 0.0, torch.sqrt(torch.where(zero, 1.0, x)))
