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

from bettyc.kernels import blas, native, solves

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
        copies = self._point(pointers, operands)
        made = tuple(torch.empty(shape, dtype=self._dtype) for shape in self._results)
        for k, tensor in zip(positions, made, strict=True):
            pointers[k] = tensor.data_ptr()
        self.call(state)
        del copies  # which had to live until here
        self._spare.append(state)
        return made

    def call(self, state: State) -> None:
        """Compute, all addresses being there."""
        self._entry(state.pointers, state.scratch.data_ptr(), self._gemm)

    def _point(self, pointers: Any, operands: Sequence[Tensor | None]) -> list[Tensor]:
        """Fill in the addresses; gives the copies that had to be made."""
        held = []
        for k, tensor in enumerate(operands):
            if tensor is None:
                continue
            if tensor.dtype is not self._types[k] or not tensor.is_contiguous():
                tensor = tensor.to(self._types[k]).contiguous()
                held.append(tensor)
            pointers[k] = tensor.data_ptr()
        return held

    def matrix(
        self, operands: Sequence[Tensor | None], v_at: int, out_at: int, size: int
    ) -> BoundFormula:
        """H as v -> H v: the function with all operands but two, which stand at v_at and out_at."""
        state = self._spare.pop() if self._spare else self._state()
        held = [*operands, *self._point(state.pointers, operands)]
        matrix = solves.Matrix(
            function=ctypes.cast(self._entry, ctypes.c_void_p),
            operands=ctypes.addressof(state.pointers), scratch=state.scratch.data_ptr(),
            gemm=self._gemm, n=size, v_at=v_at, out_at=out_at, threads=native.threads(),
        )  # fmt: skip
        return BoundFormula(self, matrix, state, held, self._dtype)

    def spare(self, state: State) -> None:
        """Take back what a call used."""
        self._spare.append(state)

    def _state(self) -> State:
        pointers = (ctypes.c_void_p * max(1, len(self._types)))()
        return State(pointers, torch.empty(self._scratch, dtype=self._dtype))


class BoundFormula:
    """A function as the matrix of a solve (solves.py). Nothing of it is copied: the operands must
    stay as they are.
    """

    def __init__(
        self, function: Function, matrix: solves.Matrix, state: State, held: Any, dtype: torch.dtype
    ) -> None:
        self._function, self._state, self._held = function, state, held
        self._matrix, self._dtype = matrix, dtype

    def into(self, v: Tensor, out: Tensor) -> Tensor:
        """H v in `out`, both (n,), contiguous and apart."""
        pointers, matrix = self._state.pointers, self._matrix
        pointers[matrix.v_at], pointers[matrix.out_at] = v.data_ptr(), out.data_ptr()
        self._function.call(self._state)
        return out

    def solve(self, entry: str, *arguments: Any) -> None:
        """A solve of native.c; the caller keeps what the arguments point to."""
        native.functions(self._dtype)[entry](ctypes.byref(self._matrix), *arguments)

    def release(self) -> None:
        """Hold the operands no longer."""
        self._held = None
        self._function.spare(self._state)


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
