"""Data of portfolio.mlo: returns that depend on features (Elmachtoub and Grigas 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

FEATURES, ASSETS, FACTORS = 5, 10, 4
NOISE = 2.0


def loadings(seed: int) -> dict[str, Tensor]:
    """How much each asset moves with each factor of the market, in percent: shape (10, 4)."""
    draw = torch.Generator().manual_seed(seed)
    return {"L": NOISE * (torch.rand(ASSETS, FACTORS, generator=draw) - 0.5)}


def days(count: int, degree: int, seed: int, part: int) -> dict[str, Tensor]:
    """Days that begin with features x of shape (count, 5) and end with returns r of shape
    (count, 10), in percent. `mean` is what r is on average given x: a power of a linear function,
    which a linear prediction misses by more the higher the degree.

    The market (which features an asset follows, and the loadings) follows from the seed, the days
    from the seed and the part.
    """
    draw = torch.Generator().manual_seed(1_000_003 * (seed + 1))
    follows = (torch.rand(FEATURES, ASSETS, generator=draw) < 0.5).float()
    draw = torch.Generator().manual_seed(1_000_003 * (seed + 1) + part)
    x = torch.randn(count, FEATURES, generator=draw)
    mean = 100 * (0.05 / FEATURES**0.5 * x @ follows + 0.1 ** (1 / degree)) ** degree
    shared = torch.randn(count, FACTORS, generator=draw) @ loadings(seed)["L"].T
    own = NOISE * torch.randn(count, ASSETS, generator=draw)
    return {"x": x, "r": mean + shared + own, "mean": mean}
