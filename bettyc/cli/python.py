"""`--emit python`: the straight-line torch code of every objective, derivative and metric."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bettyc import emit
from bettyc.expr import Graph, Node
from bettyc.plan import Plan

# What a derivative may call, by the word that stands for it.
IMPORTS = {
    "torch": "import torch",
    "one_pass": "from bettyc.kernels.one_pass import one_pass",
    "rows": "from bettyc.kernels.rows import rows",
    "positive": "from bettyc.runtime.domains import positive",
    "unit": "from bettyc.runtime.domains import unit",
    "interval": "from bettyc.runtime.domains import interval",
}


def source(plan: Plan) -> str:
    """One Python function per level, in the order of the plan, then one per metric, then the
    derivatives: the text that the runtime executes, and that runs by itself.

    Levels that maximize return the negative of their objective, as the runtime minimizes. Dims
    without a size leave out the derivatives, which are written for sizes.
    """
    from bettyc.runtime.written import derivatives

    graph = plan.graph()
    written = derivatives(plan)
    words = set(re.findall(r"\w+", " ".join(written.values())))
    parts = [
        f'"""{plan.model.name}: objectives and derivatives, written by bettyc {plan.bettyc}."""',
        "\n".join(line for word, line in IMPORTS.items() if word in words or word == "torch"),
    ]
    for name in plan.order:
        level = plan.model.level(name)
        node = level.objective if level.sense == "minimize" else graph.add("neg", level.objective)
        parts += _functions(graph, node, plain(name))
    for metric in plan.model.metrics:
        parts += _functions(graph, metric.node, f"metric_{plain(metric.name)}")
    parts += [text.strip("\n") for text in written.values()]
    if plan.opt and not written:
        parts.append("# No derivatives in closed form: plain autograd, or dims without a size.")
    return "\n\n\n".join(parts) + "\n"


def _functions(graph: Graph, node: int, name: str) -> list[str]:
    """The function, after those of the replica bodies in it."""
    bodies: list[str] = []

    def opaque(index: int, found: Node, operands: Sequence[str]) -> str:
        if found.op == "replicas":
            body = f"{name}_each_{plain(str(found.attr('level')))}"
            bodies.extend(_functions(graph, found.args[0], body))
            return f"torch.{found.attr('reduce')}(over_replicas({body}), 0)"
        title = plain(str(found.attr("name") or found.op))
        return f"{title}({', '.join(operands)})"

    text = emit.function(graph, [node], name=name, leaf=leaf, opaque=opaque)
    return [*bodies, text.rstrip("\n")]


def leaf(index: int, node: Node) -> str:
    """The argument that a leaf becomes: `fit_w`, `train_x`."""
    owner = node.attr("level") or node.attr("data") or node.attr("draw")
    field = node.attr("name") or node.attr("field")
    return plain(f"{owner}_{field}" if field else str(owner))


def plain(name: str) -> str:
    """An identifier out of a dotted name."""
    return re.sub(r"\W", "_", name)
