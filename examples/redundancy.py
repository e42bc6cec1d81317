"""Digits of which some lie in the training set many times over, for redundancy.mlo."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits


def rows(seed: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Scikit-learn's digits in an order by seed, scaled as a whole to mean 0, variance 1."""
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    return ((x - x.mean()) / x.std())[order], y[order], rng


def training(seed: int, copied: int, copies: int, noise: float) -> dict[str, np.ndarray]:
    """300 digits, and of `copied` of them `copies` more with normal noise of deviation `noise` in
    every pixel, all in random order.

    near: the distance to the nearest example that comes earlier, a large one for the first.
    original: not one of the copies; place: where it lies, from 0 to 1.
    """
    x, y, rng = rows(seed)
    of = np.concatenate([np.arange(300), np.repeat(np.arange(copied), copies)])
    order = rng.permutation(len(of))
    spoiled = (order >= 300)[:, None]
    x = x[of[order]] + noise * rng.normal(size=(len(of), 64)) * spoiled
    squares = (x**2).sum(1)
    distance = squares[:, None] + squares - 2 * x @ x.T
    distance[np.triu_indices(len(x))] = 1e9
    return {"x": x, "y": y[of[order]], "near": distance.min(1), "original": order < 300,
            "place": np.arange(len(x)) / len(x)}  # fmt: skip


def other(part: str, seed: int) -> dict[str, np.ndarray]:
    """Digits that are not for training: 300 to validate, `val`, and the rest, `test`."""
    x, y, _ = rows(seed)
    chosen = slice(300, 600) if part == "val" else slice(600, None)
    return {"x": x[chosen], "y": y[chosen]}
