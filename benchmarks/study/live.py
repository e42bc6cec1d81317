"""The largest number of bytes that torch tensors held at once, above what was there before."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Watch(TorchDispatchMode):
    """Counts the storages that operators make, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, int] = {}
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        before = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if _is(x)}
        for x in tree_leaves(found):
            if _is(x):
                self._add(x.untyped_storage(), before)
        return found

    def _add(self, storage: Any, before: set[int]) -> None:
        key = storage._cdata
        if key in self.held or key in before:
            return
        self.held[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self.held.pop(key, 0)


def _is(x: Any) -> bool:
    return isinstance(x, torch.Tensor)


def peak(call: Callable[[], Any]) -> int:
    """Bytes at the peak of `call`, results included."""
    with _Watch() as watch:
        call()
    return watch.most
