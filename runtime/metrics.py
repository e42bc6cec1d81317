"""Metrics: formulas without gradient, networks in evaluation mode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from bettyc.runtime.feed import Feed
from bettyc.runtime.formula import Formula


def evaluate(
    metrics: Mapping[str, Formula],
    feed: Feed,
    theta: Mapping[str, Tensor],
    buffers: Mapping[str, Mapping[str, Tensor]],
) -> dict[str, float]:
    """Every metric at these variables, as numbers. buffers: of networks, by "level.net", in place
    of the present ones.
    """
    if not metrics:
        return {}
    frame = feed.peek()
    if buffers:
        frame = replace(frame, buffers={**frame.buffers, **buffers})
    with torch.no_grad():
        values = {name: metric(theta, frame) for name, metric in metrics.items()}
    return {name: float(value) for name, value in values.items()}
