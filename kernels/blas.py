"""Matrix products for C code: the BLAS that torch itself calls.

torch's wheels for Linux carry MKL or OpenBLAS inside libtorch_cpu, with its Fortran entries
visible. C code calls them with torch's own number of threads. A build without such entries has
none; whoever wants to compile formulas then leaves them to torch.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch

NAMES = {torch.float32: "sgemm_", torch.float64: "dgemm_"}


@cache
def gemm(dtype: torch.dtype) -> int | None:
    """The address of sgemm_ or dgemm_ with 32-bit integers; None where torch shows none."""
    folder = Path(torch.__file__).parent / "lib"
    for library in (*folder.glob("libtorch_cpu.*"), *folder.glob("torch_cpu.dll")):
        try:
            entry = getattr(ctypes.CDLL(str(library)), NAMES[dtype])
        except (OSError, AttributeError, KeyError):
            continue
        return ctypes.cast(entry, ctypes.c_void_p).value
    return None
