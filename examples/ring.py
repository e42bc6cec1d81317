"""Eight normal distributions on a circle (Metz et al. 2017): data of gan.mlo and mixture_gan.mlo,
and measures of the first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MODES, RADIUS, SPREAD = 8, 2.0, 0.1


def centres() -> Tensor:
    """The means, of shape (8, 2), on a circle of radius 2."""
    angle = 2 * math.pi / MODES * torch.arange(MODES)
    return RADIUS * torch.stack([angle.cos(), angle.sin()], -1)


def sampled(count: int, noise: int) -> dict[str, Tensor]:
    """New points x of shape (count, 2), and noise z of shape (count, noise) for a generator."""
    x = centres()[torch.randint(MODES, (count,))] + SPREAD * torch.randn(count, 2)
    return {"x": x, "z": torch.randn(count, noise)}


def pair(count: int, radius: float, spread: float) -> dict[str, Tensor]:
    """Two samples x and z, both of shape (count, 2), of the mixture with that radius and spread."""

    def one() -> Tensor:
        at = centres()[torch.randint(MODES, (count,))] * (radius / RADIUS)
        return at + spread * torch.randn(count, 2)

    return {"x": one(), "z": one()}


def modes(points: Tensor) -> Tensor:
    """How many of the eight have a fiftieth of the points within four standard deviations."""
    near = torch.cdist(points, centres().to(points)) < 4 * SPREAD
    return (near.to(points).mean(0) >= 0.02).to(points).sum()


def near(points: Tensor) -> Tensor:
    """The share of the points within four standard deviations of a mean."""
    return (torch.cdist(points, centres().to(points)).amin(1) < 4 * SPREAD).to(points).mean()


def energy(a: Tensor, b: Tensor) -> Tensor:
    """The energy distance of two samples of shape (n, 2) (Székely and Rizzo 2013)."""
    between = torch.cdist(a, b).mean()
    return 2 * between - torch.cdist(a, a).mean() - torch.cdist(b, b).mean()
