"""native.c, compiled for this machine when it is first needed.

The library lies in the user's cache folder ($BETTYC_CACHE, else $XDG_CACHE_HOME/bettyc, else
~/.cache/bettyc), under a name made of the sources, the compiler, the flags and the processor. The
compiler is $CC, else cc, and BETTYC_CC=none stands for "there is none". Where nothing can be
compiled, `library()` is None, `reason()` says why, and plain torch takes over.

-ffast-math is not among the flags: linking with it sets flush-to-zero for the whole process. Of
OpenMP only `simd` is used; native_pool.h has the threads.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

SOURCES = (
    "native.c",
    "native_exp.h",
    "native_formula.h",
    "native_pass.h",
    "native_pool.h",
    "native_rows.h",
    "native_tiles.h",
    "native_typed.h",
)
FLAGS = (
    "-O2",
    "-fno-math-errno",
    "-fopenmp-simd",
    "-pthread",
    "-shared",
    "-fPIC",
)
OPTIONAL = ("-march=native", "")  # the second where the first is unknown

_P, _L, _I, _D = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_double
SIGNATURES: dict[str, tuple[tuple[type, ...], type | None]] = {
    "one_pass": ((_P,), None),
    "descend": ((_P, _P, _P, _D, _L), None),
    "cg_solve": ((_P, _P, _P, _P, _D, _D, _L, _I, _I, _P, _P), None),
    "neumann_solve": ((_P, _P, _P, _P, _D, _L, _D, _P), None),
    "cg_step": ((_P, _P, _P, _P, _D, _L, _P, _P, _L, _L, _I), _I),
    "sum_squares": ((_P, _L, _I), _D),
    "neumann_update": ((_P, _P, _P, _D, _L, _I, _P), None),
    "perturb": ((_P, _P, _P, _P, _D, _I, _L, _I), _D),
    "sgd_step": ((_P, _P, _P, _D, _D, _D, _D, _I, _D, _L, _I), None),
    "adam_step": ((_P, _P, _P, _P, _D, _D, _D, _D, _D, _I, _D, _D, _L, _I), None),
}
_why = ""


def function(name: str, dtype: torch.dtype) -> ctypes._NamedFuncPointer:
    """A function of the library for float32 or float64. There must be a library."""
    return functions(dtype)[name]


def threads() -> int:
    """As many as torch would use."""
    return torch.get_num_threads()


def reason() -> str:
    """Why there is no library; empty where there is one."""
    library()
    return _why


@cache
def library() -> ctypes.CDLL | None:
    """The compiled library, or None. Compiles in a few seconds where the cache has nothing."""
    global _why
    compiler = os.environ.get("BETTYC_CC") or os.environ.get("CC") or "cc"
    found = shutil.which(compiler)
    if found is None:
        _why = f"no C compiler: {compiler} is not on the path"
        return None
    try:
        return ctypes.CDLL(str(_built(found)))
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or str(error)
        _why = f"{compiler} could not build the CPU kernels"
        warnings.warn(
            f"{_why}, and plain torch takes their place: {told}", RuntimeWarning, stacklevel=2
        )
        return None


@cache
def functions(dtype: torch.dtype) -> dict[str, ctypes._NamedFuncPointer]:
    """All functions of the library for float32 or float64. There must be a library."""
    found = library()
    assert found is not None
    return entries(found, dtype)


def entries(library: ctypes.CDLL, dtype: torch.dtype) -> dict[str, ctypes._NamedFuncPointer]:
    """The functions of a library by name, with their signatures."""
    found = {}
    for name, (arguments, result) in SIGNATURES.items():
        entry = getattr(library, f"{name}_{'f' if dtype == torch.float32 else 'd'}")
        entry.argtypes, entry.restype = arguments, result
        found[name] = entry
    return found


def written(text: str) -> ctypes.CDLL:
    """A library of C text, compiled at -O3; it may include the sources. There must be a compiler.
    Raises OSError or SubprocessError where it cannot be built.
    """
    compiler = shutil.which(os.environ.get("BETTYC_CC") or os.environ.get("CC") or "cc")
    if compiler is None:
        raise OSError("no C compiler")
    return ctypes.CDLL(str(_built(compiler, text)))


def _built(compiler: str, text: str = "") -> Path:
    """The path of the library, or of one of C text, compiled if it is not there."""
    folder = _folder()
    sources = [Path(__file__).with_name(name) for name in SOURCES]
    parts = [compiler, _version(compiler), _processor(), *FLAGS, *OPTIONAL, text]
    key = hashlib.sha256("\0".join(parts).encode() + b"".join(s.read_bytes() for s in sources))
    path = folder / f"native-{key.hexdigest()[:20]}.so"
    if not path.exists():
        for optional in OPTIONAL:
            try:
                _compile(compiler, sources[0], path, optional, text)
                break
            except subprocess.CalledProcessError:
                if optional == OPTIONAL[-1]:
                    raise
    return path


def _compile(compiler: str, source: Path, path: Path, optional: str, text: str) -> None:
    """Into a file of its own first, so that two processes at once do no harm."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made = Path(scratch) / path.name
        flags = [*FLAGS, *filter(None, [optional])]
        if text:
            own = Path(scratch) / "written.c"
            own.write_text(text, encoding="utf-8")
            flags += ["-O3", f"-I{source.parent}"]
            source = own
        command = [compiler, *flags, str(source), "-o", str(made), "-lm"]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        os.replace(made, path)


def _folder() -> Path:
    """A folder that only this user can write: what lies in it is loaded as code."""
    base = os.environ.get("BETTYC_CACHE")
    if not base:
        base = os.path.join(
            os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "bettyc"
        )
    folder = Path(base) / "kernels"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = folder.stat()
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        raise OSError(f"{folder} belongs to, or can be written by, someone else")
    return folder


def _version(compiler: str) -> str:
    """The compiler's file stands for its version: asking it would cost 5 ms at every start."""
    status = Path(compiler).resolve().stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def _processor() -> str:
    """What -march=native sees, so that a cache shared by machines stays right."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    except OSError:
        pass
    return f"{platform.machine()} {platform.processor()}"


def pointer(tensor: Tensor | None) -> int | None:
    """The address of a tensor's data; None stands for NULL."""
    return None if tensor is None else tensor.data_ptr()
