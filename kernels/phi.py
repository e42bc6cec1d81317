"""The row functions phi of X^T phi(X v): what sits between the two passes over the rows.

    Diagonal(w)      phi_i(z) = w_i z                          every generalised linear model
    Softmax(p, w)    phi_i(z) = w_i (p_i z - p_i (p_i . z))    softmax cross-entropy, w optional
    Centred(p, q)    phi_i(z) = q_i (z - p_i . z)              the same with all weights in q
    GaussNewton(A)   phi_i(z) = A_i z                          last layer of any network

All are linear in z, and their row data do not depend on v, so a solver computes them once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True)
class Diagonal:
    """weights: (n,), or (n, k) with one weight per row and column."""

    weights: Tensor


@dataclass(frozen=True)
class Softmax:
    """probs: (n, k), rows that sum to 1. weights: (n,), one per sample, or None."""

    probs: Tensor
    weights: Tensor | None = None


@dataclass(frozen=True)
class Centred:
    """probs, outer: (n, k). Softmax(p, w) is Centred(p, w p)."""

    probs: Tensor
    outer: Tensor


@dataclass(frozen=True)
class GaussNewton:
    """blocks: (n, k, k), the curvature of each sample's loss in its outputs."""

    blocks: Tensor


Phi: TypeAlias = Diagonal | Softmax | Centred | GaussNewton


def tensors(phi: Phi) -> dict[str, Tensor]:
    """The row data, by name."""
    if isinstance(phi, Diagonal):
        return {"weights": phi.weights}
    if isinstance(phi, GaussNewton):
        return {"blocks": phi.blocks}
    if isinstance(phi, Centred):
        return {"probs": phi.probs, "outer": phi.outer}
    return (
        {"probs": phi.probs}
        if phi.weights is None
        else {"probs": phi.probs, "weights": phi.weights}
    )


def check(op: str, phi: Phi, n: int, k: int, flat: bool) -> None:
    """Shapes of the row data, for X with n rows and v with k columns. flat: v is (d,)."""
    expected = {
        "weights": (n,) if flat or isinstance(phi, Softmax) else (n, k),
        "probs": (n, k),
        "outer": (n, k),
        "blocks": (n, k, k),
    }
    for name, tensor in tensors(phi).items():
        if tuple(tensor.shape) != expected[name]:
            raise ValueError(
                f"{op}: `{name}` has shape {tuple(tensor.shape)}, not {expected[name]}"
            )


def apply(phi: Phi, z: Tensor) -> Tensor:
    """phi(z) row by row; z is (n,) or (n, k)."""
    if isinstance(phi, Diagonal):
        return phi.weights * z
    columns = z if z.dim() == 2 else z[:, None]
    if isinstance(phi, Softmax):
        mean = (phi.probs * columns).sum(1, keepdim=True)
        y = phi.probs * (columns - mean)
        y = y if phi.weights is None else phi.weights[:, None] * y
    elif isinstance(phi, Centred):
        y = phi.outer * (columns - (phi.probs * columns).sum(1, keepdim=True))
    else:
        y = torch.einsum("nij,nj->ni", phi.blocks, columns)
    return y.reshape(z.shape)
