"""Which way an operation runs, decided in one place.

    tensor on     way       when
    CUDA or ROCm  triton    Triton is installed and the kernel compiles
    CPU           native    float32 or float64, and native.c could be compiled on this machine
    anything      torch     otherwise: the reference, which defines the operation

BETTYC_KERNELS overrides it: `torch` uses the reference everywhere, `triton` makes a kernel that
fails to compile an error, `interpret` runs the Triton kernels on CPU tensors in Triton's
interpreter. A kernel that fails to compile is replaced by the reference for the rest of the
process, with one warning.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bettyc.kernels import jit, native

Ways = Mapping[str, Callable[..., Any]]
MODES = ("auto", "torch", "triton", "interpret")

_broken: dict[str, str] = {}
# what `way` has said
_ways: dict[tuple[str, str, str, torch.dtype], str] = {}
_mode = os.environ.get("BETTYC_KERNELS") or "auto"
if _mode not in MODES:
    raise ValueError(f"BETTYC_KERNELS is {_mode!r}; it can be {', '.join(MODES)}")


@dataclass(frozen=True)
class Choice:
    """The way an operation will run (torch, native or triton), and the reason in words."""

    way: str
    why: str


def choose(op: str, device: torch.device, dtype: torch.dtype) -> Choice:
    """The way `op` runs for tensors of this device and dtype, if it has that way."""
    if _mode == "torch":
        return Choice("torch", "BETTYC_KERNELS=torch")
    if op in _broken:
        return Choice("torch", f"the Triton kernel did not compile: {_broken[op]}")
    if _mode == "interpret":
        return Choice("triton", "BETTYC_KERNELS=interpret")
    if device.type == "cuda":
        if jit.installed():
            return Choice("triton", f"device {device}")
        return Choice("torch", "Triton is not installed")
    if device.type != "cpu":
        return Choice("torch", f"no kernel for device {device}")
    if dtype not in (torch.float32, torch.float64):
        return Choice("torch", f"no CPU kernel for {dtype}")
    if native.library() is None:
        return Choice("torch", native.reason())
    return Choice("native", "compiled C for this processor")


def way(op: str, like: Tensor) -> str:
    """The way `op` runs for a tensor, without the reason: choosing again costs 1 us."""
    key = (_mode, op, like.device.type, like.dtype)
    return _ways.get(key) or _ways.setdefault(key, choose(op, like.device, like.dtype).way)


def run(op: str, ways: Ways, like: Tensor, *args: Any, **options: Any) -> Any:
    """Call ways[way](*args, **options), with the way chosen for the tensor `like`."""
    found = way(op, like)
    if found == "triton" and found in ways:
        return _triton(op, ways, *args, **options)
    return ways.get(found, ways["torch"])(*args, **options)


def _triton(op: str, ways: Ways, *args: Any, **options: Any) -> Any:
    if _mode == "interpret":
        return ways["triton"](*args, **options)
    try:
        return ways["triton"](*args, **options)
    except compile_errors() as error:
        if _mode == "triton":
            raise
        lines = str(error).strip().splitlines()
        _broken[op] = lines[-1] if lines else type(error).__name__
        _ways.clear()
        warnings.warn(
            f"kernel {op} did not compile and plain torch takes its place: {_broken[op]}",
            RuntimeWarning,
            stacklevel=4,
        )
        return ways["torch"](*args, **options)


def compile_errors() -> tuple[type[Exception], ...]:
    """What Triton raises when a kernel cannot be built. All of it comes before the launch, so the
    operands are untouched.
    """
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import TritonError

    return (CompilationError, TritonError)


@contextmanager
def use(mode: str) -> Iterator[None]:
    """Inside, decide as BETTYC_KERNELS=mode would. For tests and benchmarks."""
    global _mode
    if mode not in MODES:
        raise ValueError(f"no mode {mode!r}; modes: {', '.join(MODES)}")
    before, _mode = _mode, mode
    try:
        yield
    finally:
        _mode = before
