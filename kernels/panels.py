"""Small data that stay as they are, kept a second time in panels for native.c.

A panel is 128 rows, transposed: (128, d) -> (d, 128). Where X has few columns a product with it
spends its time on sums across vectors; in panels vectors run along rows. Measured on 500 x 20 in
float32, one gradient of a logistic regression: 3.1 us by rows, 0.9 by panels (1.1 by panels of 64,
too few to hide the latency of a multiplication). The copy takes some tens of microseconds, so it is
worth it only for data of which the caller says that they stay.
"""

from __future__ import annotations

from torch import Tensor

PANEL = 128  # as in native.c
COLUMNS = 64  # up to which panels are faster
LEAST, LIMIT = 64, 1 << 20  # elements: more do not stay in a cache, and the copy would be felt
NAME = "_bettyc_panels"  # the attribute of a kept tensor: (its version, panels), or nothing yet


def keep(x: Tensor) -> None:
    """Say that x will be multiplied often as it is. Later changes are noticed by its version."""
    few = x.dim() == 2 and 0 < x.shape[1] <= COLUMNS and LEAST <= x.numel() <= LIMIT
    if few and x.is_floating_point() and x.device.type == "cpu" and not x.is_inference():
        setattr(x, NAME, getattr(x, NAME, ()))


def panels(x: Tensor) -> Tensor | None:
    """(panels, d, PANEL) of an x that is kept, the last one padded with zeros; None for others."""
    found = getattr(x, NAME, None)
    if found is None:
        return None
    if not found or found[0] != x._version:
        rows = -(-x.shape[0] // PANEL) * PANEL
        padded = x.new_zeros((rows, x.shape[1]))
        padded[: x.shape[0]] = x
        found = (x._version, padded.view(-1, PANEL, x.shape[1]).mT.contiguous())
        setattr(x, NAME, found)
    packed: Tensor = found[1]
    return packed
