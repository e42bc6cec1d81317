"""Data and distortions of augmentation.mlo: upright digits and distorted ones."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import grid_sample

SIZES = {"train": 200, "val": 100, "test": 1000}
SIDE = 8  # pixels
MET = (0.4, 0.0, 0.2)  # strengths of the distortions that "val" and "test" have


def digits(part: str, seed: int) -> dict[str, np.ndarray]:
    """A part, "train", "val" or "test": x of shape (n, 64) and the class y.

    "train" is as it is, in [0, 1]; the others are distorted with the strengths MET.
    """
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(y))
    begin = list(SIZES).index(part)
    first = sum(list(SIZES.values())[:begin])
    rows = order[first : first + SIZES[part]]
    images = torch.from_numpy(x[rows] / 16)
    if part != "train":
        chance = torch.Generator().manual_seed(seed)
        pose = torch.randn(len(rows), 3, generator=chance, dtype=images.dtype)
        pixels = torch.randn(images.shape, generator=chance, dtype=images.dtype)
        images = distorted(images, torch.tensor(MET, dtype=images.dtype), pose, pixels)
    return {"x": images.float().numpy(), "y": y[rows]}


def normals(count: int) -> dict[str, Tensor]:
    """What `distorted` needs by chance: new normal numbers for `count` images."""
    return {"pose": torch.randn(count, 3), "pixels": torch.randn(count, SIDE * SIDE)}


def distorted(x: Tensor, strength: Tensor, pose: Tensor, pixels: Tensor) -> Tensor:
    """Images x of shape (n, 64), each rotated, shifted and with noise added.

    strength: the standard deviations of the angle in radians, of the shift down and to the right
    in pixels, and of the noise. pose: normal numbers of shape (n, 3), for angle and shift; pixels:
    of shape (n, 64), for the noise. Bilinear, differentiable in `strength`.
    """
    angle = strength[0] * pose[:, 0]
    shift = strength[1] * pose[:, 1:] * (2 / SIDE)  # an image is 2 units wide
    line = (torch.arange(SIDE, dtype=x.dtype, device=x.device) * 2 + 1) / SIDE - 1
    down, right = torch.meshgrid(line, line, indexing="ij")
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    across = cos * right - sin * down - shift[:, 1, None, None]
    along = sin * right + cos * down - shift[:, 0, None, None]
    places = torch.stack([across, along], -1)
    images = grid_sample(x.reshape(-1, 1, SIDE, SIDE), places, align_corners=False)
    return images.flatten(1) + strength[2] * pixels
