"""A folder of images as a data set: pictures are decoded when a batch asks for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bettyc import headers
from bettyc.diagnostics.span import Span
from bettyc.model import DataSet


class ImageFolder(Dataset[dict[str, Tensor]]):
    """Items `x`, float32 (channels, height, width) in [0, 1], and `y`, the number of the
    subfolder in the order of names.
    """

    def __init__(self, found: headers.Images, span: Span | None) -> None:
        self.found = found
        self.span = span
        # what can be told of every row without decoding it
        self.cheap = {"y": torch.tensor(found.labels)} if found.labels else {}

    def __len__(self) -> int:
        return len(self.found.files)

    def __getitem__(self, row: int) -> dict[str, Any]:
        item: dict[str, Any] = {"x": self._pixels(row)}
        if self.found.labels:
            item["y"] = self.found.labels[row]
        return item

    def _pixels(self, row: int) -> Tensor:
        """Raises InputError (MLO0506) for a file that is no image."""
        from PIL import Image

        file, (height, width) = self.found.files[row], self.found.size
        try:
            with Image.open(file) as image:
                picture = image.convert("RGB" if self.found.channels == 3 else "L")
        except OSError as error:
            raise headers.unreadable_image(file, self.span, error) from error
        if self.found.resized:
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(picture)).reshape(height, width, self.found.channels)
        return pixels.permute(2, 0, 1).to(torch.float32) / 255


def image_folder(data: DataSet, folder: str) -> ImageFolder:
    """The data set of an `images` source. Raises InputError."""
    headers.images(data.source, data.type, folder, data.span)
    return ImageFolder(headers.image_folder(data.source, folder, data.span), data.span)
