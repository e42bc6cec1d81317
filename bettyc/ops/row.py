"""What a row of the operator registry holds.

One row per operator: signature as users write it, shape rule, smoothness, curvature rule,
derivative rules, torch lowering, fusion class, one line of documentation. Documentation, completion
and the per-operator tests are generated from the rows. Nothing here imports torch: a lowering is
text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from bettyc.types import Type

if TYPE_CHECKING:
    from bettyc.expr import Graph
    from bettyc.ops.term import Term


class ShapeError(Exception):
    """Operands that do not fit. The elaborator turns it into a diagnostic with spans.

    code: the diagnostic; operands: positions to label; hint: a sentence or None; fields: for the
    message, always `op` (the operator's name) and by code

        MLO0401  left, right (types); dim_left, dim_right where two dims disagree
        MLO0402  left, right (types); result, the type NumPy would give, where it would
        MLO0404  expected, found
        MLO0405  labels, classes
        MLO0406  index, size
        MLO0407  found, indices
        MLO0408  found
        MLO0414  left, right
        MLO0417  axis, found: the operand has no such axis
        MLO0418  expected, found: the operand has the wrong number of axes or another form
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

    An operand is a tensor expression and becomes an argument of the node; the others are
    compile-time constants and become attributes. A parameter that is not required has `default`.
    """

    name: str
    operand: bool = True
    default: Any = None
    required: bool = True
    variadic: bool = False

    def __str__(self) -> str:
        name = f"{self.name}..." if self.variadic else self.name
        if self.required:
            return name
        return f"{name} = {'none' if self.default is None else self.default}"


Types: TypeAlias = Sequence[Type]
ShapeRule: TypeAlias = Callable[[Types, Mapping[str, Any]], Type]
# (operand texts, attributes, operand types, result type) -> a torch expression
Lowering: TypeAlias = Callable[[Sequence[str], Mapping[str, Any], Types, Type], str]
# (the node, its cotangent) -> one cotangent (or None) per operand
Reverse: TypeAlias = "Callable[[Term, Term], Sequence[Term | None]]"
# (the node, tangents of the operands, None where zero) -> tangent or None
Forward: TypeAlias = "Callable[[Term, Sequence[Term | None]], Term | None]"
# (graph, parameters bound to operand nodes / constants) -> node: a function that is a formula
Expand: TypeAlias = "Callable[..., int]"


@dataclass(frozen=True)
class Op:
    """A row of the registry.

    smooth: "smooth" (C-infinity on its domain), "piecewise" (differentiable almost everywhere),
        "flat" (derivative zero almost everywhere: sign, argmax, comparisons).
    kinks: where a piecewise operator is not differentiable, in words.
    blocked: operand positions that carry no gradient (labels, indices).
    curvature: the rule of `bettyc.calculus.curvature` for this operator: "linear" (jointly linear),
        "bilinear" (linear in either operand), "convex", "concave", "affine" (linear but for a
        constant), "any"; pointwise rules with a sign or a slope are in that module's own table.
    fusion: "pointwise", "reduce", "matmul", "gather", "shape", "opaque".
    promotes: operand positions where int and bool become real (`Graph.add` inserts `real`), or None
        for all of them when the result is real.
    expand: set for functions that are formulas over other operators; such a name never is a node.
    internal: not a function of the language (made by the calculus or the elaborator).
    """

    name: str
    parameters: tuple[Parameter, ...]
    doc: str
    shape: ShapeRule
    torch: Lowering | None = None
    smooth: str = "smooth"
    kinks: str = ""
    blocked: tuple[int, ...] = ()
    curvature: str = "any"
    fusion: str = "pointwise"
    promotes: tuple[int, ...] | None = None
    reverse: Reverse | None = None
    forward: Forward | None = None
    expand: Expand | None = None
    internal: bool = False

    @property
    def signature(self) -> str:
        """`clip(x, lo, hi)`, as documentation and hover show it."""
        return f"{self.name}({', '.join(map(str, self.parameters))})"

    def attributes(self, types: Types, given: Mapping[str, Any]) -> dict[str, Any]:
        """The attributes in canonical form: defaults filled in, axes counted from the front.

        So `softmax(x)` and `softmax(x, axis = 1)` of a matrix are one node. Raises ShapeError.
        """
        known = {k: v for k, v in given.items() if v is not None}
        for parameter in self.parameters:
            if not parameter.operand and parameter.default is not None:
                known.setdefault(parameter.name, parameter.default)
        if "axis" in known and self.name != "stack":  # whose axis is one of the result
            from bettyc.ops.rules import canonical_axis

            known["axis"] = canonical_axis(self.name, types[0], known["axis"])
        return known


def inputs(*names: str) -> tuple[Parameter, ...]:
    """Required operands; `xs...` takes any number."""
    return tuple(Parameter(n.rstrip("."), variadic=n.endswith("...")) for n in names)


def constant(name: str, default: Any) -> Parameter:
    """An optional compile-time constant."""
    return Parameter(name, operand=False, default=default, required=False)


def unsized(types: Types, attrs: Mapping[str, Any]) -> Type:
    """The shape rule of operators whose type is given when they are made (`Graph.make`)."""
    raise TypeError("this operator is made with Graph.make, which states its type")


def table(*rows: Op) -> dict[str, Op]:
    """Rows by name."""
    return {row.name: row for row in rows}


def build(graph: Graph, op: str, operands: Sequence[int], attrs: Mapping[str, Any]) -> int:
    """A call of a function as users write it: a node, or the formula it stands for."""
    from bettyc.ops import FUNCTIONS

    row = FUNCTIONS[op]
    if row.expand is None:
        return graph.add(op, *operands, **attrs)
    return row.expand(graph, *operands, **attrs)
