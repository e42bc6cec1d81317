"""Types as they are written, to types."""

from __future__ import annotations

from bettyc.elaborate.constants import NotConstant, dim, unknown_type
from bettyc.elaborate.context import Context
from bettyc.elaborate.scope import Scope
from bettyc.grammar import ast
from bettyc.types import POISON, Dim, Module, Record, Tensor, Text, Type

SCALARS = ("real", "int", "bool")


def type_of(
    ctx: Context,
    node: ast.Type,
    scope: Scope,
    generic: set[str] | None = None,
    bound: dict[str, Dim] | None = None,
) -> Type:
    """The type that an annotation means; POISON after a diagnostic."""
    if isinstance(node, ast.RecordType):
        return Record(
            tuple((f.name.text, type_of(ctx, f.type, scope, generic, bound)) for f in node.fields)
        )
    name = node.base.text
    if name == "str":
        return Text()
    if name == "module":
        return Module((), POISON)
    if name not in SCALARS:
        unknown_type(ctx, node, (*SCALARS, "str", "module"))
        return POISON
    try:
        labels = dim(ctx, node.labels, scope, generic, bound) if node.labels is not None else None
        shape = tuple(dim(ctx, d, scope, generic, bound) for d in node.dims or ())
    except NotConstant:
        return POISON
    return Tensor(name, shape, labels)
