"""Data of meta_weight_net.mlo and learning_to_reweight.mlo: digits with few examples of most
classes, and wrong labels.
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

META, TEST = 5, 50  # images per class


def digits(
    part: str, imbalance: float, noise: float, seed: int, background: int = -1
) -> dict[str, np.ndarray]:
    """A part of the digits, "train", "meta" or "test": x of shape (n, 1, 8, 8), in [0, 1].

    In "train", class k keeps a share imbalance^(-k/9) of its images, and a fraction `noise` of
    the labels is replaced by another label, or all by the label `background` where that is at
    least 0; `clean` tells which are right. The other parts are clean and hold equally many images
    of each class.
    """
    x, y = load_digits(return_X_y=True)
    random = np.random.default_rng(seed)
    rows = [random.permutation(np.flatnonzero(y == k)) for k in range(10)]
    most = min(len(r) for r in rows) - META - TEST
    kept = [round(most * imbalance ** (-k / 9)) for k in range(10)]
    parts = {
        "meta": [r[:META] for r in rows],
        "test": [r[META : META + TEST] for r in rows],
        "train": [r[META + TEST :][:n] for r, n in zip(rows, kept, strict=True)],
    }
    chosen = np.concatenate(parts[part])
    labels = y[chosen]
    if part == "train":
        wrong = random.choice(len(chosen), round(noise * len(chosen)), replace=False)
        if background >= 0:
            labels[wrong] = background
        else:
            labels[wrong] = (labels[wrong] + random.integers(1, 10, len(wrong))) % 10
    return {"x": x[chosen].reshape(-1, 1, 8, 8) / 16, "y": labels, "clean": labels == y[chosen]}
