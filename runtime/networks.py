"""The built-in networks that torch.nn builds, by the names of `bettyc.elaborate.torch_networks`.

Parameters have torch's names and initial values. Everything in them has second derivatives, so
every strategy can go through them: attention takes torch's plain kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bettyc.model import Call

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def build(call: Call) -> nn.Module:
    """A new network, initialised by torch's global generator."""
    return BUILT[call.name](**dict(call.named))


def normalised(kind: str, channels: int) -> nn.Module:
    """Normalisation of images; groups of at most 8 channels each."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        groups = next(g for g in range(max(channels // 8, 1), 0, -1) if channels % g == 0)
        return nn.GroupNorm(groups, channels)
    return nn.Identity()


def conv(
    channels: Sequence[int],
    outputs: int,
    kernel: int,
    pool: int,
    act: str,
    norm: str,
    dropout: float,
) -> nn.Module:
    """real[B, channels[0], H, W] to real[B, outputs]."""
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, kernel, padding=kernel // 2)]
        if norm != "none":
            layers.append(normalised(norm, after))
        layers.append(ACTIVATIONS[act]())
        if pool > 1:
            layers.append(nn.MaxPool2d(pool))
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if dropout:
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(channels[-1], outputs))


class Block(nn.Module):
    """Two convolutions around a shortcut (He et al., 2016, arXiv:1512.03385)."""

    def __init__(self, before: int, after: int, stride: int, act: str, kind: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=kind == "none")
        self.norm1 = normalised(kind, after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=kind == "none")
        self.norm2 = normalised(kind, after)
        self.act = ACTIVATIONS[act]()
        same = stride == 1 and before == after
        self.shortcut = nn.Identity() if same else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm1(self.conv1(x)))
        found: Tensor = self.act(self.norm2(self.conv2(y)) + self.shortcut(x))
        return found


def resnet(
    channels: int, outputs: int, blocks: Sequence[int], width: int, act: str, norm: str
) -> nn.Module:
    """real[B, channels, H, W] to real[B, outputs]; each stage has twice the channels of the one
    before.
    """
    stem = nn.Conv2d(channels, width, 3, padding=1, bias=norm == "none")
    layers: list[nn.Module] = [stem, normalised(norm, width), ACTIVATIONS[act]()]
    before = width
    for stage, count in enumerate(blocks):
        after = width * 2**stage
        for k in range(count):
            stride = 2 if stage and not k else 1
            layers.append(Block(before, after, stride, act, norm))
            before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, outputs))


class Transformer(nn.Module):
    """A linear layer to `width`, torch's encoder, and, with `outputs`, the mean over positions and
    a linear layer (Vaswani et al., 2017, arXiv:1706.03762). Positions are not encoded: inputs
    say where they stand, or the order does not matter.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        heads: int,
        layers: int,
        outputs: int | None,
        feedforward: int | None,
        act: str,
        dropout: float,
        norm_first: bool,
    ) -> None:
        super().__init__()
        self.input = nn.Linear(inputs, width)
        layer = nn.TransformerEncoderLayer(
            width, heads, feedforward or 4 * width, dropout, act, batch_first=True,
            norm_first=norm_first,
        )  # fmt: skip
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        # torch copies the first layer, values included; each draws its own
        for part in self.encoder.modules():
            if part is not self.encoder and hasattr(part, "reset_parameters"):
                part.reset_parameters()
        self.output = None if outputs is None else nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        # the fused kernels have no second derivative
        with sdpa_kernel(SDPBackend.MATH):
            found: Tensor = self.encoder(self.input(x))
        return found if self.output is None else self.output(found.mean(1))


BUILT: dict[str, Callable[..., Any]] = {
    "conv": conv,
    "resnet": resnet,
    "transformer": Transformer,
}
