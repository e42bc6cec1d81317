"""Preconditioners of conjugate gradient: an approximation of H^-1 that costs little to apply.

    none         the identity
    optimizer    division by the optimizer's own scale, such as Adam's sqrt(v) + eps: no product
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from bettyc.runtime.strategies.system import System


def preconditioner(system: System, name: str, damping: float) -> Callable[[Tensor], Tensor] | None:
    """r -> M^-1 r, positive definite; None for the identity. Raises ValueError for an unknown name."""
    if name == "none":
        return None
    if name == "optimizer":
        return None if system.scale is None else _divide(system.scale + damping)
    raise ValueError(f"no preconditioner `{name}`; there are none, optimizer")


def _divide(scale: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda r: r / scale
