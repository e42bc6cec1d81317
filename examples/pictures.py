"""Pictures of darts.mlo: scikit-learn's digits, plain or moved, or CIFAR-10 as published."""

from __future__ import annotations

import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

COPIES, SIDE = 4, 12
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def pictures(name: str, part: str) -> dict[str, np.ndarray]:
    """x of shape (n, channels, height, width) and labels y. part is "train", "test", or "fit" or
    "val", the first and the second half of "train".

    name "digits": 70 % of the digits train, 30 % test, 8×8. "moved": COPIES pictures of each, one
    after the other, SIDE pixels high and wide, the digit anywhere and black around it. Any other is
    the folder that `cifar-10-python.tar.gz` or its content, `cifar-10-batches-py`, lies in.
    """
    if part in ("fit", "val"):
        whole = pictures(name, "train")
        half = len(whole["y"]) // 2
        return {k: v[:half] if part == "fit" else v[half:] for k, v in whole.items()}
    if name not in ("digits", "moved"):
        return cifar10(Path(name), part)
    x, y = load_digits(return_X_y=True)
    train, test = train_test_split(np.arange(len(y)), test_size=0.3, random_state=0, stratify=y)
    rows = train if part == "train" else test
    images, labels = x[rows].reshape(-1, 1, 8, 8).astype(np.float32) / 16, y[rows]
    if name == "moved":
        images, labels = np.repeat(images, COPIES, axis=0), np.repeat(labels, COPIES)
        room = SIDE - images.shape[-1]
        corners = np.random.default_rng(len(rows)).integers(room + 1, size=(len(images), 2))
        moved = np.zeros((len(images), 1, SIDE, SIDE), dtype=np.float32)
        for picture, image, (row, column) in zip(moved, images, corners, strict=True):
            picture[:, row : row + len(image[0]), column : column + len(image[0])] = image
        images = moved
    return {"x": images, "y": labels}


class Arrays(pickle.Unpickler):
    """Reads the batches of CIFAR-10, and refuses pickles that hold anything but arrays."""

    def find_class(self, module: str, name: str) -> object:
        if module.partition(".")[0] not in ("numpy", "_codecs") or name not in (
            "_reconstruct", "ndarray", "dtype", "encode",
        ):  # fmt: skip
            raise pickle.UnpicklingError(f"{module}.{name} does not belong into CIFAR-10")
        return super().find_class(module, name)


def cifar10(folder: Path, part: str) -> dict[str, np.ndarray]:
    """Normalised by channel; (50000, 3, 32, 32) and (10000, 3, 32, 32) of the full data set."""
    names = [f"data_batch_{k}" for k in range(1, 6)] if part == "train" else ["test_batch"]
    batches = [_batch(folder, name) for name in names]
    x = np.concatenate([b[b"data"] for b in batches]).reshape(-1, 3, 32, 32)
    mean, std = (np.asarray(v, dtype=np.float32).reshape(1, 3, 1, 1) for v in (MEAN, STD))
    y = np.concatenate([np.asarray(b[b"labels"], dtype=np.int64) for b in batches])
    return {"x": (x.astype(np.float32) / 255 - mean) / std, "y": y}


def _batch(folder: Path, name: str) -> dict[bytes, np.ndarray]:
    inside = os.path.join("cifar-10-batches-py", name)
    archive = folder / "cifar-10-python.tar.gz"
    if archive.is_file():
        with tarfile.open(archive) as tar:
            member = tar.extractfile(inside)
            if member is None:
                raise FileNotFoundError(f"{inside} is not in {archive}")
            return Arrays(member, encoding="bytes").load()
    with open(folder / inside, "rb") as file:
        return Arrays(file, encoding="bytes").load()
