"""Random masks under a fixed seed: every evaluation of one derivative draws the same ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def masks(seed: int, device: str) -> Iterator[None]:
    """Torch's global generators start from `seed` inside, and are as before outside."""
    before = torch.get_rng_state()
    on_device = torch.cuda.get_rng_state() if device == "cuda" else None
    torch.default_generator.manual_seed(seed)
    if on_device is not None:
        torch.cuda.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)
        if on_device is not None:
            torch.cuda.set_rng_state(on_device)
