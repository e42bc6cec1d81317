"""Metrics: formulas without gradient, networks in evaluation mode."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bettyc.runtime.feed import Feed
from bettyc.runtime.formula import Formula


def evaluate(
    metrics: Mapping[str, Formula], feed: Feed, theta: Mapping[str, Tensor]
) -> dict[str, float]:
    """Every metric at the present variables, as numbers."""
    if not metrics:
        return {}
    frame = feed.peek()
    with torch.no_grad():
        values = {name: metric(theta, frame) for name, metric in metrics.items()}
    return {name: float(value) for name, value in values.items()}
