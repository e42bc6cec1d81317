"""Which data the levels and metrics see: batches that are summed, levels judged by the data they
learned from, metrics on no data that is held out.
"""

from __future__ import annotations

from collections.abc import Mapping

from bettyc.diagnostics.model import Diagnostic, Edit, Label, Suggestion
from bettyc.diagnostics.registry import report
from bettyc.diagnostics.span import Span
from bettyc.elaborate.scope import Unit
from bettyc.expr import Graph
from bettyc.grammar import ast
from bettyc.hierarchy import Hierarchy
from bettyc.model import Level, Model
from bettyc.planner.facts import Facts
from bettyc.types import Record, Tensor, tensors


def data_of(model: Model, graph: Graph, roots: list[int]) -> dict[str, int]:
    """The data sets and split parts that formulas read, directly or by a batch, each with one node
    that does.
    """
    draws = {d.name: d.of for d in model.draws}
    found: dict[str, int] = {}
    for root in roots:
        for index, node in graph.leaves(root):
            if node.op == "data":
                found.setdefault(node.attr("data"), index)
            elif node.op == "batch":
                found.setdefault(draws[node.attr("draw")], index)
    return found


def batch_sum(f: Facts, model: Model, graph: Graph, spans: Mapping[int, Span]) -> list[Diagnostic]:
    """MLO0416: `sum` over a batch axis."""
    draws = {d.name: d for d in model.draws}
    found = []
    for index in graph.reachable([f.level.objective]):
        node = graph[index]
        if node.op not in ("sum", "sumsq") or index not in spans:
            continue
        operand = graph[node.args[0]].type
        if (
            not isinstance(operand, Tensor)
            or not operand.shape
            or (isinstance(node.type, Tensor) and node.type.shape)
        ):
            continue
        batches = [draws[n.attr("draw")] for _, n in graph.leaves(node.args[0]) if n.op == "batch"]
        leading = {t.shape[0] for d in batches for t in _columns(d.type) if t.shape}
        if operand.shape[0] in leading and any(
            dict(d.options).get("batch") is not None for d in batches
        ):
            found.append(
                report(
                    "MLO0416",
                    spans[index],
                    dim=operand.shape[0],
                    label="one term per row of the batch",
                    suggestions=[Suggestion("use `mean`", (), "has-placeholders")],
                )
            )
    return found


def _columns(type_: object) -> list[Tensor]:
    return [t for _, t in tensors(type_)] if isinstance(type_, Record | Tensor) else []


def same_data(model: Model, graph: Graph, h: Hierarchy, unit: Unit) -> list[Diagnostic]:
    """MLO0502: lower and upper level learn from the same rows, so the upper one only helps the
    lower to overfit.
    """
    found = []
    shared = {d.name for d in model.draws if "." not in d.name}
    uses = {lv.name: data_of(model, graph, [lv.objective]) for lv in model.levels}
    parts = {p.name for s in model.splits for p in s.parts}
    has_rows = {d.name for d in model.data if d.rows is not None} | parts
    for p in h.levels:
        for q in h.starred[p]:
            lower, upper = model.level(q), model.level(p)
            game = lower.sense != upper.sense or any(d in shared for d in lower.draws)
            common = [d for d in uses[q] if d in uses[p] and d in has_rows]
            whole = [d for d in common if not _elsewhere(uses[p], d)]
            if whole and not game:
                found.append(_judged_by_itself(lower, upper, whole[0], unit))
    return found


def _judged_by_itself(lower: Level, upper: Level, name: str, unit: Unit) -> Diagnostic:
    """MLO0502 of a data set, which can be split; of one part of a split, another is there."""
    below, above = (_mentioned(unit, level.name, name) for level in (lower, upper))
    declared = unit.names.get(name)
    part = isinstance(declared, ast.Part)
    return report(
        "MLO0502",
        above[0] if above else upper.objective_span,
        name=name,
        lower=lower.name,
        upper=upper.name,
        label=f"`{upper.name}` is to judge what `{lower.name}` learned",
        secondary=[Label(below[0], "learned from here")] if below and not part else [],
        suggestions=_other_parts(name, unit, above)
        if part
        else [_split(name, declared, below, above)],
    )


def _split(name: str, declared: object, below: list[Span], above: list[Span]) -> Suggestion:
    edits: list[Edit] = []
    if isinstance(declared, ast.Data) and below and above:
        train, val = f"{name}_train", f"{name}_val"
        end = Span(declared.span.file, declared.span.end, declared.span.end)
        edits = [Edit(end, f"\nsplit {name} into {train} = 0.8, {val} = 0.2")]
        edits += [Edit(span, train) for span in below] + [Edit(span, val) for span in above]
    return Suggestion(
        f"split `{name}`, and use one part in each level",
        tuple(edits),
        "maybe-incorrect" if edits else "has-placeholders",
    )


def _other_parts(name: str, unit: Unit, mentions: list[Span]) -> list[Suggestion]:
    others = [p.name.text for p in unit.splits[name].parts if p.name.text != name]
    return [
        Suggestion(
            f"use `{other}`, another part of the split",
            tuple(Edit(span, other) for span in mentions),
            "maybe-incorrect",
        )
        for other in others
    ]


def _mentioned(unit: Unit, level: str, name: str) -> list[Span]:
    """Where a level's own text names a data set."""
    body = unit.levels[level].node.body
    names = [n for s in body for n in ast.walk(s) if isinstance(n, ast.Name)]
    return [n.span for n in names if n.id == name]


def _elsewhere(uses: Mapping[str, int], name: str) -> bool:
    """Does the upper level see other data as well?"""
    return any(d != name for d in uses)


def metrics(
    model: Model, graph: Graph, h: Hierarchy, spans: Mapping[int, Span]
) -> list[Diagnostic]:
    """MLO0505: metrics only on data that an upper level optimizes on, though a part is held out."""
    uppers = [p for p in h.levels if h.starred[p]]
    optimized = {d: p for p in uppers for d in data_of(model, graph, [model.level(p).objective])}
    rows = {p.name for s in model.splits for p in s.parts}
    seen = {d for lv in model.levels for d in data_of(model, graph, [lv.objective])}
    held_out = rows - seen
    used = {metric: data_of(model, graph, [metric.node]) for metric in model.metrics}
    if not held_out or any(set(u) & held_out for u in used.values()):
        return []
    found = []
    for metric, data in used.items():
        name = next((d for d in data if d in optimized), None)
        if name is not None and all(d in optimized for d in data):
            found.append(
                report(
                    "MLO0505",
                    metric.span,
                    metric=metric.name,
                    name=name,
                    level=optimized[name],
                    label="not held out",
                    notes=[f"no level sees `{min(held_out)}`: measure there"],
                )
            )
    return found
