r"""scale X^T phi(X V) + shift V + ridge * V in one pass over X, for any phi that acts row by row.

X: (n, d). V: (d,), (d, k), or (k, d) where `turned`; the result is like V. phi: a `Rows` of
rows.py, with its operands. This is the gradient of every generalised linear model (phi = the
derivative of its loss) and its Hessian-vector product (phi linear).

    way     X is read   when
    native  once        CPU, float32 or float64: a block of rows is used for both products while it
                        is in the cache, parts of the rows go to the cores as they come for them;
                        small data that stay lie in panels (panels.py)
    triton  once        GPU, where phi is a weight per entry or the Jacobian of a softmax
    torch   twice       otherwise: the reference

Memory of native: at most an eighth of X. Its result depends neither on the number of threads nor on
the rows in a block, which are measured once for each size of problem (tuning.py). How V lies in
memory is the caller's business as little: it is turned here.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bettyc.kernels import dispatch, fixed_pass, native, panels, solves, tuning
from bettyc.kernels.rows import KINDS, Instruction, Program, Rows

PARTS = 32  # shares of the rows that CPU cores take in turn
PART_ROWS = 64  # rows in a share, at least
PART_SIZE = 1 << 15  # elements in a share of panels, at least
BLOCKS = (64, 8, 16, 32, 128)  # rows in a block; the first where it is not worth measuring
WORTH = 1 << 20  # products of X's elements and columns from which it is
MAX_COLUMNS = 128  # a block of rows with all slots of its program has to stay in the cache
NARROW, LARGE = 32, 4096  # columns and elements of X for which BLAS is faster on the transpose
_L, _P, _I, _D = ctypes.c_long, ctypes.c_void_p, ctypes.c_int, ctypes.c_double


class Struct(ctypes.Structure):
    """struct pass of native.c."""

    _fields_ = [
        *((name, _P) for name in ("x", "v", "ridge", "out", "work")),
        *((name, _L) for name in ("n", "d", "k", "parts", "block", "ridge_step")),
        *((name, _D) for name in ("scale", "shift")),
        *((name, _I) for name in ("turned", "threads")),
        *((name, _L) for name in ("outside", "count", "result", "kept")),
        ("kinds", ctypes.POINTER(_I)),
        ("data", ctypes.POINTER(_P)),
        ("program", ctypes.POINTER(Instruction)),
        ("keep", ctypes.POINTER(_I)),
        ("keep_at", ctypes.POINTER(_P)),
        ("vt", _P),
        ("panels", _P),
    ]


def one_pass(
    x: Tensor,
    v: Tensor,
    rows: Rows,
    *data: Tensor,
    scale: float = 1.0,
    shift: float = 0.0,
    ridge: Tensor | None = None,
    turned: bool = False,
) -> Any:
    """The product, or (product, *kept) where the rows keep more; without a result, the kept ones.

    ridge: like v, or one value. Operands that native.c cannot take go the way of the reference.
    """
    if takes(x, v, turned):
        made = ready(x, v, rows, data, scale, shift, ridge, turned)
        found = made.at(v)
        made.release()
        return found
    if dispatch.way("one_pass", x) == "triton":
        from bettyc.kernels import linear_pass  # built on this file

        product = linear_pass.product(x, v, rows, data, scale, shift, ridge, turned)
        if product is not None:
            return product(v)
    return reference(x, v, rows, data, scale, shift, ridge, turned)


def ready(
    x: Tensor,
    v: Tensor,
    rows: Rows,
    data: Sequence[Tensor],
    scale: float = 1.0,
    shift: float = 0.0,
    ridge: Tensor | None = None,
    turned: bool = False,
) -> Pass:
    """A pass with its operands bound: one that was released, where there is one of these shapes."""
    key = (x.shape, v.shape, v.dtype, turned, native.threads())
    spare = rows.spare.setdefault(key, [])  # a list's pop and append are atomic
    made = spare.pop() if spare else Pass(x, v, rows, None, turned=turned)
    made.home = spare
    made.bind(x, data, scale, shift, ridge)
    return made  # type: ignore[no-any-return]


def takes(x: Tensor, v: Tensor, turned: bool = False) -> bool:
    """Whether native.c computes this."""
    return (
        dispatch.way("one_pass", x) == "native"
        and x.dtype is v.dtype
        and x.is_contiguous()
        and v.is_contiguous()
        and not v.requires_grad
        and 0 < columns(v, turned) <= MAX_COLUMNS
        and v.numel() > 0
    )


def columns(v: Tensor, turned: bool) -> int:
    """k of V."""
    return 1 if v.dim() == 1 else v.shape[0 if turned else 1]


def reference(
    x: Tensor,
    v: Tensor,
    rows: Rows,
    data: Sequence[Tensor],
    scale: float = 1.0,
    shift: float = 0.0,
    ridge: Tensor | None = None,
    turned: bool = False,
) -> Any:
    """The two products in torch."""
    found = rows(forward(x, v, turned), *data)
    if rows.program.result is None:
        return found
    found, *kept = found if rows.keeps else (found,)
    total = backward(x, found, turned)
    total = total.mul_(scale) if scale != 1 else total
    total = total.add_(v, alpha=shift) if shift else total
    total = total if ridge is None else total.addcmul_(ridge.expand_as(v), v)
    return (total, *kept) if kept else total


def forward(x: Tensor, v: Tensor, turned: bool) -> Tensor:
    """X V."""
    if v.dim() == 1:
        return x @ v
    vt = v if turned else v.mT
    if 2 <= vt.shape[0] <= NARROW and x.numel() >= LARGE:
        return (vt.contiguous() @ x.mT).mT
    return x @ vt.mT


def backward(x: Tensor, s: Tensor, turned: bool) -> Tensor:
    """X^T S, or S^T X where turned."""
    if s.dim() == 1:
        return x.mT @ s
    if turned:
        return s.mT @ x
    if 2 <= s.shape[1] <= NARROW and x.numel() >= LARGE:
        return (s.mT @ x).mT.contiguous()
    return x.mT @ s


class Pass:
    """v -> the product for native.c, all else being bound: for loops. A call costs 2 us beside its
    work.

    x: (n, d), contiguous. like: a tensor of the shape and dtype of the vectors to come. The
    operands must stay as they are while the object is used. data None: `bind` comes first.
    """

    def __init__(
        self,
        x: Tensor,
        like: Tensor,
        rows: Rows,
        data: Sequence[Tensor] | None = (),
        scale: float = 1.0,
        shift: float = 0.0,
        ridge: Tensor | None = None,
        turned: bool = False,
    ) -> None:
        program, dtype = rows.program, like.dtype
        (n, d), k = x.shape, columns(like, turned)
        parts = max(1, min(PARTS, n // PART_ROWS, n // (8 * k)))
        self.columns, self.rows, self.flat = k, n, like.dim() == 1
        self.program, self.size, self.dtype, self._parts = program, d * k, dtype, parts
        real = ctypes.c_float if dtype == torch.float32 else _D
        self._numbers = (real * max(1, len(program.numbers)))(*program.numbers)
        self._work = like.new_empty((parts + 1) * d * k)
        self._instructions = program.instructions()
        count, begin = len(program.kinds), ctypes.addressof(self._numbers)
        self._data = (_P * count)()
        for i in range(len(program.numbers)):
            self._data[count - len(program.numbers) + i] = begin + i * ctypes.sizeof(real)
        self._keep_at = (_P * max(1, len(program.keep)))()
        self._struct = Struct(
            work=self._work.data_ptr(), n=n, d=d, k=k, parts=parts,
            block=BLOCKS[0], turned=int(turned), threads=native.threads(),
            outside=count, count=len(program.lines), result=program.result or 0,
            kept=len(program.keep), kinds=(_I * count)(*map(KINDS.index, program.kinds)),
            data=self._data, program=self._instructions,
            keep=(_I * max(1, len(program.keep)))(*program.keep), keep_at=self._keep_at,
        )  # fmt: skip
        self._where = ctypes.byref(self._struct)
        self._matrix = ctypes.byref(
            solves.Matrix(
                pass_=ctypes.addressof(self._struct), n=self.size, threads=native.threads()
            )
        )
        self.home: list[Pass] | None = None
        self._generic = self._entries = native.functions(dtype)
        self._fixed: Mapping[str, Any] | None = None
        self._call = self._entries["one_pass"]
        self._untuned = like if n * d * k >= WORTH else None
        if data is not None:
            self.bind(x, data, scale, shift, ridge)

    def bind(
        self,
        x: Tensor,
        data: Sequence[Tensor],
        scale: float = 1.0,
        shift: float = 0.0,
        ridge: Tensor | None = None,
    ) -> None:
        """Take operands, of the sizes that the object was made for."""
        n, k, struct = self.rows, self.columns, self._struct
        kinds = self.program.kinds
        operands = [_operand(t, kinds[i + 1], self.dtype, n, k) for i, t in enumerate(data)]
        if ridge is not None:
            ridge = _contiguous(ridge, self.dtype)
        packed = panels.panels(x) if k == 1 else None
        self._held: object = (x, operands, ridge, packed)
        self._entries = self._fixed if self._fixed and packed is not None else self._generic
        self._call = self._entries["one_pass"]
        struct.panels = native.pointer(packed)
        struct.parts = (
            max(1, min(self._parts, x.numel() // PART_SIZE)) if packed is not None else self._parts
        )
        for i, tensor in enumerate(operands):
            self._data[i + 1] = tensor.data_ptr()
        struct.x, struct.ridge = x.data_ptr(), native.pointer(ridge)
        struct.ridge_step = int(ridge is not None and ridge.numel() > 1)
        struct.scale, struct.shift = scale, shift
        if self._untuned is not None:
            self._tune(self._untuned)

    def _tune(self, like: Tensor) -> None:
        """Take the rows per block that were fastest for a problem of this size."""
        struct, v = self._struct, torch.zeros_like(like)
        self._untuned = None

        def seconds(block: int) -> float:
            struct.block = block
            began = time.perf_counter()
            self.at(v)
            return time.perf_counter() - began

        kind = "forward" if self.program.result is None else "both ways"
        size = f"{struct.n} x {struct.d} x {struct.k} {self.dtype} {kind}"
        key = f"one_pass: rows per block, {size}, {len(self.program.lines)} instructions"
        struct.block = tuning.choose(key, BLOCKS, seconds)

    def fix(self) -> None:
        """From now on run code compiled for the program and its columns, where X lies in panels
        and the code can be had (fixed_pass.py). The result keeps its bits.
        """
        if self._fixed is None and self._struct.panels:
            self._fixed = fixed_pass.functions(self.program, self._struct.d, self.dtype)
            self._entries = self._fixed or self._generic
            self._call = self._entries["one_pass"]

    def release(self) -> None:
        """Hold the operands no longer, and serve for another `ready`."""
        self._held = None
        if self.home is not None:
            self.home.append(self)

    def at(self, v: Tensor) -> Any:
        """As `one_pass`, with new tensors."""
        out = torch.empty_like(v) if self.program.result is not None else None
        kept = []
        for i, wide in enumerate(self.program.wide):
            shape = (self.rows, self.columns) if wide and not self.flat else (self.rows,)
            kept.append(v.new_empty(shape))
            self._keep_at[i] = kept[-1].data_ptr()
        struct = self._struct
        struct.v = v.data_ptr()
        struct.out = None if out is None else out.data_ptr()
        self._call(self._where)
        if out is None:
            return kept[0] if len(kept) == 1 else tuple(kept)
        return (out, *kept) if kept else out

    def into(self, v: Tensor, out: Tensor) -> Tensor:
        """The product in `out`, which is like v and apart from it; nothing is kept."""
        self._struct.v, self._struct.out = v.data_ptr(), out.data_ptr()
        self._call(self._where)
        return out

    def solve(self, entry: str, *arguments: Any) -> None:
        """A solve of native.c with this product; the caller keeps what the arguments point to."""
        self._entries[entry](self._matrix, *arguments)

    def descend(self, v: Tensor, lr: float, steps: int, before: Tensor | None = None) -> None:
        """`steps` times v -= lr * the product at v, in one call. v: contiguous. before: like v,
        gets v as it is ahead of the last step.
        """
        out = torch.empty_like(v)
        self._struct.v, self._struct.out = v.data_ptr(), out.data_ptr()
        where = native.pointer(before)
        self._entries["descend"](self._where, v.data_ptr(), where, lr, steps)


def _operand(tensor: Tensor, kind: str, dtype: torch.dtype, n: int, k: int) -> Tensor:
    """Contiguous, in the dtype that its kind has. Raises ValueError for another size."""
    size = n * k if kind == "matrix" else n
    if kind not in ("matrix", "column", "labels"):
        size = {"scalar": 1, "row": k}.get(kind, n * k * k)
    if tensor.numel() != size:
        raise ValueError(
            f"one_pass: a {kind} beside {n} rows of {k} columns has {size} elements, not"
            f" {tuple(tensor.shape)}"
        )
    return _contiguous(tensor, torch.int64 if kind == "labels" else dtype)


def _contiguous(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    tensor = tensor if tensor.dtype == dtype else tensor.to(dtype)
    return tensor if tensor.is_contiguous() else tensor.contiguous()


__all__ = ["Pass", "Program", "one_pass", "reference", "takes"]
