"""Seeds: every random choice has its own, derived from the run's seed and what the choice is for.

So no choice depends on how many others were made before it, and a run can be resumed at any point
from counters alone. Numbers are drawn on the CPU in double precision: the same on every device.
"""

from __future__ import annotations

import hashlib

import torch


def seed_of(*parts: int | str) -> int:
    """A seed in [0, 2^63) for the named purpose: `seed_of(0, "batches", "fit.s", epoch)`."""
    text = "\0".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator that starts from `seed_of(*parts)`."""
    return torch.Generator().manual_seed(seed_of(*parts))
