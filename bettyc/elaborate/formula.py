"""Formulas: expressions of the language to nodes of the graph.

`def` and `let` are inlined; a `let` and an argument of a `def` are built once and their reads of
other levels counted at each use, so that `detach(loss)` detaches what `loss` reads only there.
"""

from __future__ import annotations

from typing import Any

from bettyc.diagnostics.model import Label
from bettyc.diagnostics.span import Span
from bettyc.elaborate import calls, constants, names, operators, responses
from bettyc.elaborate.constants import NotConstant
from bettyc.elaborate.context import Context
from bettyc.elaborate.declared import type_of
from bettyc.elaborate.scope import Scope
from bettyc.elaborate.values import BAD, Bad, Cell, Literal, Meaning, Net, Pending, Tens, describe
from bettyc.grammar import ast
from bettyc.ops import ShapeError
from bettyc.types import POISON, Poison, Tensor

BINARY = {
    "+": "add",
    "-": "sub",
    "*": "mul",
    "/": "div",
    "^": "pow",
    "**": "pow",
    "@": "matmul",
    "and": "and",
    "or": "or",
}
COMPARE = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}


def tensor(ctx: Context, node: ast.Expr, scope: Scope) -> int | None:
    """The node of a tensor expression, or None after a diagnostic."""
    return as_tensor(ctx, meaning(ctx, node, scope), node.span, scope)


def as_tensor(ctx: Context, found: Meaning, span: Span, scope: Scope) -> int | None:
    if isinstance(found, Tens):
        return found.node
    if isinstance(found, Literal) and isinstance(found.value, bool):
        return ctx.number(found.value, span)
    if isinstance(found, Net):
        ctx.report(
            "MLO0408",
            span,
            scope,
            name=found.name,
            label=f"`{found.name}(x)` applies it, `params({found.name})` is its parameter vector",
        )
    elif not isinstance(found, Bad):
        ctx.report("MLO0404", span, scope, expected="a tensor", found=describe(found))
    return None


def meaning(ctx: Context, node: ast.Expr, scope: Scope) -> Meaning:
    """What an expression stands for; BAD after a diagnostic."""
    handler = HANDLERS.get(type(node))
    if handler is None:
        ctx.report("MLO0404", node.span, scope, expected="a formula", found="another expression")
        return BAD
    found: Meaning = handler(ctx, node, scope)
    if isinstance(found, Tens):
        ctx.place(found.node, node.span)
    return found


def apply(
    ctx: Context,
    op: str,
    operands: list[int | None],
    nodes: list[ast.Expr],
    span: Span,
    scope: Scope,
    **attrs: Any,
) -> Meaning:
    """An operator on evaluated operands; reports what does not fit, with the operands labelled."""
    if any(o is None for o in operands):
        return BAD
    known = [o for o in operands if o is not None]
    if any(isinstance(ctx.graph[o].type, Poison) for o in known):
        return BAD
    try:
        return Tens(operators.build(ctx.graph, op, known, attrs))
    except ShapeError as error:
        operators.misfit(ctx, error, op, known, nodes, span, scope)
        return BAD


def _number(ctx: Context, node: ast.Number, scope: Scope) -> Meaning:
    return Tens(ctx.number(node.value))


def _bool(ctx: Context, node: ast.Bool, scope: Scope) -> Meaning:
    return Literal(node.value)


def _string(ctx: Context, node: ast.String, scope: Scope) -> Meaning:
    return Literal(node.value)


def let(ctx: Context, pending: Pending, span: Span, scope: Scope) -> Meaning:
    """The value of a `let`, built at first use."""
    if pending.busy:
        ctx.report(
            "MLO0206",
            span,
            scope,
            name=pending.node.name.text,
            label="needed for its own definition",
            secondary=[Label(pending.node.name.span, "defined here")],
        )
        return BAD
    if pending.cell is None:
        pending.busy = True
        with ctx.recording() as reads:
            inner = Scope(scope.unit, pending.level, where="let")
            found = meaning(ctx, pending.node.value, inner)
            annotation = getattr(pending.node, "type", None)
            if annotation is not None:
                found = annotated(ctx, found, annotation, pending.node.value, inner)
        pending.cell = Cell(found, tuple(reads))
        pending.busy = False
    ctx.replay(pending.cell.reads)
    return pending.cell.meaning


def annotated(
    ctx: Context, found: Meaning, annotation: ast.Type, node: ast.Expr, scope: Scope
) -> Meaning:
    """Check a value against a written type; the written dims that are not declared are generic."""
    from bettyc.elaborate.values import unify

    if not isinstance(found, Tens):
        return found
    generic: set[str] = set()
    declared = type_of(ctx, annotation, scope, generic)
    given = ctx.graph[found.node].type
    if declared != POISON and not unify(declared, given, {}, frozenset(generic)):
        ctx.report(
            "MLO0404",
            node.span,
            scope,
            expected=f"`{declared}`",
            found=f"`{given}`",
            secondary=[Label(annotation.span, "declared here")],
        )
        return BAD
    return found


def _unary(ctx: Context, node: ast.Unary, scope: Scope) -> Meaning:
    if node.op == "-" and isinstance(node.operand, ast.Number):
        return Tens(ctx.number(-node.operand.value))
    operand = tensor(ctx, node.operand, scope)
    return apply(
        ctx, "neg" if node.op == "-" else "not", [operand], [node.operand], node.span, scope
    )


def _binary(ctx: Context, node: ast.Binary, scope: Scope) -> Meaning:
    left, right = tensor(ctx, node.left, scope), tensor(ctx, node.right, scope)
    if (
        left is not None
        and right is not None
        and not operators.same_structure(ctx, left, right, node, scope)
    ):
        return BAD
    return apply(ctx, BINARY[node.op], [left, right], [node.left, node.right], node.span, scope)


def _compare(ctx: Context, node: ast.Compare, scope: Scope) -> Meaning:
    operands = [tensor(ctx, node.left, scope), tensor(ctx, node.right, scope)]
    return apply(ctx, COMPARE[node.op], operands, [node.left, node.right], node.span, scope)


def _if(ctx: Context, node: ast.If, scope: Scope) -> Meaning:
    condition = meaning(ctx, node.condition, scope)
    if isinstance(condition, Literal) and isinstance(condition.value, bool):
        return _static_if(ctx, node, condition.value, scope)
    nodes = [node.condition, node.then, node.otherwise]
    operands = [
        as_tensor(ctx, condition, node.condition.span, scope),
        tensor(ctx, node.then, scope),
        tensor(ctx, node.otherwise, scope),
    ]
    return apply(ctx, "where", operands, nodes, node.span, scope)


def _static_if(ctx: Context, node: ast.If, condition: bool, scope: Scope) -> Meaning:
    """A condition known at compile time chooses an arm; the other is checked, and does not count
    as read.
    """
    chosen, other = (node.then, node.otherwise) if condition else (node.otherwise, node.then)
    with ctx.recording():
        left_out = meaning(ctx, other, scope)
    found = meaning(ctx, chosen, scope)
    if isinstance(found, Tens) and isinstance(left_out, Tens):
        types = [ctx.graph[m.node].type for m in (found, left_out)]
        shapes = [t.shape if isinstance(t, Tensor) else None for t in types]
        if shapes[0] != shapes[1]:
            left, right = types if condition else types[::-1]
            ctx.report(
                "MLO0414",
                node.span,
                scope,
                left=left,
                right=right,
                secondary=[
                    Label(node.then.span, f"`{left}`"),
                    Label(node.otherwise.span, f"`{right}`"),
                ],
            )
            return BAD
    return found


def _subscript(ctx: Context, node: ast.Subscript, scope: Scope) -> Meaning:
    base = tensor(ctx, node.base, scope)
    spec: list[tuple[Any, ...]] = []
    operands: list[int | None] = [base]
    nodes: list[ast.Expr] = [node.base]
    for item in node.indices:
        if isinstance(item, ast.Slice):
            try:
                bounds = [_bound(ctx, b, scope) for b in (item.low, item.high)]
            except NotConstant:
                return BAD
            spec.append(("all",) if bounds == [None, None] else ("slice", *bounds))
        elif isinstance(item, ast.Name) and item.id == "new":
            spec.append(("new",))
        else:
            index = tensor(ctx, item, scope)
            if index is None:
                return BAD
            constant = ctx.graph[index]
            if constant.op == "const" and isinstance(constant.attr("value"), int):
                spec.append(("at", constant.attr("value")))
                continue
            spec.append(("take", len(operands)))
            operands.append(index)
            nodes.append(item)
            if base is not None:
                operators.same_rows(ctx, base, index, len(spec) - 1, item.span, scope)
    return apply(ctx, "index", operands, nodes, node.span, scope, spec=tuple(spec))


def _bound(ctx: Context, node: ast.Expr | None, scope: Scope) -> Any:
    if node is None:
        return None
    found = constants.dim(ctx, node, scope)
    return found.value if found.value is not None else found.terms


def _list(ctx: Context, node: ast.List, scope: Scope) -> Meaning:
    """`[a, b, c]` of scalars is a vector."""
    operands = [tensor(ctx, item, scope) for item in node.items]
    return apply(ctx, "stack", operands, list(node.items), node.span, scope)


# What other files know, looked up when it is called: they import this one.
def _name(ctx: Context, node: ast.Name, scope: Scope) -> Meaning:
    return names.of_name(ctx, node, scope)


def _field(ctx: Context, node: ast.Field, scope: Scope) -> Meaning:
    return names.of_field(ctx, node, scope)


def _response(ctx: Context, node: ast.Response, scope: Scope) -> Meaning:
    return responses.response(ctx, node, scope)


def _call(ctx: Context, node: ast.Call, scope: Scope) -> Meaning:
    return calls.call(ctx, node, scope)


HANDLERS: dict[type, Any] = {
    ast.Number: _number,
    ast.Bool: _bool,
    ast.String: _string,
    ast.Name: _name,
    ast.Field: _field,
    ast.Response: _response,
    ast.Unary: _unary,
    ast.Binary: _binary,
    ast.Compare: _compare,
    ast.If: _if,
    ast.Subscript: _subscript,
    ast.List: _list,
    ast.Call: _call,
}
