r"""out = scale X^T phi(X V) + shift V + ridge * V in one pass over X.

X: (n, d), V: (d,) or (d, k), phi one of phi.py. This is the Hessian-vector product of every
generalised linear model, of softmax regression and of a Gauss-Newton last layer. Written as two
products it reads X twice; here a block of rows is used for both while it is on the chip.

    way        X is read   when
    resident   once        Triton; a block of rows, V and the program's sum fit in registers
    two-phase  twice       Triton, otherwise: S = phi(X V) is stored, then X^T S
    native     once        CPU: one_pass.py
    torch      twice       the reference

Bytes moved, float32 X: 4 n d once, plus 4 k (2 d + n) and 8 k d per program for the partial sums.
Sums are kept per program and added in a fixed order; deterministic=False adds them atomically
instead and saves the second launch. X may be bf16, fp16, fp32 (fp64 on the CPU and for checks);
sums are at least fp32. `precision` is that of products on tensor cores (k > 1): "ieee", "tf32x3" or
"tf32".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bettyc.kernels import checks, dispatch, solves, xt_phi_x_triton
from bettyc.kernels import phi as rows
from bettyc.kernels.one_pass import MAX_COLUMNS, Pass
from bettyc.kernels.phi import Centred, Diagonal, GaussNewton, Phi, Softmax
from bettyc.kernels.rows import Rows, parse

PRECISIONS = ("ieee", "tf32x3", "tf32")


def xt_phi_x(
    x: Tensor,
    v: Tensor,
    phi: Phi,
    *,
    scale: float = 1.0,
    shift: float = 0.0,
    ridge: Tensor | None = None,
    out: Tensor | None = None,
    deterministic: bool = True,
    precision: str = "ieee",
) -> Tensor:
    """scale X^T phi(X v) + shift v + ridge * v, in the shape and dtype of v.

    x: (n, d), contiguous rows. v: (d,) or (d, k), contiguous. ridge: like v. out: written and
    returned; it must not share memory with v. Raises ValueError for shapes that do not agree and
    for operands that require grad.
    """
    check(x, v, phi, ridge, precision)
    if out is None:
        out = torch.empty_like(v)
    else:
        checks.vectors("xt_phi_x", v=v, out=out)
        checks.apart("xt_phi_x", v=v, out=out)
    task = Task(x, phi, scale, shift, ridge, deterministic, precision)
    return dispatch.run("xt_phi_x", WAYS, x, task, v, out)


@dataclass(frozen=True)
class Task:
    """A product without its vector. keep: working memory by name, kept from call to call; None to
    allocate it for each. bound: the product for native.c, once it is made.
    """

    x: Tensor
    phi: Phi
    scale: float = 1.0
    shift: float = 0.0
    ridge: Tensor | None = None
    deterministic: bool = True
    precision: str = "ieee"
    keep: dict[str, Tensor] | None = None
    bound: list[Pass] = field(default_factory=list)

    def empty(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Working memory in the dtype and on the device of `like`."""
        if self.keep is None:
            return like.new_empty(shape)
        if name not in self.keep or self.keep[name].shape != shape:
            self.keep[name] = like.new_empty(shape)
        return self.keep[name]


class Product:
    """v -> scale X^T phi(X v) + shift v + ridge * v for a solver: operands are checked once, and
    memory is allocated once. The result lies in a buffer that the next call overwrites.
    """

    def __init__(
        self,
        x: Tensor,
        phi: Phi,
        like: Tensor,
        *,
        scale: float = 1.0,
        shift: float = 0.0,
        ridge: Tensor | None = None,
        deterministic: bool = True,
        precision: str = "ieee",
    ) -> None:
        """like: a tensor of the shape and dtype of the vectors to come."""
        check(x, like, phi, ridge, precision)
        self._task = Task(x, phi, scale, shift, ridge, deterministic, precision, {})
        self._out = torch.empty_like(like)

    def __call__(self, v: Tensor) -> Tensor:
        checks.vectors("xt_phi_x", v=v, out=self._out)
        return dispatch.run("xt_phi_x", WAYS, v, self._task, v, self._out)

    def solve(self, b: Tensor, **options: Any) -> tuple[Tensor, solves.Info] | None:
        """A whole solve with this product in one call of native.c (solves.py). None where there is
        no such call: then step by step.
        """
        out = self._out
        way = dispatch.choose("cg_update", b.device, b.dtype).way
        if way != "native" or out.dim() != 1 or not has_native(self._task, out):
            return None
        checks.vectors("xt_phi_x", b=b, out=out)
        return solves.cg(_pass(self._task, b), b, **options)


def check(x: Tensor, v: Tensor, phi: Phi, ridge: Tensor | None, precision: str) -> None:
    """Raise ValueError unless the operands fit together."""
    op = "xt_phi_x"
    if x.dim() != 2 or v.dim() not in (1, 2) or v.shape[0] != x.shape[1]:
        raise ValueError(f"{op}: x is {tuple(x.shape)} and v is {tuple(v.shape)}")
    if x.numel() and x.stride(1) != 1:
        raise ValueError(f"{op}: rows of `x` are not contiguous; strides {x.stride()}")
    if precision not in PRECISIONS:
        raise ValueError(f"{op}: precision {precision!r}; it can be {', '.join(PRECISIONS)}")
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{op}: `x` requires grad, and this kernel has no derivative")
    data = rows.tensors(phi)
    checks.operands(op, v=v, **data, **({} if ridge is None else {"ridge": ridge}))
    if x.device != v.device:
        raise ValueError(f"{op}: `x` is on {x.device}, `v` on {v.device}")
    for name, tensor in data.items():
        if tensor.dtype != v.dtype:
            raise ValueError(f"{op}: `{name}` is {tensor.dtype}, not {v.dtype} like `v`")
    rows.check(op, phi, x.shape[0], 1 if v.dim() == 1 else v.shape[1], v.dim() == 1)
    if ridge is not None:
        checks.vectors(op, v=v, ridge=ridge)


def reference(task: Task, v: Tensor, out: Tensor) -> Tensor:
    """The two products, in the dtype of v."""
    wide = task.x.to(v.dtype)
    total = task.scale * (wide.T @ rows.apply(task.phi, wide @ v))
    if task.shift:
        total = total + task.shift * v
    if task.ridge is not None:
        total = total + task.ridge * v
    return out.copy_(total)


def _native(task: Task, v: Tensor, out: Tensor) -> Tensor:
    return _pass(task, v).into(v, out) if has_native(task, v) else reference(task, v, out)


def has_native(task: Task, v: Tensor) -> bool:
    """Whether native.c takes these operands."""
    columns = 1 if v.dim() == 1 else v.shape[1]
    x = task.x
    return x.dtype == v.dtype and columns <= MAX_COLUMNS and x.is_contiguous() and v.numel() > 0


def _pass(task: Task, v: Tensor) -> Pass:
    """The product with its operands bound, made once where the task keeps it."""
    if task.bound:
        return task.bound[0]
    data = list(rows.tensors(task.phi).values())
    program = PROGRAMS[type(task.phi), len(data)]
    made = Pass(task.x, v, program, data, task.scale, task.shift, task.ridge)
    if task.keep is not None:
        task.bound.append(made)
    return made


def _linear(phi: type[Phi], *lines: str, **kinds: str) -> Rows:
    """`phi` as a row program."""

    def apply(z: Tensor, *data: Tensor) -> Tensor:
        return rows.apply(phi(*data), z)

    return Rows(apply, parse(lines, ["z", *kinds], list(kinds.values())))


SOFTMAX = ("mul z p", "sum %1", "sub z %2", "mul %3 p")
PROGRAMS: dict[tuple[type[Phi], int], Rows] = {
    (Diagonal, 1): _linear(Diagonal, "mul z w", w="matrix"),
    (Softmax, 1): _linear(Softmax, *SOFTMAX, p="matrix"),
    (Softmax, 2): _linear(Softmax, *SOFTMAX, "mul %4 w", p="matrix", w="column"),
    (Centred, 2): _linear(
        Centred, "mul z p", "sum %1", "sub z %2", "mul %3 q", p="matrix", q="matrix"
    ),
    (GaussNewton, 1): _linear(GaussNewton, "blocks z a", a="blocks"),
}


def row_data(phi: Phi) -> tuple[int, Tensor, Tensor | None]:
    """The kind's number in the Triton kernels, and the row data."""
    if isinstance(phi, Diagonal):
        return 0, phi.weights, None
    if isinstance(phi, Softmax):
        return 1, phi.probs, phi.weights
    if isinstance(phi, Centred):
        return 3, phi.probs, phi.outer
    return 2, phi.blocks, None


def _launch(task: Task, v: Tensor, out: Tensor) -> Tensor:
    k = 1 if v.dim() == 1 else v.shape[1]
    if not v.numel() or not xt_phi_x_triton.fits(isinstance(task.phi, GaussNewton), k):
        return reference(task, v, out)
    kind, data, weights = row_data(task.phi)
    return xt_phi_x_triton.launch(
        task.x, v, kind, data, weights, task.scale, task.shift, task.ridge, out, task.deterministic,
        task.precision, lambda name, shape: task.empty(name, shape, v),
    )  # fmt: skip


WAYS = {"torch": reference, "native": _native, "triton": _launch}
