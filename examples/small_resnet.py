"""A residual network for 8×8 images: the student of meta_weight_net_resnet.mlo."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to the same shape."""
        return functional.relu(x + self.second(functional.relu(self.first(x))))


class ResNet(nn.Module):
    """A stem that halves the height, a block, and a linear layer: (B, 1, 8, 8) to (B, classes).
    Without normalization, which so few layers do not need and which is slow to differentiate twice.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 2, padding=1)
        self.block = Block(width)
        self.head = nn.Linear(16 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(functional.relu(self.stem(x))).flatten(1))
