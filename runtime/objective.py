"""An objective as a torch function of flat variables, and the frame that holds everything else
fixed.

This is the seam between formulas and hypergradients: strategies, products and the adjoint see
levels only through `Objective`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Frame:
    """What stays the same in all evaluations of one derivative.

    columns: tensors of data sets, splits and batches by (name, field), e.g. ("train", "x"),
    ("fit.s", "index").
    tasks: level -> one dict of columns per replica, for `foreach` levels; `replica`: level ->
        which one is meant while a single replica is evaluated.
    seed: of the random masks (dropout); every evaluation starts from it.
    buffers: level.module -> module buffers (BatchNorm statistics); evaluations work on copies.
    first: nothing but first derivatives is taken of the evaluation.
    """

    columns: Mapping[tuple[str, str], Tensor]
    tasks: Mapping[str, tuple[Mapping[str, Tensor], ...]] = field(default_factory=dict)
    replica: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    buffers: Mapping[str, Any] = field(default_factory=dict)
    first: bool = False


class Objective(Protocol):
    """A level's objective, signed so that smaller is better (a `maximize` level returns its
    negative).

    level: whose. reads: the levels whose variables carry gradient into it, its own first.
    """

    level: str
    reads: tuple[str, ...]

    def __call__(self, theta: Mapping[str, Tensor], frame: Frame) -> Tensor:
        """Scalar. `theta[l]` is the flat unconstrained buffer of level l, shape (size_l,), or
        (replicas, size_l) of a `foreach` level read from above.

        Pure: the same arguments give the same bits; neither theta nor the frame changes.
        """
        ...
