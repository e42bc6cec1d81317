"""The operator registry.

`OPS` are the operators that nodes of the expression graph have; `FUNCTIONS` are the names that
users call, most of them operators, the others formulas over operators (`Op.expand`).
"""

from __future__ import annotations

from bettyc.ops import arithmetic, control, formulas, linear, loss, pointwise, reduce, shape
from bettyc.ops.control import OPAQUE
from bettyc.ops.initial import INITIAL, Initial
from bettyc.ops.row import Op, Parameter, ShapeError, build

OPS: dict[str, Op] = {
    **arithmetic.ROWS,
    **pointwise.ROWS,
    **reduce.ROWS,
    **linear.ROWS,
    **shape.ROWS,
    **loss.ROWS,
    **control.ROWS,
}

FUNCTIONS: dict[str, Op] = {
    **{n: op for n, op in OPS.items() if not op.internal and n not in arithmetic.ROWS},
    **formulas.ROWS,
}

__all__ = [
    "FUNCTIONS",
    "INITIAL",
    "OPAQUE",
    "OPS",
    "Initial",
    "Op",
    "Parameter",
    "ShapeError",
    "build",
]
