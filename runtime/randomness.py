"""Random numbers under a fixed seed: every evaluation of one derivative draws the same masks, and
the user's data sets draw the same augmentations whether a run was resumed or not.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from bettyc.kernels import capture


@contextmanager
def masks(seed: int, device: str) -> Iterator[None]:
    """Torch's global generators start from `seed` inside, and are as before outside."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        with _device_masks(seed, device):
            yield
    finally:
        torch.set_rng_state(before)


@contextmanager
def _device_masks(seed: int, device: str) -> Iterator[None]:
    with capture.drawn(seed) as taken:
        if taken or device != "cuda":
            yield
            return
    before = torch.cuda.get_rng_state()
    torch.cuda.manual_seed(seed)
    try:
        yield
    finally:
        torch.cuda.set_rng_state(before)


@contextmanager
def every_generator(seed: int) -> Iterator[None]:
    """The global generators of torch, NumPy and Python start from `seed` inside, and are as before
    outside.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    start_generators(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def start_generators(seed: int) -> None:
    """Start the global generators of torch, NumPy and Python from `seed`."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))
    torch.default_generator.manual_seed(seed)
