"""The cell search space of DARTS (Liu, Simonyan, Yang 2019), and networks of found cells.

A cell has two inputs and some nodes; each node is the sum of one mixed operation per earlier
state. `Network` holds all operations and mixes them with the weights that it is given; `Found`
holds the operations of a genotype only. The output of a cell is its nodes, side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

OPERATIONS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
Genotype = list[tuple[str, int]]
"""Two (operation, earlier state) per node, in the order of the nodes."""


Edges = list[list[tuple[nn.Module, int]]]
"""For each node, the modules on its edges and the states that they read."""


def norm(channels: int, affine: bool = True) -> nn.Module:
    return nn.GroupNorm(1, channels, affine=affine)


def convolution(
    channels: int, kernel: int, stride: int, dilation: int, affine: bool
) -> list[nn.Module]:
    """ReLU, a convolution per channel, a 1×1 convolution, norm."""
    padding = dilation * (kernel - 1) // 2
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation, channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        norm(channels, affine),
    ]


class Augment(nn.Module):
    """While training: moves each picture by up to `shift` pixels and flips every other one left to
    right, where shift > 0; then blanks a square of `hole` pixels (DeVries and Taylor 2017).
    """

    def __init__(self, shift: int, hole: int = 0) -> None:
        super().__init__()
        self.shift, self.hole = shift, hole

    def forward(self, x: Tensor) -> Tensor:
        """(B, K, S, S) to (B, K, S, S)."""
        if not self.training:
            return x
        count, side = len(x), x.shape[-1]
        at = torch.arange(side, device=x.device)

        def below(most: int) -> Tensor:
            return torch.randint(most, (count, 1), device=x.device)

        if self.shift:
            rows, columns = (below(2 * self.shift + 1) + at for _ in range(2))
            columns = torch.where(below(2) == 1, columns.flip(1), columns)
            padded = nn.functional.pad(x, [self.shift] * 4).movedim(1, -1)
            each = torch.arange(count, device=x.device)[:, None, None]
            x = padded[each, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
        if self.hole:
            near = []
            for _ in range(2):
                start = below(side) - self.hole // 2
                near.append((at >= start) & (at < start + self.hole))
            x = x.masked_fill((near[0][:, :, None] & near[1][:, None, :])[:, None], 0.0)
        return x


class DropPath(nn.Module):
    """While training: zero for a picture with this probability, otherwise scaled up."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.probability
        return x * kept / (1 - self.probability)


class Zero(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride] * 0


def operation(name: str, channels: int, stride: int, affine: bool = True) -> nn.Module:
    """(B, channels, H, W) to (B, channels, H / stride, W / stride).

    affine: whether norms have weights of their own.
    """
    kernel = 5 if name.endswith("5x5") else 3
    if name == "none":
        return Zero(stride)
    if name == "max_pool_3x3":
        return nn.Sequential(nn.MaxPool2d(3, stride, padding=1), norm(channels, affine))
    if name == "avg_pool_3x3":
        pool = nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
        return nn.Sequential(pool, norm(channels, affine))
    if name == "skip_connect":
        if stride == 1:
            return nn.Identity()
        shrink = nn.Conv2d(channels, channels, 1, stride, bias=False)
        return nn.Sequential(nn.ReLU(), shrink, norm(channels, affine))
    if name.startswith("sep_conv"):
        first = convolution(channels, kernel, stride, 1, affine)
        return nn.Sequential(*first, *convolution(channels, kernel, 1, 1, affine))
    return nn.Sequential(*convolution(channels, kernel, stride, 2, affine))


class Mixed(nn.Module):
    """Every operation on one edge. Its norms have no weights, which could undo the mixture's."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.operations = nn.ModuleList(
            operation(o, channels, stride, affine=False) for o in OPERATIONS
        )

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """weights: (operations,)."""
        return sum(w * o(x) for w, o in zip(weights, self.operations, strict=True))


class Cell(nn.Module):
    def __init__(
        self, inputs: tuple[int, int], channels: int, edges: Edges, halve_first: bool
    ) -> None:
        super().__init__()
        stride = 2 if halve_first else 1
        self.before = nn.Sequential(
            nn.ReLU(), nn.Conv2d(inputs[0], channels, 1, stride, bias=False), norm(channels)
        )
        self.last = nn.Sequential(
            nn.ReLU(), nn.Conv2d(inputs[1], channels, 1, bias=False), norm(channels)
        )
        self.edges = nn.ModuleList(module for node in edges for module, _ in node)
        self.sources = [[source for _, source in node] for node in edges]

    def forward(self, before: Tensor, last: Tensor, weights: Tensor | None = None) -> Tensor:
        states = [self.before(before), self.last(last)]
        at = 0
        for sources in self.sources:
            parts = []
            for source in sources:
                more = () if weights is None else (weights[at],)
                parts.append(self.edges[at](states[source], *more))
                at += 1
            states.append(sum(parts))
        return torch.cat(states[2:], dim=1)


class Stack(nn.Module):
    """Cells one after the other, with a stem before and the mean over positions behind.

    Cells at a third and two thirds of the depth are reduction cells: they halve the height and
    double the channels. edges(channels, reduces) makes the inside of a cell.
    """

    def __init__(
        self, inputs: int, channels: int, cells: int, classes: int, nodes: int,
        edges: Callable[[int, bool], Edges], augment: Augment,
    ) -> None:  # fmt: skip
        super().__init__()
        self.augment = augment
        self.stem = nn.Sequential(nn.Conv2d(inputs, channels, 3, padding=1), norm(channels))
        self.cells = nn.ModuleList()
        self.reduces = [i in (cells // 3, 2 * cells // 3) and cells > 1 for i in range(cells)]
        widths, halved = (channels, channels), False
        for reduces in self.reduces:
            channels *= 2 if reduces else 1
            self.cells.append(Cell(widths, channels, edges(channels, reduces), halved))
            widths, halved = (widths[1], nodes * channels), reduces
        self.head = nn.Linear(widths[1], classes)

    def through(self, x: Tensor, weights: Sequence[Tensor | None]) -> Tensor:
        """weights: of normal cells and of reduction cells."""
        # Convolutions of one channel each are faster on a CPU with the channels last.
        before = last = self.stem(self.augment(x)).contiguous(memory_format=torch.channels_last)
        for cell, reduces in zip(self.cells, self.reduces, strict=True):
            before, last = last, cell(before, last, weights[reduces])
        return self.head(last.mean((2, 3)))


class Network(Stack):
    """The network of the search: every operation on every edge."""

    def __init__(
        self, inputs: int, channels: int, cells: int, classes: int, nodes: int, shift: int = 0
    ) -> None:
        def edges(channels: int, reduces: bool) -> Edges:
            def mixed(source: int) -> nn.Module:
                return Mixed(channels, 2 if reduces and source < 2 else 1)

            return [[(mixed(source), source) for source in range(2 + i)] for i in range(nodes)]

        super().__init__(inputs, channels, cells, classes, nodes, edges, Augment(shift))

    def forward(self, x: Tensor, normal: Tensor, reduction: Tensor) -> Tensor:
        """(B, inputs, H, W) and two (edges, operations) of weights, to (B, classes)."""
        return self.through(x, (normal, reduction))


class Found(Stack):
    """The network of two genotypes, of the normal and the reduction cells."""

    def __init__(
        self, inputs: int, channels: int, cells: int, classes: int,
        normal: Genotype, reduction: Genotype,
        augment: Augment, drop: float,
    ) -> None:  # fmt: skip
        nodes = len(normal) // 2

        def chosen(name: str, channels: int, stride: int) -> nn.Module:
            module = operation(name, channels, stride)
            keep = drop == 0 or isinstance(module, nn.Identity)
            return module if keep else nn.Sequential(module, DropPath(drop))

        def edges(channels: int, reduces: bool) -> Edges:
            inside = [
                (chosen(o, channels, 2 if reduces and source < 2 else 1), source)
                for o, source in (reduction if reduces else normal)
            ]
            return [inside[2 * i : 2 * i + 2] for i in range(nodes)]

        super().__init__(inputs, channels, cells, classes, nodes, edges, augment)

    def forward(self, x: Tensor) -> Tensor:
        return self.through(x, (None, None))


def genotype(weights: Tensor) -> Genotype:
    """For each node the two edges with the heaviest operation that is not `none`.

    weights: (edges, operations), the edges in the order of their nodes.
    """
    found, start, i = [], 0, 0
    while start < len(weights):
        rows = weights[start : start + 2 + i, 1:]
        best, which = rows.max(1)
        for source in sorted(best.argsort(descending=True)[:2].tolist()):
            found.append((OPERATIONS[1 + int(which[source])], source))
        start, i = start + 2 + i, i + 1
    return found


def random_genotype(nodes: int, generator: torch.Generator) -> Genotype:
    """Uniform over the genotypes that `genotype` can give."""
    found = []
    for i in range(nodes):
        for source in sorted(torch.randperm(2 + i, generator=generator)[:2].tolist()):
            at = int(torch.randint(1, len(OPERATIONS), (), generator=generator))
            found.append((OPERATIONS[at], source))
    return found


def written(cell: Genotype) -> str:
    """As `found` reads it: "sep_conv_3x3:0 skip_connect:1"."""
    return " ".join(f"{name}:{source}" for name, source in cell)


def found(
    inputs: int, channels: int, cells: int, classes: int, normal: str, reduction: str,
    shift: int = 0, hole: int = 0, drop: float = 0.0,
) -> Found:  # fmt: skip
    """The network of two genotypes that `written` wrote. drop: the probability of DropPath."""

    def read(text: str) -> Genotype:
        pairs = (word.split(":") for word in text.split())
        return [(name, int(source)) for name, source in pairs]

    augment = Augment(shift, hole)
    return Found(inputs, channels, cells, classes, read(normal), read(reduction), augment, drop)
