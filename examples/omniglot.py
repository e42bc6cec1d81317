"""Omniglot as published, tasks of few-shot classification, and the network of four convolutions.

Lake, Salakhutdinov, Tenenbaum, Science 2015: a zip file of 105 x 105 drawings in one bit,
folder/alphabet/character/drawing.png, 20 drawings of each character. Needs Pillow, which
`pip install "bettyc[data]"` brings.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZE = 28
Task = dict[str, dict[str, Tensor]]


def read(path: str | Path, size: int = SIZE) -> dict[str, Tensor]:
    """By alphabet: (characters, drawings, 1, size, size), ink 1 and paper 0, each drawing by itself
    framed by its ink. Raises ValueError where characters of an alphabet have unequal numbers of
    drawings.
    """
    from PIL import Image

    found: dict[str, dict[str, list[Tensor]]] = {}
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            place = PurePosixPath(name)
            if place.suffix != ".png" or len(place.parts) < 3:
                continue
            alphabet, character = place.parts[-3:-1]
            with Image.open(io.BytesIO(archive.read(name))) as image:
                small = np.asarray(_framed(image, size), dtype=np.float32) / 255.0
            found.setdefault(alphabet, {}).setdefault(character, []).append(
                torch.from_numpy(small)[None]
            )
    return {name: _stacked(name, characters) for name, characters in found.items()}


def _framed(image: Any, size: int) -> Any:
    """The smallest square around the ink (255) and a ninth more, averaged to size x size pixels."""
    from PIL import Image, ImageOps

    ink = ImageOps.invert(image.convert("L"))
    left, top, right, bottom = ink.getbbox() or (0, 0, *ink.size)
    side = max(right - left, bottom - top) * 10 // 9
    left, top = (left + right - side) // 2, (top + bottom - side) // 2
    square = ink.crop((left, top, left + side, top + side))  # paper (0) beyond the page
    return square.resize((size, size), Image.Resampling.BOX)


def _stacked(name: str, characters: dict[str, list[Tensor]]) -> Tensor:
    if len({len(drawings) for drawings in characters.values()}) != 1:
        raise ValueError(f"alphabet {name}: its characters have unequal numbers of drawings")
    return torch.stack([torch.stack(drawings) for drawings in characters.values()])


def generated(alphabets: int = 3, characters: int = 6, drawings: int = 4) -> dict[str, Tensor]:
    """Stand-in for a quick look: smooth random shapes, shifted a little from drawing to drawing."""
    draw = torch.Generator().manual_seed(0)
    shapes = torch.rand(alphabets * characters, 1, 5, 5, generator=draw)
    large = F.interpolate(shapes, SIZE, mode="bilinear").gt(0.6).float()
    moved = torch.stack([large.roll((k % 2, k // 2), (2, 3)) for k in range(drawings)], 1)
    return {f"alphabet{k}": part for k, part in enumerate(moved.split(characters))}


class Tasks(Sequence[Task]):
    """`count` tasks of `ways` characters with `shots` drawings to adapt to and `queries` to be
    judged on, of each. A task follows from its number and the seed.
    """

    def __init__(
        self, characters: Tensor, ways: int, shots: int, queries: int, count: int, seed: int
    ) -> None:
        self.characters = characters
        self.ways, self.shots, self.queries = ways, shots, queries
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Task:
        if not 0 <= index < self.count:
            raise IndexError(index)
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        chosen = torch.randperm(len(self.characters), generator=draw)[: self.ways]
        each = self.shots + self.queries
        rows = [
            self.characters[c][torch.randperm(self.characters.shape[1], generator=draw)[:each]]
            for c in chosen.tolist()
        ]
        drawings = torch.stack(rows)  # [ways, shots + queries, 1, size, size]

        def part(found: Tensor) -> dict[str, Tensor]:
            labels = torch.arange(self.ways).repeat_interleave(found.shape[1])
            return {"x": found.flatten(0, 1), "y": labels}

        return {
            "support": part(drawings[:, : self.shots]),
            "query": part(drawings[:, self.shots :]),
        }


def omniglot(
    drawings: str, held_out: str, train: bool, ways: int, shots: int, queries: int, count: int
) -> Tasks:
    """Tasks from the alphabets other than `held_out`, each character also turned by 90, 180 and
    270 degrees as characters of their own; or from that alphabet alone.

    drawings: the zip file, or "generated". A task draws from all characters of its part.
    """
    alphabets = generated() if drawings == "generated" else read(drawings)
    if held_out not in alphabets:
        raise ValueError(f"no alphabet {held_out} in {drawings}; there are {sorted(alphabets)}")
    if not train:
        return Tasks(alphabets[held_out], ways, shots, queries, count, seed=1)
    seen = torch.cat([part for name, part in alphabets.items() if name != held_out])
    turned = torch.cat([seen.rot90(k, (3, 4)) for k in range(4)])
    return Tasks(turned, ways, shots, queries, count, seed=0)


def conv4(ways: int, channels: int) -> nn.Module:
    """Four convolutions with stride 2, each normalised over the batch at hand (Finn, Abbeel,
    Levine 2017, section 5.2), and a linear layer.
    """
    layers: list[nn.Module] = []
    for before in (1, channels, channels, channels):
        layers += [
            nn.Conv2d(before, channels, 3, stride=2, padding=1),
            nn.BatchNorm2d(channels, track_running_stats=False),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, ways))
