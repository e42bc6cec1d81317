"""MLO0620: can the score function tell how a level's response moves with what it samples from?

It can where `log_prob` is a function of batches that are drawn for this level alone, from a source
that reads a level above, and of what that source reads; and where the loss that is weighed against
it is the root's own function of the response.
"""

from __future__ import annotations

from collections.abc import Iterator

from bettyc.diagnostics.model import Diagnostic, Label
from bettyc.diagnostics.registry import report
from bettyc.expr import Graph
from bettyc.gradients import carried
from bettyc.hierarchy import Hierarchy
from bettyc.model import Call, DataSet, Formula, Model
from bettyc.planner.facts import Facts, span_of

EXAMPLE = (
    "for draws from a normal distribution around `tune.m`:"
    " `score(log_prob = sum(-0.5 * (b.x - tune.m)^2))`"
)


def missing(model: Model) -> list[Diagnostic]:
    """`score` without the log-probability, which nothing else can stand for."""
    said = {level.name: level.setting("hypergrad") for level in model.levels}
    return [
        report(
            "MLO0620",
            span_of(model.level(name), "hypergrad"),
            level=name,
            problem="it needs the log-probability of what was drawn, `log_prob`",
            notes=[EXAMPLE],
        )
        for name, call in said.items()
        if isinstance(call, Call)
        and call.name == "score"
        and not isinstance(call.get("log_prob"), Formula)
    ]


def check(f: Facts, model: Model, graph: Graph, h: Hierarchy) -> list[Diagnostic]:
    """The first reason why `hypergrad = score(...)` cannot go through a level, if there is any."""
    span = span_of(f.level, "hypergrad")
    if f.strategy.name != "score" or span is None:
        return []
    for problem, notes, secondary in _problems(f, model, graph, h):
        return [
            report("MLO0620", span, level=f.name, problem=problem, notes=notes, secondary=secondary)
        ]
    return []


Problem = tuple[str, list[str], list[Label]]


def _problems(f: Facts, model: Model, graph: Graph, h: Hierarchy) -> Iterator[Problem]:
    log_prob = f.strategy.get("log_prob")
    assert isinstance(log_prob, Formula)
    names = _drawn(graph, log_prob.node)
    sampled = [d for d in model.data if d.samples and d.name in names]
    if not sampled:
        yield (
            "its `log_prob` holds nothing that was drawn with a variable of another level",
            [EXAMPLE],
            [],
        )
    for data in sampled:
        yield from _of_draw(f, model, graph, data, log_prob.node)
    if f.level.task is not None:
        yield "it has a copy for each task", [], []
    if f.strategy.get("baseline") == "leave_one_out" and _count(f) < 2:
        notes = ["write `samples = 2` or more, or `baseline = none`"]
        yield "`leave_one_out` needs at least two samples", notes, []
    for reader in h.readers(f.name):
        for root in h.levels:
            if reader in h.below[root] and f.name in h.arrow(root, reader):
                at = h.starred[reader][f.name].span
                label = Label(at, f"`{reader}` is itself below `{root}`")
                yield f"`{root}` reads its response through that of `{reader}`", [], [label]


def _of_draw(
    f: Facts, model: Model, graph: Graph, data: DataSet, log_prob: int
) -> Iterator[Problem]:
    """What is wrong with one of the batches that `log_prob` is of."""
    if data.name not in f.level.draws:
        note = "draw it in the level and use it in the objective"
        yield f"`{data.name}` is not in its objective", [note], []
    others = [lv for lv in model.levels if lv.name != f.name and data.name in lv.draws]
    if others:
        label = Label(others[0].objective_span, f"`{others[0].name}` reads it too")
        note = f"draw it inside `{f.name}`: its response has to be all that the sample changes"
        yield f"`{data.name}` is not drawn for it alone", [note], [label]
    moving = carried(graph, log_prob)
    for ref in data.samples:
        level, _, name = ref.path.partition(".")
        if level != f.name and not any(o == level and _within(n, name) for o, n in moving):
            yield f"`{ref.path}` shapes what is drawn, but not its `log_prob`", [EXAMPLE], []


def _drawn(graph: Graph, root: int) -> set[str]:
    return {n.attr("draw") for _, n in graph.leaves(root) if n.op == "batch"}


def _within(name: str, owner: str) -> bool:
    """A variable, or a parameter `net.0.weight` of the network `net`."""
    return name == owner or name.startswith(f"{owner}.")


def _count(f: Facts) -> int:
    samples = f.strategy.get("samples")
    return samples if isinstance(samples, int) else 0
