"""`@jit`: a Triton kernel that imports Triton when it is first launched.

Triton is absent on some systems and costs 0.2 s to import, so a CPU run must not need it. Modules
import `triton.language as tl` under TYPE_CHECKING; the first launch puts the real one in its place.
A launch inside `record()` is noted instead of run: that is how the ahead-of-time table knows what
the launchers launch, without a GPU.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Grid = tuple[int, ...]


@dataclass(frozen=True)
class Launch:
    """One noted launch: the kernel, its grid, and its arguments by position and by name."""

    kernel: Kernel
    grid: Grid
    args: tuple[Any, ...]
    options: dict[str, Any]


_recorded: list[Launch] | None = None


@contextmanager
def record() -> Iterator[list[Launch]]:
    """Inside, launches are appended to the list and nothing runs."""
    global _recorded
    before, _recorded = _recorded, []
    try:
        yield _recorded
    finally:
        _recorded = before


class Kernel:
    """`kernel[grid](...)` compiles for the device of the first tensor and launches there; with CPU
    tensors it runs in Triton's interpreter.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function
        self.name = function.__name__
        self._compiled: Any = None

    def __getitem__(self, grid: Grid) -> Callable[..., None]:
        return lambda *args, **options: self._launch(grid, args, options)

    @property
    def compiled(self) -> Any:
        """Triton's JITFunction, or its InterpretedFunction under TRITON_INTERPRET=1."""
        if self._compiled is None:
            import triton
            import triton.language

            names = self.function.__globals__
            names["tl"] = triton.language
            self._compiled = triton.jit(self.function)
            # a kernel finds the device functions it calls among its globals
            for name in self.function.__code__.co_names:
                if isinstance(names.get(name), Kernel):
                    names[name] = names[name].compiled
        return self._compiled

    def _launch(self, grid: Grid, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        if _recorded is not None:
            _recorded.append(Launch(self, grid, args, options))
            return
        device = next(a.device for a in args if isinstance(a, Tensor))
        if device.type == "cuda":
            with torch.cuda.device(device):
                self.compiled[grid](*args, **options)
        else:
            interpret()
            self.compiled[grid](*map(_double, args), **options)


def _double(arg: Any) -> Any:
    """A float as the scalar in double precision that the kernels declare (`tl.float64`). The
    interpreter disregards that declaration and would round it to single.
    """
    if not isinstance(arg, float):
        return arg
    import numpy as np
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    return tl.tensor(TensorHandle(np.array([arg]), tl.float64), tl.float64)


def jit(function: Callable[..., None]) -> Kernel:
    """Mark a function as a Triton kernel, or as a device function that kernels call."""
    return Kernel(function)


def installed() -> bool:
    """Whether Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


def interpret() -> None:
    """Have Triton interpret. Raises RuntimeError once Triton, which reads the variable when it is
    imported, is there to compile.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        return
    if "triton" in sys.modules:
        raise RuntimeError(
            "Triton is loaded already; set TRITON_INTERPRET=1 before starting Python"
        )
    os.environ["TRITON_INTERPRET"] = "1"
