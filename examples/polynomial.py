"""Data of elastic_net.mlo: the diabetes data with all products of two features."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import PolynomialFeatures


def diabetes() -> dict[str, np.ndarray]:
    """442 rows of 65 features, each with mean 0 and standard deviation 1; y likewise."""
    x, y = load_diabetes(return_X_y=True)
    x = PolynomialFeatures(2, include_bias=False).fit_transform(x / x.std(0))
    return {"x": (x - x.mean(0)) / x.std(0), "y": (y - y.mean()) / y.std()}
