"""Linear algebra on the last two axes; axes before them are batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bettyc.ops import linear_rules as rules
from bettyc.ops.row import Lowering, Op, ShapeError, ShapeRule, Types, inputs, table
from bettyc.ops.rules import form, numeric, poisoned
from bettyc.types import Dim, Shape, Tensor, Type


def _matmul(types: Types, attrs: Mapping[str, Any]) -> Type:
    """vec @ vec, mat @ vec, vec @ mat, mat @ mat; batches are equal or on one side only."""
    bad = poisoned(types)
    if bad:
        return bad
    left, right = numeric("@", types, 0), numeric("@", types, 1)
    for position, operand in enumerate((left, right)):
        if not operand.shape:
            hint = "`@` wants vectors or matrices; write `*` for a scalar"
            raise ShapeError("MLO0401", [position], hint, op="@", left=left, right=right)
    inner_left = left.shape[-1]
    inner_right = right.shape[-2] if len(right.shape) > 1 else right.shape[0]
    if inner_left != inner_right:
        raise _disagree(left, right, inner_left, inner_right)
    batch_left, batch_right = left.shape[:-2], right.shape[:-2]
    if batch_left and batch_right and batch_left != batch_right:
        pair = next(
            ((a, b) for a, b in zip(batch_left, batch_right, strict=False) if a != b),
            (batch_left[0], batch_right[0]),
        )
        raise _disagree(left, right, *pair)
    rows = left.shape[-2:-1]
    columns = right.shape[-1:] if len(right.shape) > 1 else ()
    return Tensor("real", (*(batch_left or batch_right), *rows, *columns))


def _disagree(left: Tensor, right: Tensor, a: Dim, b: Dim) -> ShapeError:
    hint = None
    if len(left.shape) == len(right.shape) == 2 and left.shape[0] == right.shape[0]:
        hint = "write `transpose(a) @ b`"
    return ShapeError(
        "MLO0401", [0, 1], hint, op="@", left=left, right=right, dim_left=a, dim_right=b
    )


def _square(op: str, types: Types, position: int = 0) -> Shape:
    found = numeric(op, types, position)
    if len(found.shape) < 2 or found.shape[-1] != found.shape[-2]:
        raise form(op, position, found, "a square matrix")
    return found.shape


def _of_square(op: str, drop: int) -> ShapeRule:
    """A function of square matrices; `drop` of the two axes go away."""

    def rule(types: Types, attrs: Mapping[str, Any]) -> Type:
        bad = poisoned(types)
        if bad:
            return bad
        shape = _square(op, types)
        return Tensor("real", shape[: len(shape) - drop])

    return rule


def _solve(types: Types, attrs: Mapping[str, Any]) -> Type:
    bad = poisoned(types)
    if bad:
        return bad
    matrix, right = _square("solve", types), numeric("solve", types, 1)
    if len(matrix) != 2 or len(right.shape) not in (1, 2):
        raise form("solve", 1, right, "a matrix, and a vector or matrix beside it")
    if right.shape[0] != matrix[-1]:
        left = Tensor("real", matrix)
        dims: dict[str, Any] = {"dim_left": matrix[-1], "dim_right": right.shape[0]}
        raise ShapeError("MLO0401", [0, 1], op="solve", left=left, right=right, **dims)
    return Tensor("real", right.shape)


def _diag(types: Types, attrs: Mapping[str, Any]) -> Type:
    bad = poisoned(types)
    if bad:
        return bad
    found = numeric("diag", types, 0)
    if len(found.shape) == 1:
        return Tensor("real", found.shape * 2)
    if len(found.shape) == 2:
        return Tensor("real", _square("diag", types)[:1])
    raise form("diag", 0, found, "a vector or a square matrix")


def _matmul_text(args: Sequence[str], attrs: Mapping[str, Any], types: Types, result: Type) -> str:
    return f"{args[0]} @ {args[1]}"


def _call(function: str) -> Lowering:
    def text(args: Sequence[str], attrs: Mapping[str, Any], types: Types, result: Type) -> str:
        return f"{function}({', '.join(args)})"

    return text


ROWS = table(
    Op(
        "matmul",
        inputs("x", "y"),
        "Matrix product; of two vectors, their inner product.",
        _matmul,
        _matmul_text,
        curvature="bilinear",
        fusion="matmul",
        reverse=rules.matmul_reverse,
        forward=rules.matmul_forward,
    ),
    Op(
        "diag",
        inputs("x"),
        "The diagonal matrix of a vector, or the diagonal of a matrix.",
        _diag,
        _call("torch.diag"),
        curvature="linear",
        fusion="shape",
        reverse=lambda node, g: (g.call("diag"),),
        forward=lambda node, tangents: tangents[0] and tangents[0].call("diag"),
    ),
    Op(
        "solve",
        inputs("a", "b"),
        "The solution x of a @ x = b, for a square nonsingular a.",
        _solve,
        _call("torch.linalg.solve"),
        fusion="matmul",
        reverse=rules.solve_reverse,
        forward=rules.solve_forward,
    ),
    Op(
        "inv",
        inputs("a"),
        "The inverse of a nonsingular matrix; `solve` is cheaper and more accurate.",
        _of_square("inv", 0),
        _call("torch.linalg.inv"),
        fusion="matmul",
        reverse=rules.inv_reverse,
        forward=rules.inv_forward,
    ),
    Op(
        "logdet",
        inputs("a"),
        "Logarithm of the determinant, which must be positive.",
        _of_square("logdet", 2),
        _call("torch.logdet"),
        fusion="matmul",
        reverse=rules.logdet_reverse,
        forward=rules.logdet_forward,
    ),
)
