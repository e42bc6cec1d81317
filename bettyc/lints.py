"""Pedantic findings: programs that run, and could say better what they mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from bettyc.diagnostics.model import Diagnostic, Edit, Label, Suggestion
from bettyc.diagnostics.registry import report
from bettyc.diagnostics.span import Span
from bettyc.elaborate.scope import KINDS, Unit
from bettyc.expr import Graph
from bettyc.grammar import ast
from bettyc.hierarchy import Hierarchy
from bettyc.model import Model
from bettyc.planner.facts import Facts, span_of, word

LINTED = (ast.Param, ast.ExternFn, ast.ExternModule, ast.ExternSource, ast.Def, ast.DimDecl)
IMPLICIT = ("cg", "neumann", "exact", "minres", "gmres", "nystrom")


def check(
    model: Model,
    graph: Graph,
    h: Hierarchy,
    facts: Mapping[str, Facts],
    spans: Mapping[int, Span],
    unit: Unit,
) -> list[Diagnostic]:
    found = _unused(unit)
    found += _exponentials(model, graph, h, spans)
    for f in facts.values():
        found += _rates(f, facts, h)
        found += _stationary(f)
        found += _half_precision(f, model)
    found += _held_out(model, graph, h)
    found += _constants(unit)
    return found


def _unused(unit: Unit) -> list[Diagnostic]:
    """MLO0901. A name is used when anything mentions it."""
    mentioned: Counter[str] = Counter()
    for item in unit.file.items:
        for node in ast.walk(item):
            if isinstance(node, ast.Name):
                mentioned[node.id] += 1
    for split in {id(s): s for s in unit.splits.values()}.values():
        mentioned[split.of.text] += 1
    found = []
    for node in unit.names.values():
        if isinstance(node, (*LINTED, ast.Draw)) and not mentioned[node.name.text]:
            found.append(_unused_report(node))
    for level in unit.levels.values():
        inside: Counter[str] = Counter(
            n.id for s in level.node.body for n in ast.walk(s) if isinstance(n, ast.Name)
        )
        for member in level.members.values():
            if isinstance(member, ast.Let | ast.Draw) and not inside[member.name.text]:
                found.append(_unused_report(member))
    return found


def _unused_report(node: Any) -> Diagnostic:
    suggestions = (
        []
        if isinstance(node, ast.DimDecl)
        else [Suggestion("remove it", (Edit(node.span, ""),), "machine-applicable")]
    )
    return report(
        "MLO0901",
        node.name.span,
        kind=KINDS[type(node)],
        name=node.name.text,
        label="never used",
        suggestions=suggestions,
    )


def _exponentials(
    model: Model, graph: Graph, h: Hierarchy, spans: Mapping[int, Span]
) -> list[Diagnostic]:
    """MLO0902: `exp(upper.v)` of an unconstrained variable."""
    uppers = {p for p in h.levels if h.starred[p]}
    found = []
    for index, span in spans.items():
        node = graph[index]
        if node.op != "exp":
            continue
        leaf = graph[node.args[0]]
        if leaf.op != "var" or leaf.attr("level") not in uppers:
            continue
        variable = next(
            v for v in model.level(leaf.attr("level")).variables if v.name == leaf.attr("name")
        )
        if variable.domain is None:
            path = f"{leaf.attr('level')}.{variable.name}"
            found.append(
                report(
                    "MLO0902",
                    span,
                    variable=path,
                    label="keeps it positive",
                    secondary=[
                        Label(variable.span, "`in positive` does this, and reports natural units")
                    ],
                )
            )
    return found


def _rate(f: Facts) -> float | None:
    value = f.optimizer.get("lr")
    return value if isinstance(value, float) else None


def _rates(f: Facts, facts: Mapping[str, Facts], h: Hierarchy) -> list[Diagnostic]:
    """MLO0903. Only where both levels use the same kind of optimizer: rates of sgd and adam do not
    compare.
    """
    upper_rate = _rate(f)
    for q in sorted(h.starred[f.name]):
        lower = facts[q]
        rate = _rate(lower)
        same = lower.optimizer.name == f.optimizer.name
        if upper_rate is not None and rate and same and upper_rate > 100 * rate:
            return [
                report(
                    "MLO0903",
                    span_of(f.level, "optimizer"),
                    upper_rate=f"{upper_rate:g}",
                    upper=f.name,
                    lower_rate=f"{rate:g}",
                    lower=q,
                )
            ]
    return []


def _stationary(f: Facts) -> list[Diagnostic]:
    """MLO0904: one step below an implicit strategy."""
    if f.strategy.name not in IMPLICIT or f.solves or (f.steps or 1) > 1:
        return []
    return [
        report(
            "MLO0904",
            span_of(f.level, "hypergrad"),
            level=f.name,
            steps="1 step",
            strategy=f.strategy.name,
            notes=["the implicit gradient is biased: `one_step`, `unroll`, or more steps"],
        )
    ]


def _half_precision(f: Facts, model: Model) -> list[Diagnostic]:
    """MLO0804."""
    precision = word(f.level.setting("precision"), word(model.setting("precision"), "fp32"))
    if precision != "fp16" or f.strategy.name != "cg":
        return []
    return [
        report(
            "MLO0804",
            span_of(f.level, "hypergrad"),
            precision=precision,
            strategy="cg",
            level=f.name,
            notes=["conjugate gradient breaks down in half precision: `bf16` solves in fp32"],
        )
    ]


def _held_out(model: Model, graph: Graph, h: Hierarchy) -> list[Diagnostic]:
    """MLO0905: metrics, but none on data that no level learns from."""
    from bettyc.held_out import data_of

    if not model.metrics or not model.data:
        return []
    seen = {d for lv in model.levels for d in data_of(model, graph, [lv.objective])}
    used = [set(data_of(model, graph, [m.node])) for m in model.metrics]
    if any(u - seen for u in used):
        return []
    return [
        report(
            "MLO0905",
            model.metrics[0].span,
            label="every metric sees data that a level learns from",
        )
    ]


def _constants(unit: Unit) -> list[Diagnostic]:
    """MLO0907: the same unusual number three times or more."""
    places: dict[float, list[ast.Number]] = {}
    for level in unit.levels.values():
        for statement in level.node.body:
            if isinstance(statement, ast.Setting | ast.Var | ast.Module | ast.Draw):
                continue
            for node in ast.walk(statement):
                if isinstance(node, ast.Number) and node.value not in (0, 1, 2, 0.5, 10):
                    places.setdefault(node.value, []).append(node)
    return [
        report(
            "MLO0907",
            nodes[0].span,
            value=nodes[0].text,
            count=len(nodes),
            secondary=[Label(n.span, "again") for n in nodes[1:]],
        )
        for nodes in places.values()
        if len(nodes) >= 3
    ]
