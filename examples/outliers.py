"""Data of learned_loss.mlo: the diabetes data with spoiled training targets."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_diabetes


def diabetes(fraction: float, seed: int) -> dict[str, np.ndarray]:
    """Half of the rows to train on, a quarter each to validate and test; standardized.

    A `fraction` of the training targets is moved up by three to six standard deviations.
    """
    x, y = load_diabetes(return_X_y=True)
    random = np.random.default_rng(seed)
    order = random.permutation(len(y))
    x, y = x[order], y[order]
    half, rest = len(y) // 2, len(y) * 3 // 4
    x = (x - x[:half].mean(0)) / x[:half].std(0)
    y = (y - y[:half].mean()) / y[:half].std()
    spoiled = y[:half].copy()
    which = random.choice(half, int(fraction * half), replace=False)
    spoiled[which] += random.uniform(3, 6, len(which))
    return {
        "x": x[:half],
        "y": spoiled,
        "x_val": x[half:rest],
        "y_val": y[half:rest],
        "x_test": x[rest:],
        "y_test": y[rest:],
    }
