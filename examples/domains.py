"""Data of learning_by_ignoring.mlo: a target domain, and a source domain of three collections."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import rotate
from sklearn.datasets import load_digits

TARGET, TEST = 4, 60  # images per class


def digits(part: str, seed: int) -> dict[str, np.ndarray]:
    """A part of the digits, "source", "target" or "test": x of shape (n, 64), in [0, 1].

    Target and test images are as they come, equally many of each class. A third of the source
    is rotated by 10 degrees, a third inverted, and a third is as it comes, but every image of
    the classes 5 to 9 there has the label of another of these classes. `group` numbers the
    pairs of collection and label: 10 * collection + y.
    """
    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 8, 8) / 16
    random = np.random.default_rng(seed)
    rows = [random.permutation(np.flatnonzero(y == k)) for k in range(10)]
    parts = {
        "target": [r[:TARGET] for r in rows],
        "test": [r[TARGET : TARGET + TEST] for r in rows],
        "source": [r[TARGET + TEST :] for r in rows],
    }
    chosen = random.permutation(np.concatenate(parts[part]))
    x, y = x[chosen], y[chosen]
    collection = np.arange(len(chosen)) % 3 if part == "source" else np.zeros_like(chosen)
    x[collection == 1] = 1 - x[collection == 1]
    if part == "source":
        turned = collection == 0
        x[turned] = rotate(x[turned], 10, axes=(1, 2), reshape=False, order=1)
    noisy = (collection == 2) & (y >= 5)
    y[noisy] = 5 + (y[noisy] + random.integers(1, 5, noisy.sum())) % 5
    return {"x": x.reshape(-1, 64), "y": y, "group": 10 * collection + y}
