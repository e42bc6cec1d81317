"""Does every level's objective feel its own variables? Directly, or through the responses it stars.

The pass follows the expression graph: a gradient does not pass `detach`, functions whose derivative
is zero almost everywhere (`argmax`, comparisons), and operands that are labels or indices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bettyc.diagnostics.model import Applicability, Diagnostic, Edit, Label, Suggestion
from bettyc.diagnostics.registry import report
from bettyc.diagnostics.span import Span
from bettyc.expr import LEAVES, Graph
from bettyc.hierarchy import Hierarchy
from bettyc.model import Call, Formula, Level, Model, Read, Ref
from bettyc.ops import OPS

OWNED = ("var", "module")


@dataclass(frozen=True)
class Cut:
    """Where a gradient ends: at which operator, and why ("detach", "flat", "blocked",
    "nondiff").
    """

    node: int
    reason: str
    operand: int = 0


class Flow:
    """What of each level's objective carries gradient. `spans` places the nodes."""

    def __init__(self, model: Model, graph: Graph, spans: Mapping[int, Span]) -> None:
        self.graph, self.spans = graph, spans
        levels = model.levels
        self.levels = {level.name: level for level in levels}
        self.arguments = {(e.name, k): p for e in model.externs for k, p in enumerate(e.parameters)}
        self.sampled = {
            (ref.path.partition(".")[0], d.name): d for d in model.data for ref in d.samples
        }
        self.carried: dict[str, frozenset[tuple[str, str]]] = {}
        self.cuts: dict[str, dict[tuple[str, str], Cut]] = {}
        for level in levels:
            roots = [level.objective, *formulas(level)]
            self.carried[level.name] = frozenset(
                owned for root in roots for owned in carried(graph, root)
            ) | started(model, level)
            self.cuts[level.name] = cut_reads(graph, roots, self.carried[level.name])

    def touches(self, reader: str, level: str) -> bool:
        """Does a variable of `level` carry gradient into the objective of `reader`?"""
        return any(owner == level for owner, _ in self.carried[reader])


def formulas(level: Level) -> list[int]:
    """Nodes of the level's settings that are formulas (a learning rate owned by another level)."""
    nodes: list[int] = []

    def visit(value: object) -> None:
        if isinstance(value, Formula):
            nodes.append(value.node)
        elif isinstance(value, Call):
            for v in (*value.positional, *(v for _, v in value.named)):
                visit(v)

    for setting in level.settings:
        visit(setting.value)
    return nodes


def started(model: Model, level: Level) -> frozenset[tuple[str, str]]:
    """What `start = copy(...)` copies, where the strategy differentiates the starting point."""
    value = level.setting("start")
    if not isinstance(value, Call) or value.name != "copy":
        return frozenset()
    source = value.positional[0]
    owner, _, name = source.path.partition(".") if isinstance(source, Ref) else ("", "", "")
    if any(
        r.level == owner and r.name == name and r.mode == "value" and not r.detached
        for r in level.reads
    ):
        network = next((n for n in model.level(owner).networks if n.name == name), None)
        names = network.variables if network is not None and network.variables else (name,)
        return frozenset((owner, n) for n in names)
    return frozenset()


def passes(graph: Graph, index: int) -> list[int]:
    """The operands of a node that gradient reaches."""
    node = graph[index]
    if node.op == "detach" or node.op == "ema" or node.op in LEAVES:
        return []
    row = OPS[node.op]
    if row.smooth == "flat":
        return []
    blocked = node.attr("nondiff") or row.blocked
    return [a for k, a in enumerate(node.args) if k not in blocked]


def carried(graph: Graph, root: int) -> set[tuple[str, str]]:
    """(level, name) of every variable and network that carries gradient into `root`."""
    found: set[tuple[str, str]] = set()
    seen, stack = {root}, [root]
    while stack:
        index = stack.pop()
        node = graph[index]
        if node.op in OWNED:
            found.add((node.attr("level"), node.attr("name")))
        for a in passes(graph, index):
            if a not in seen:
                seen.add(a)
                stack.append(a)
    return found


def cut_reads(
    graph: Graph, roots: Sequence[int], carry: frozenset[tuple[str, str]]
) -> dict[tuple[str, str], Cut]:
    """The variables that occur without carrying gradient, each with the operator that stops it."""
    cuts: dict[tuple[str, str], Cut] = {}
    seen: set[tuple[int, bool]] = set()
    stack: list[tuple[int, Cut | None]] = [(root, None) for root in roots]
    while stack:
        index, cut = stack.pop()
        if (index, cut is None) in seen:
            continue
        seen.add((index, cut is None))
        node = graph[index]
        if node.op in OWNED:
            key = (node.attr("level"), node.attr("name"))
            if cut is not None and key not in carry:
                cuts.setdefault(key, cut)
            continue
        through = set(passes(graph, index))
        for k, a in enumerate(node.args):
            if cut is not None or a in through:
                stack.append((a, cut))
                continue
            reason = "detach" if node.op in ("detach", "ema") else "flat"
            if reason == "flat" and k in (node.attr("nondiff") or ()):
                reason = "nondiff"
            elif reason == "flat" and k in OPS[node.op].blocked:
                reason = "blocked"
            stack.append((a, Cut(index, reason, k)))
    return cuts


def check(flow: Flow, hierarchy: Hierarchy) -> list[Diagnostic]:
    """MLO0310 to MLO0318, in the order of the levels."""
    found: list[Diagnostic] = []
    for level in flow.levels.values():
        if not level.variables and not level.networks:
            continue
        if flow.touches(level.name, level.name) or _feels_response(flow, hierarchy, level.name):
            continue
        found.append(_unreached(flow, hierarchy, level))
    if found:
        return found
    return _without_influence(flow) + _never_read(flow, hierarchy)


def _feels_response(flow: Flow, h: Hierarchy, root: str) -> bool:
    """Does a starred response carry gradient back to the root's own variables?"""
    stack = [q for q in h.starred[root] if flow.touches(root, q)]
    seen = set(stack)
    while stack:
        q = stack.pop()
        for r in h.arrow(root, q):
            if flow.touches(q, r):
                if r == root:
                    return True
                if r not in seen:
                    seen.add(r)
                    stack.append(r)
    return False


def _unreached(flow: Flow, h: Hierarchy, level: Level) -> Diagnostic:
    name = level.name
    for reader in [name, *sorted(h.below[name])]:
        for (owner, variable), cut in flow.cuts[reader].items():
            if owner == name:
                return _cut(flow, level, variable, cut)
    sampled = _sampling(level, flow)
    if sampled is not None:
        return sampled
    starred = [q for q in h.starred[name] if flow.touches(name, q)]
    if starred:
        return _never_arrives(level, h, starred)
    return _own_unused(flow, level, h)


def _cut(flow: Flow, level: Level, variable: str, cut: Cut) -> Diagnostic:
    span = flow.spans.get(cut.node, level.objective_span)
    op = flow.graph[cut.node].op
    secondary = [Label(level.span, "this level's variables need a gradient")]
    if cut.reason == "detach":
        return report(
            "MLO0312",
            span,
            level=level.name,
            label="no gradient passes here",
            secondary=secondary,
            notes=["remove the `detach`, or let another term carry the gradient"],
        )
    if cut.reason == "nondiff":
        function = flow.graph[cut.node].attr("name")
        return report(
            "MLO0316",
            span,
            level=level.name,
            function=function,
            argument=flow.arguments.get((function, cut.operand), str(cut.operand)),
            label="declared `nondiff`",
            secondary=secondary,
        )
    if cut.reason == "blocked":
        return report(
            "MLO0315",
            span,
            level=level.name,
            name=f"{level.name}.{variable}",
            label="labels and indices carry no gradient",
            secondary=secondary,
        )
    cures = {
        "argmax": "softmax",
        "round": "straight_through",
        "sign": "tanh",
        "gt": "sigmoid",
        "lt": "sigmoid",
    }
    cure = cures.get(op, "straight_through")
    return report(
        "MLO0314",
        span,
        level=level.name,
        function=op,
        label="its derivative is zero almost everywhere",
        secondary=secondary,
        suggestions=[
            Suggestion(f"use a smooth function, such as `{cure}`", (), "has-placeholders")
        ],
    )


def _sampling(level: Level, flow: Flow) -> Diagnostic | None:
    """MLO0313: the level's variables enter only through what a source samples with them."""
    reached = {
        node.attr("draw") or node.attr("data") for _, node in flow.graph.leaves(level.objective)
    }
    for (owner, name), data in flow.sampled.items():
        if owner == level.name and name in reached:
            return report(
                "MLO0313",
                data.span,
                level=level.name,
                source=data.source.name,
                label="sampling has no gradient",
                secondary=[
                    Label(level.objective_span, "the objective feels it only through the sample")
                ],
                notes=[
                    "draw reparametrised noise inside the objective, or read the value directly"
                ],
            )
    return None


def _never_arrives(level: Level, h: Hierarchy, starred: list[str]) -> Diagnostic:
    names = [v.name for v in level.variables if "." not in v.name] + [
        n.name for n in level.networks
    ]
    own = ", ".join(f"`{level.name}.{n}`" for n in names)
    read = h.starred[level.name][starred[0]]
    bare = f"{read.level}.{read.name}"
    return report(
        "MLO0311",
        read.span,
        level=level.name,
        variables=own,
        label=f"the solution of `{read.level}` does not depend on `{level.name}`",
        secondary=[Label(level.span, "its variables are read by no level below")],
        suggestions=[
            Suggestion(f"use {own} in the objective of `{starred[0]}`", (), "has-placeholders"),
            Suggestion("or drop the star", (Edit(read.span, bare),), "maybe-incorrect"),
        ],
    )


def _own_unused(flow: Flow, level: Level, h: Hierarchy) -> Diagnostic:
    suggestions: list[Suggestion] = []
    secondary: list[Label] = []
    for q, read in h.frozen[level.name].items():
        secondary.append(Label(read.span, f"the response of `{q}` is a constant here"))
        edits = _without_detach(flow, read)
        applies: Applicability = "maybe-incorrect" if edits else "has-placeholders"
        suggestions.append(Suggestion("remove the `detach` around it", edits, applies))
    if not suggestions:
        names = ", ".join(f"`{v.name}`" for v in level.variables if "." not in v.name)
        suggestions.append(
            Suggestion(
                f"use {names or 'its network'} in the objective, "
                "or star the level whose solution should carry it",
                (),
                "has-placeholders",
            )
        )
    return report(
        "MLO0310",
        level.objective_span,
        level=level.name,
        secondary=secondary,
        label="none of its own variables is in here",
        suggestions=suggestions,
    )


def _without_detach(flow: Flow, read: Read) -> tuple[Edit, ...]:
    """Take away a `detach(...)` that is written around one read and nothing else."""
    file, start, end = read.span
    around = Span(file, start - len("detach("), end + 1)
    if not any(s == around and flow.graph[n].op == "detach" for n, s in flow.spans.items()):
        return ()
    return Edit(Span(file, around.start, start), ""), Edit(Span(file, end, around.end), "")


def _without_influence(flow: Flow) -> list[Diagnostic]:
    everywhere = {owned for carry in flow.carried.values() for owned in carry}
    found = []
    for level in flow.levels.values():
        owned = [(v.name, v.span) for v in level.variables if not _of_network(level, v.name)]
        for name, span in owned:
            if (level.name, name) not in everywhere:
                found.append(
                    report(
                        "MLO0317",
                        span,
                        level=level.name,
                        name=name,
                        label="no objective depends on it",
                    )
                )
        for network in level.networks:
            names = network.variables or (network.name,)
            if not any((level.name, n) in everywhere for n in names):
                found.append(
                    report(
                        "MLO0317",
                        network.span,
                        level=level.name,
                        name=network.name,
                        label="no objective depends on it",
                    )
                )
    return found


def _of_network(level: Level, name: str) -> bool:
    return any(name in network.variables for network in level.networks)


def _never_read(flow: Flow, h: Hierarchy) -> list[Diagnostic]:
    if len(flow.levels) < 2:
        return []
    found = []
    read = {r.level for level in flow.levels.values() for r in level.reads if r.level != level.name}
    for level in flow.levels.values():
        if level.name not in read and not any(r.level != level.name for r in level.reads):
            found.append(
                report(
                    "MLO0318",
                    level.span,
                    level=level.name,
                    label="no other level reads it, and it reads none",
                )
            )
    return found
