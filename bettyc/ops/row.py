"""What a row of the operator registry holds.

One row per operator: signature as users write it, shape rule, smoothness, curvature rule, derivative
rules, torch lowering, fusion class, one line of documentation. Documentation, completion and the
per-operator tests are generated from the rows. Nothing here imports torch: a lowering is text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from bettyc.types import Type

if TYPE_CHECKING:
    from bettyc.expr import Graph, Node


class ShapeError(Exception):
    """Operands that do not fit. The elaborator turns it into a diagnostic with spans.

    code: the diagnostic, e.g. "MLO0401"; operands: positions to label; fields: for the message;
    hint: a sentence or None.
    """

    def __init__(
        self, code: str, operands: Sequence[int] = (), hint: str | None = None, **fields: Any
    ) -> None:
        super().__init__(code, fields)
        self.code = code
        self.operands = tuple(operands)
        self.hint = hint
        self.fields = fields


@dataclass(frozen=True)
class Parameter:
    """A parameter of a function as users write it.

    An operand is a tensor expression and becomes an argument of the node; the others are compile-time
    constants and become attributes. `default` REQUIRED means it must be given.
    """

    name: str
    operand: bool = True
    default: Any = None
    required: bool = True
    variadic: bool = False


Types: TypeAlias = Sequence[Type]
ShapeRule: TypeAlias = Callable[[Types, Mapping[str, Any]], Type]
# (operand texts, attributes, operand types, result type) -> a torch expression
Lowering: TypeAlias = Callable[[Sequence[str], Mapping[str, Any], Types, Type], str]
# (graph, the node's index, cotangent's index) -> one cotangent (or None) per operand
Reverse: TypeAlias = "Callable[[Graph, int, int], list[int | None]]"
# (graph, the node's index, tangents of the operands, None where zero) -> tangent or None
Forward: TypeAlias = "Callable[[Graph, int, Sequence[int | None]], int | None]"
# (graph, parameters bound to operand nodes / constants) -> node: a function that is a formula
Expand: TypeAlias = "Callable[..., int]"


@dataclass(frozen=True)
class Op:
    """A row of the registry.

    smooth: "smooth" (C-infinity on its domain), "piecewise" (differentiable almost everywhere),
        "flat" (derivative zero almost everywhere: sign, argmax, comparisons).
    blocked: operand positions that carry no gradient (labels, indices).
    curvature: the rule of `bettyc.calculus.curvature` for this operator: "linear" (jointly linear),
        "affine_in" (bilinear: affine in either operand), "convex", "quadratic", "glm", "any".
    fusion: "pointwise", "reduce", "matmul", "gather", "shape", "opaque".
    expand: set for functions that are formulas over other operators; such a name never is a node.
    internal: not a function of the language (made by the calculus or the elaborator).
    """

    name: str
    parameters: tuple[Parameter, ...]
    doc: str
    shape: ShapeRule
    torch: Lowering | None = None
    smooth: str = "smooth"
    blocked: tuple[int, ...] = ()
    curvature: str = "any"
    fusion: str = "pointwise"
    reverse: Reverse | None = None
    forward: Forward | None = None
    expand: Expand | None = None
    internal: bool = False
