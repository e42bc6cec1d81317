"""Operators and functions applied to operands, and what does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bettyc.diagnostics.model import Edit, Label, Suggestion
from bettyc.diagnostics.span import Span
from bettyc.elaborate import hints
from bettyc.elaborate.context import Context
from bettyc.elaborate.scope import Scope
from bettyc.expr import Graph
from bettyc.grammar import ast
from bettyc.ops import FUNCTIONS, ShapeError
from bettyc.ops import build as build_op
from bettyc.types import Tensor

SYMBOLS = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "pow": "^",
    "matmul": "@",
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "neg": "-",
    "where": "if",
    "index": "[]",
}


def build(graph: Graph, op: str, operands: Sequence[int], attrs: Mapping[str, Any]) -> int:
    """A function of the language or an operator."""
    return (
        build_op(graph, op, operands, attrs)
        if op in FUNCTIONS
        else graph.add(op, *operands, **attrs)
    )


def misfit(
    ctx: Context,
    error: ShapeError,
    op: str,
    operands: list[int],
    nodes: list[ast.Expr],
    span: Span,
    scope: Scope,
) -> None:
    """Operands that do not fit, with each labelled by its type."""
    f = dict(error.fields)
    name = SYMBOLS.get(str(f.get("op", op)), str(f.get("op", op)))
    labels = [
        Label(nodes[k].span, f"`{ctx.graph[operands[k]].type}`")
        for k in dict.fromkeys(error.operands)
        if k < len(nodes)
    ]
    primary = labels[0].span if len(labels) == 1 else span
    text = labels[0].text if len(labels) == 1 else ""
    secondary = labels[1:] if len(labels) == 1 else labels
    fields: dict[str, Any] = {}
    if error.code == "MLO0401":
        left, right = f.get("left"), f.get("right")
        fields = {
            "operator": name,
            "left": left,
            "right": right,
            "left_dim": f.get("dim_left", left),
            "right_dim": f.get("dim_right", right),
        }
    elif error.code in ("MLO0402", "MLO0414"):
        fields = {"left": f["left"], "right": f["right"]}
    elif error.code == "MLO0404":
        fields = {"expected": f"`{f['expected']}`", "found": f"`{f['found']}`"}
    elif error.code == "MLO0405":
        fields = {"labels": f["labels"], "classes": f["classes"]}
    elif error.code == "MLO0406":
        fields = {"index": f["index"], "size": f["size"]}
    elif error.code == "MLO0407":
        fields = {"type": f["found"], "given": f["indices"]}
    elif error.code == "MLO0408":
        fields = {"name": f["found"]}
    elif error.code == "MLO0417":
        fields = {"axis": f["axis"], "type": f["found"]}
    else:
        fields = {"function": name, "expected": f.get("expected"), "found": f.get("found")}
    notes = [error.hint] if error.hint else []
    if "result" in f:
        notes.append(f"NumPy would silently give `{f['result']}`")
    suggestions = _new_axis(nodes, error, operands, ctx) if error.code == "MLO0402" else []
    suggestions += hints.other_way_round(ctx.graph, op, operands, nodes)
    suggestions += hints.one_logit(ctx.graph, op, operands, span)
    ctx.report(
        error.code,
        primary,
        scope,
        label=text,
        secondary=secondary,
        notes=notes,
        suggestions=suggestions,
        **fields,
    )


def _new_axis(
    nodes: list[ast.Expr], error: ShapeError, operands: list[int], ctx: Context
) -> list[Suggestion]:
    """`a[:, new]` for the operand with fewer axes."""
    types = [ctx.graph[o].type for o in operands[:2]]
    if not all(isinstance(t, Tensor) for t in types):
        return []
    ranks = [len(t.shape) for t in types if isinstance(t, Tensor)]
    if sorted(ranks) != [1, 2]:
        return []
    short = nodes[ranks.index(1)].span
    at = Span(short.file, short.end, short.end)
    return [Suggestion("give it a second axis", (Edit(at, "[:, new]"),), "maybe-incorrect")]


def same_structure(ctx: Context, left: int, right: int, node: ast.Binary, scope: Scope) -> bool:
    """`params(a) - params(b)` of networks that differ is MLO0409."""
    a, b = ctx.graph[left], ctx.graph[right]
    if a.op != "params" or b.op != "params" or _structure(ctx, left) == _structure(ctx, right):
        return True
    first = next(
        (
            (x, y)
            for x, y in zip(_structure(ctx, left), _structure(ctx, right), strict=False)
            if x != y
        ),
        None,
    )
    notes = [f"first difference: {first[0]} and {first[1]}"] if first else []
    ctx.report(
        "MLO0409",
        node.span,
        scope,
        left=a.type,
        right=b.type,
        notes=notes,
        secondary=[Label(node.left.span, f"`{a.type}`"), Label(node.right.span, f"`{b.type}`")],
        suggestions=[
            Suggestion(
                'leave out what differs: `params(net, except = "...")`', (), "has-placeholders"
            )
        ],
    )
    return False


def _structure(ctx: Context, index: int) -> list[str]:
    node = ctx.graph[index]
    parts = [str(node.attr("except"))] if node.attr("except") else []
    for a in node.args:
        leaf = ctx.graph[a]
        while leaf.op in ("detach", "ema"):
            leaf = ctx.graph[leaf.args[0]]
        name = str(leaf.attr("name")).partition(".")[2]
        if leaf.op == "module":
            network = ctx.networks[leaf.attr("level"), leaf.attr("name")]
            parts.append(f"{network.extern} with {network.arguments}")
        else:
            parts.append(f"`{name}: {leaf.type}`")
    return parts


def same_rows(ctx: Context, base: int, index: int, axis: int, span: Span, scope: Scope) -> None:
    """MLO0509: a per-sample variable indexed by the rows of other data."""
    table, rows = ctx.graph[base], ctx.graph[index]
    if rows.op != "batch" or rows.attr("field") != "index" or table.op != "var":
        return
    if not isinstance(table.type, Tensor) or axis >= len(table.type.shape):
        return
    size = table.type.shape[axis]
    of = ctx.draws[rows.attr("draw")].of
    if ctx.rows.get(of) == size:
        return
    owner = next((name for name, dim in ctx.rows.items() if dim == size), None)
    if owner is None:
        return
    ctx.report(
        "MLO0509",
        span,
        scope,
        variable=f"{table.attr('level')}.{table.attr('name')}",
        data=owner,
        other=of,
        label=f"row numbers of `{of}`",
        notes=["index and variable must come from the same data set"],
    )
