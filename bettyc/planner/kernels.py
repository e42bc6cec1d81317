"""The kernels that a level's derivatives and its solve will use, and why.

What the runtime finds in the formulas of a level (`bettyc.onepass`) is looked for here too, so that
the plan can say it. The device decides between the ways of one kernel when the program runs.
"""

from __future__ import annotations

from bettyc.calculus.hoist import hoist
from bettyc.calculus.products import Opaque, directions, product
from bettyc.expr import Graph
from bettyc.model import Call, Level
from bettyc.onepass import DATA, rewrite
from bettyc.ops import OPAQUE, OPS
from bettyc.plan import Kernel
from bettyc.strategies import STRATEGIES
from bettyc.types import Tensor

WHOLE = "; where its formula is compiled (-O2), the whole solve is one call"
ONCE = "compiled C on a CPU; on a GPU Triton, for weights and softmax; else torch, in two passes"


def kernels(graph: Graph, level: Level, strategy: Call, total: str, precision: str) -> list[Kernel]:
    """For a level that is differentiated through: its Hessian product, and its solve.

    graph: nodes are added to it.
    """
    plain = _not_by_formula(graph, level, strategy, total, precision)
    if plain is not None:
        return [Kernel("product", "autograd", plain), *_solve(strategy, plain)]
    own = [
        i for i, n in graph.leaves(level.objective)
        if n.op == "var" and n.attr("level") == level.name
    ]  # fmt: skip
    if not own:
        return []
    if not _meets_data(graph, level.objective):
        return [
            Kernel("product", "torch", "its formula, line by line: no product with data in it"),
            *_solve(strategy, "its products are formulas in torch"),
        ]
    along = directions(graph, own)
    second = product(graph, level.objective, own, along)
    assert not isinstance(second, Opaque)
    passes: list[int] = []

    def change(roots: list[int]) -> list[int]:
        found = rewrite(graph, roots, along.values())
        # a pass without a result is X V alone
        passes.extend(
            i for i in graph.reachable(found.roots)
            if graph[i].op == "one_pass" and graph[i].attr("result") is not None
        )  # fmt: skip
        return found.roots

    hoisted = hoist(graph, second, along.values(), change)
    if not passes:
        reason = "its formula, line by line: rows of the data meet each other in it"
        return [Kernel("product", "torch", reason), *_solve(strategy, reason)]
    data = ", ".join(sorted({_title(graph, graph[i].args[0]) for i in passes}))
    found = [Kernel("product", "one_pass", f"X^T phi(X v), X = {data}, is read once: {ONCE}")]
    root = graph[hoisted.roots[0]]
    whole = len(second) == 1 and root.op == "one_pass" and root.args[1] in along.values()
    if whole and all(v.domain is None for v in level.variables):
        return [*found, *_solve(strategy, None)]
    return [*found, *_solve(strategy, "other terms stand beside the pass over the data")]


def _solve(strategy: Call, beside: str | None) -> list[Kernel]:
    """Of conjugate gradient; the others take their steps in torch. beside: why a solve is more than
    passes over the data.
    """
    if strategy.name != "cg":
        return []
    steps = "compiled C on a CPU, two launches a step and no wait on a GPU; else torch"
    if dict(strategy.named).get("precond") not in (None, "none"):
        return [Kernel("solve", "cg_precond", "vector updates in torch: it has a preconditioner")]
    if beside is not None:
        return [Kernel("solve", "cg_update", f"vector updates fused: {steps}; {beside}{WHOLE}")]
    reason = f"the whole solve is one call of C on a CPU; elsewhere cg_update: {steps}"
    return [Kernel("solve", "cg_pass", reason)]


def _not_by_formula(
    graph: Graph, level: Level, strategy: Call, total: str, precision: str
) -> str | None:
    """Why autograd takes the derivatives, or None."""
    if level.task is not None:
        return "it has replicas"
    if total == "total":
        return "its curvature goes through the levels below"
    if precision in ("bf16", "fp16"):
        return f"its precision is {precision}"
    opaque = {
        str(node.attr("name") or node.op)
        for node in (graph[i] for i in graph.reachable([level.objective]))
        if node.op in OPAQUE
        or node.op == "module"
        or (node.op in OPS and OPS[node.op].torch is None)
    }
    if opaque:
        names = ", ".join(f"`{name}`" for name in sorted(opaque))
        return f"no formula for {names}; {_twice(strategy)}"
    if any(v.domain is not None and v.domain.name == "simplex" for v in level.variables):
        return "a variable lies on a simplex"
    return None


def _twice(strategy: Call) -> str:
    """What becomes of operators that torch differentiates once, such as fused attention. Only a run
    finds them: they are inside of what comes from Python.
    """
    needs = STRATEGIES[strategy.name].needs
    if needs in ("nothing", "gradient") or strategy.name in ("sama", "zeroth_order"):
        return "no second derivative is taken"
    if strategy.name == "forward":
        return "an operator without a second derivative ends the run"
    return "operators without a second derivative get differences of gradients, with a warning"


def _meets_data(graph: Graph, objective: int) -> bool:
    """Whether a matrix of data is multiplied: all else would be looked at for nothing."""
    return any(
        graph[i].op == "matmul" and any(_matrix(graph, a) for a in graph[i].args)
        for i in graph.reachable([objective])
    )


def _matrix(graph: Graph, index: int) -> bool:
    node = graph[index]
    return node.op in DATA and isinstance(node.type, Tensor) and len(node.type.shape) == 2


def _title(graph: Graph, index: int) -> str:
    """A matrix as the program calls it."""
    node = graph[index]
    owner = node.attr("data") or node.attr("draw") or node.attr("level")
    return f"`{owner}.{node.attr('field')}`" if node.op in DATA else f"`{node.op}`"
