"""Nested state as one safetensors file: tensors by path, everything else as JSON in the header.

Written whole or not at all: to a folder beside it, flushed to the disk, then renamed. A folder,
because safetensors may itself begin with a file of another name, which a killed process leaves.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

SEPARATOR = "/"


def write(path: Path, tree: dict[str, Any]) -> None:
    """Write dicts, lists, numbers, strings, None and tensors, nested. Raises OSError where it
    cannot be written; the file that was there before is then unharmed.
    """
    tensors: dict[str, Tensor] = {}
    header = _pack(tree, "", tensors)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        partial.mkdir()
        made = partial / "state"
        save_file(_apart(tensors), str(made), {"bettyc": json.dumps(header, sort_keys=True)})
        _flush(made)
        made.replace(path)
        _flush(path.parent)
    except safetensors.SafetensorError as error:
        # the library reports a full disk as its own error
        raise OSError(f"cannot write {path}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sweep(path: Path) -> None:
    """Remove what processes that were killed had begun to write."""
    for left in path.parent.glob(f".{path.name}.*.partial"):
        owner = left.name.split(".")[-2]
        if not owner.isdecimal() or not _alive(int(owner)):
            shutil.rmtree(left, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True


def read(path: Path, device: torch.device) -> dict[str, Any]:
    """What `write` wrote. Raises OSError, and ValueError for a file that is something else or is
    damaged.
    """
    try:
        with safetensors.safe_open(str(path), "pt", device="cpu") as file:
            header = json.loads((file.metadata() or {})["bettyc"])
            tree = _unpack(header, lambda name: file.get_tensor(name).to(device))
    except (safetensors.SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path.name} is no checkpoint: {error}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path.name} is no checkpoint")
    return tree


def _pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, dict):
        items = [
            [_key(k), _pack(v, f"{path}{SEPARATOR}{n}", tensors)]
            for n, (k, v) in enumerate(value.items())
        ]
        return {"dict": items}
    if isinstance(value, list | tuple):
        return [_pack(v, f"{path}{SEPARATOR}{n}", tensors) for n, v in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} has no place in a checkpoint")


def _key(key: Any) -> Any:
    return list(key) if isinstance(key, tuple) else key


def _unpack(value: Any, tensor: Any) -> Any:
    if isinstance(value, list):
        return [_unpack(v, tensor) for v in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensor(value["tensor"])
    return {tuple(k) if isinstance(k, list) else k: _unpack(v, tensor) for k, v in value["dict"]}


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous and without shared memory, as the format wants them."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        key = tensor.untyped_storage().data_ptr()
        whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
        found[name] = (
            tensor
            if whole and key not in seen
            else tensor.clone(memory_format=torch.contiguous_format)
        )
        seen.add(key)
    return found


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
