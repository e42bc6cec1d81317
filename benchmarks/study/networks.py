"""Networks and tasks of the study that come from Python."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Perceptron(nn.Module):
    """Two layers, 16 columns in, 3 classes out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)))


class Dropped(Perceptron):
    """The same with dropout."""

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.dropout(torch.tanh(self.a(x)), 0.3, self.training))


class Plain(nn.Module):
    """Each row as a sequence of four words of four numbers, one attention over them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3 * width), nn.Linear(4 * width, 3)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)
        return weights @ v

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.a(x.unflatten(1, (4, 4)))[:, None].chunk(3, -1)
        return self.b(self.attend(q, k, v).flatten(1))


class Fused(Plain):
    """The same by torch's fused attention, whose gradient has no derivative."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with nn.attention.sdpa_kernel(nn.attention.SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(q, k, v)


def tasks() -> list[dict[str, Any]]:
    """Regressions near a common one, 10 rows to learn from and 10 to judge by."""
    g = torch.Generator().manual_seed(7)
    centre = torch.randn(8, generator=g)
    found = []
    for _ in range(32):
        w = centre + 0.3 * torch.randn(8, generator=g)
        parts = {}
        for part in ("support", "query"):
            x = torch.randn(10, 8, generator=g)
            parts[part] = {"x": x, "y": torch.tanh(x @ w)}
        found.append(parts)
    return found
