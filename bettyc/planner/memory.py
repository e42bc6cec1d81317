"""Does what `unroll` keeps fit into the memory of the device? (`plan --memory`)

Each step that is kept needs the variables, the optimizer's state, and what autograd saves of one
evaluation of the objective; with `recompute` the variables and the state only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from bettyc.diagnostics.model import Diagnostic
from bettyc.diagnostics.registry import report
from bettyc.expr import Graph
from bettyc.model import Call
from bettyc.plan import LevelPlan, Plan
from bettyc.planner import cost
from bettyc.planner.facts import span_of

# Tensors of the size of the variables that an optimizer keeps; sgd has one with momentum.
STATE = {"adam": 2, "adamw": 2, "rmsprop": 1, "sign_sgd": 0}


def check(plan: Plan) -> list[Diagnostic]:
    """MLO0613 for each level that is unrolled beyond the memory of the plan's device."""
    available = device_memory(plan.device)
    return [
        report(
            "MLO0613",
            span_of(plan.model.level(level.name), "hypergrad") or plan.model.level(level.name).span,
            strategy=level.strategy.name,
            needed=shown(needed),
            available=shown(available),
            label=f"{kept(level)} steps are kept",
            notes=["use `unroll(truncate = 5)`, `unroll(recompute = true)`, or `cg`"],
        )
        for level, needed in _needs(plan, plan.graph())
        if needed > available
    ]


def _needs(plan: Plan, graph: Graph) -> Iterator[tuple[LevelPlan, int]]:
    """Bytes that differentiating each unrolled level takes, where that is known."""
    for level in plan.levels:
        if level.strategy.name != "unroll" or level.size is None:
            continue
        width = cost.BYTES[level.precision]
        step = level.size * (1 + _state(level.optimizer)) * width
        if not level.strategy.get("recompute"):
            saved = cost.memory(graph, [plan.model.level(level.name).objective], level.precision)
            if saved is None:
                continue
            step += saved
        yield level, kept(level) * step


def kept(level: LevelPlan) -> int:
    """How many steps an unrolled level keeps."""
    steps = level.steps or 1
    truncate = level.strategy.get("truncate")
    return min(steps, truncate) if isinstance(truncate, int) and truncate else steps


def _state(optimizer: Call) -> int:
    if optimizer.name == "sgd":
        return 1 if optimizer.get("momentum") else 0
    return STATE.get(optimizer.name, 1)


def device_memory(device: str) -> int:
    """Bytes of the device that a plan asks for; `auto` is a visible GPU, else the machine."""
    if device != "cpu":
        import torch

        if torch.cuda.is_available():
            return int(torch.cuda.get_device_properties(0).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def shown(size: int) -> str:
    """`1.5 GB`, in powers of 1000."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:,.0f} TB" if amount >= 10 else f"{amount:.3g} TB"
