"""Data of loss_weights.mlo: rotated digits with a class, an angle, and a target that is noise."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import rotate
from sklearn.datasets import load_digits

SIZES = {"train": 200, "val": 200, "test": 1000}
LARGEST = 45.0  # degrees


def digits(part: str, seed: int) -> dict[str, np.ndarray]:
    """A part, "train", "val" or "test": x of shape (n, 64) in [0, 1], the class y, the angle in
    standard deviations, and `noise`, a normal number that nothing in the image tells."""
    x, y = load_digits(return_X_y=True)
    random = np.random.default_rng(seed)
    order = random.permutation(len(y))
    angle = random.uniform(-LARGEST, LARGEST, len(y))
    noise = random.normal(size=len(y))
    begin = list(SIZES).index(part)
    first = sum(list(SIZES.values())[:begin])
    rows = order[first : first + SIZES[part]]
    turned = [rotate(x[k].reshape(8, 8), angle[k], reshape=False, order=1) / 16 for k in rows]
    return {
        "x": np.stack(turned).reshape(-1, 64),
        "y": y[rows],
        "angle": angle[rows] / (LARGEST / np.sqrt(3)),
        "noise": noise[rows],
    }
