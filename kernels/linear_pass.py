"""one_pass.py's products on a GPU, where phi is linear in the shape of one of phi.py.

    mul z w                                  Diagonal(w)
    mul z p; sum %1; sub z %2; mul %3 q      Centred(p, q), the Hessian of softmax regression

Factors may stand in either order, and w may be one value per row. Other programs are for torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bettyc.kernels import xt_phi_x_triton
from bettyc.kernels.phi import Centred, Diagonal, Phi
from bettyc.kernels.rows import INSTRUCTIONS, Program, Rows
from bettyc.kernels.xt_phi_x import Product

MUL, SUB, SUM = (INSTRUCTIONS.index(op) for op in ("mul", "sub", "sum"))


def product(
    x: Tensor,
    like: Tensor,
    rows: Rows,
    data: Sequence[Tensor],
    scale: float = 1.0,
    shift: float = 0.0,
    ridge: Tensor | None = None,
    turned: bool = False,
) -> Product | None:
    """The product for vectors such as `like`; None where no kernel computes it."""
    if turned or like.requires_grad or not like.is_contiguous() or x.stride(-1) != 1:
        return None
    columns = 1 if like.dim() == 1 else like.shape[1]
    shape = (x.shape[0],) if like.dim() == 1 else (x.shape[0], columns)
    phi = of(rows.program, [t.to(like.dtype) for t in data], shape)
    if phi is None or not xt_phi_x_triton.fits(False, columns):
        return None
    if ridge is not None:
        ridge = ridge.to(like.dtype).expand_as(like).contiguous()
    return Product(x, phi, like, scale=scale, shift=shift, ridge=ridge)


def of(program: Program, data: Sequence[Tensor], shape: tuple[int, ...]) -> Phi | None:
    """The phi that a program is, for z of this shape; None where it is none of them."""
    if (
        program.keep
        or program.numbers
        or program.result != len(program.kinds) + len(program.lines) - 1
    ):
        return None
    lines = [(op, a, b) for op, a, b, *_ in program.lines]
    first = len(program.kinds)  # the slot of the first line's result
    if len(lines) == 1:
        factor = _factor(lines[0], 0, program, ("matrix", "column"))
        if factor is None:
            return None
        w = data[factor - 1]
        w = w if w.numel() == torch.Size(shape).numel() else w.reshape(-1, 1).expand(shape)
        return Diagonal(w.reshape(shape).contiguous())
    if len(lines) != 4 or len(shape) != 2:
        return None
    p, q = _factor(lines[0], 0, program), _factor(lines[3], first + 2, program)
    middle = lines[1][:2] == (SUM, first) and lines[2] == (SUB, 0, first + 1)
    if p is None or q is None or not middle:
        return None
    return Centred(data[p - 1].contiguous(), data[q - 1].contiguous())


def _factor(
    line: tuple[int, int, int], slot: int, program: Program, kinds: Sequence[str] = ("matrix",)
) -> int | None:
    """The operand from outside that a line multiplies `slot` by."""
    op, a, b = line
    other = b if a == slot else a
    if op != MUL or slot not in (a, b) or not 0 < other < len(program.kinds):
        return None
    return other if program.kinds[other] in kinds else None
