"""Functions of whole formulas, written in C by `bettyc.emit_c` and compiled for this machine.

A call costs 3 us beside its work. The compiled code lies in the cache of native.py.
"""

from __future__ import annotations

import ctypes
import subprocess
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bettyc.kernels import blas, native

REALS = {torch.float32: "float", torch.float64: "double"}
HEAD = """#define REAL {real}
#define NAME(f) f##{letter}
#define NAME_IS_DOUBLE {double}
#include "native_formula.h"
"""


class State(NamedTuple):
    """What one call at a time uses: addresses and scratch memory."""

    pointers: Any
    scratch: Tensor


class Function:
    """A compiled function. Called with the operands in the order of its pointers; gives the
    results that have no operand to go to, new tensors.
    """

    def __init__(
        self,
        name: str,
        text: str,
        kinds: Sequence[str],
        scratch: int,
        results: Sequence[tuple[int, ...]],
        dtype: torch.dtype,
    ) -> None:
        """Raises OSError or SubprocessError where it cannot be compiled."""
        found = blas.gemm(dtype)
        if found is None:
            raise OSError("torch shows no matrix product to C code")
        library = native.written(source(text, dtype))
        self._entry = getattr(library, name)
        self._entry.argtypes, self._entry.restype = (ctypes.c_void_p,) * 3, None
        self._gemm, self._dtype, self._scratch = found, dtype, scratch
        types = {"real": dtype, "int": torch.int64, "bool": torch.bool}
        self._types = [types[kind] for kind in kinds]
        self._results = tuple(results)
        self._spare: list[State] = []  # a list's pop and append are atomic

    def __call__(self, operands: Sequence[Tensor], positions: Sequence[int]) -> tuple[Tensor, ...]:
        """operands: one per pointer, with anything at the `positions` of the results."""
        state = self._spare.pop() if self._spare else self._state()
        pointers = state.pointers
        held = []  # copies live as long as the call
        for k, tensor in enumerate(operands):
            if tensor is None:
                continue
            if tensor.dtype is not self._types[k] or not tensor.is_contiguous():
                tensor = tensor.to(self._types[k]).contiguous()
                held.append(tensor)
            pointers[k] = tensor.data_ptr()
        made = tuple(torch.empty(shape, dtype=self._dtype) for shape in self._results)
        for k, tensor in zip(positions, made, strict=True):
            pointers[k] = tensor.data_ptr()
        self._entry(pointers, state.scratch.data_ptr(), self._gemm)
        self._spare.append(state)
        return made

    def _state(self) -> State:
        pointers = (ctypes.c_void_p * max(1, len(self._types)))()
        return State(pointers, torch.empty(self._scratch, dtype=self._dtype))


def source(text: str, dtype: torch.dtype) -> str:
    """The whole file."""
    double = dtype == torch.float64
    head = HEAD.format(real=REALS[dtype], letter="_d" if double else "_f", double=int(double))
    return f"{head}\n{text}"


def compiled(name: str, text: str, *rest: Any) -> Function | None:
    """The function, or None where it cannot be compiled, which is said in a warning."""
    try:
        return Function(name, text, *rest)
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or str(error)
        warnings.warn(
            f"`{name}` could not be compiled, and torch computes it: {told}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
