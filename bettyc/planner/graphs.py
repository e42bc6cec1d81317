"""What of a program can be recorded in CUDA graphs: the updates of each level in a row, and the
hypergradient of each level above others, with the update that it is for. A reason where it cannot:
Python has to decide in between.

A run may find more, such as buffers of networks from Python (`bettyc.runtime.captured`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bettyc.model import Call, Level, Model
from bettyc.optimizers import OPTIMIZERS
from bettyc.plan import Captured, LevelPlan, Pull

HALF = ("bf16", "fp16")


def graphs(
    model: Model, levels: Sequence[LevelPlan], sweeps: Mapping[str, Sequence[Pull]], compat: str
) -> tuple[Captured, ...]:
    """From the lowest level to the highest. sweeps: the pulls of each level's gradient."""
    by_name = {p.name: p for p in levels}
    found = []
    for plan in levels:
        pulls = sweeps.get(plan.name, ())
        if pulls:
            why = _adjoint(model, plan, pulls, by_name) or _betty(compat)
            found.append(Captured(plan.name, "adjoint", why))
            if not why:
                found.append(Captured(plan.name, "update", _updates(plan)))
        else:
            why = _steps(model.level(plan.name), plan) or _betty(compat)
            found.append(Captured(plan.name, "steps", why))
    return tuple(found)


def _betty(compat: str) -> str:
    return f"`compat` takes the formulas of {compat}" if compat else ""


def _steps(level: Level, plan: LevelPlan) -> str:
    """Why the updates of a level are not recorded."""
    optimizer = OPTIMIZERS[plan.optimizer.name]
    if optimizer.solves:
        return f"`{plan.optimizer.name}` looks at numbers to choose what it does next"
    if plan.stop is not None:
        return "`stop` looks at the gradient after every update"
    if plan.precision in HALF:
        return f"its precision is {plan.precision}"
    if plan.strategy.name == "penalty":
        return "its `hypergrad` moves it too"
    if plan.strategy.get("truncate") or _keeps(plan.strategy):
        return f"`{plan.strategy.name}` keeps the variables of every update"
    return _updates(plan)


def _keeps(strategy: Call) -> bool:
    from bettyc.strategies import STRATEGIES

    return bool(getattr(STRATEGIES[strategy.name], "keep", 0))


def _adjoint(
    model: Model, root: LevelPlan, pulls: Sequence[Pull], levels: Mapping[str, LevelPlan]
) -> str:
    """Why the hypergradient of a level is not recorded."""
    if model.level(root.name).task is not None:
        return "it has replicas, which are solved one after another"
    if root.precision in HALF:
        return f"its precision is {root.precision}"
    for pull in pulls:
        why = _pull(model.level(pull.level), levels[pull.level])
        if why:
            return f"`{pull.level}`: {why}"
    return ""


def _pull(level: Level, plan: LevelPlan) -> str:
    """Why a pull through a level is not recorded."""
    from bettyc.strategies import STRATEGIES

    strategy = plan.strategy
    reason: str = STRATEGIES[strategy.name].waits
    if reason:
        return f"{strategy.name} {reason}"
    if plan.total == "total":
        return "its curvature goes through solves of the levels below"
    if plan.precision in HALF:
        return f"its precision is {plan.precision}"
    if level.task is not None and STRATEGIES[strategy.name].needs == "hvp":
        return "its replicas are solved on their own where they need it"
    if strategy.name == "neumann" and not strategy.get("lr"):
        return "neumann estimates its lr from products; give one"
    if strategy.get("precond") not in (None, "none"):
        return "the preconditioner is made from a look at its entries"
    return _updates(plan) if STRATEGIES[strategy.name].needs == "trajectory" else ""


def _updates(plan: LevelPlan) -> str:
    """Why an update with a given gradient is not recorded."""
    if not OPTIMIZERS[plan.optimizer.name].captured:
        return f"torch.optim runs `{plan.optimizer.name}` and counts its updates on the host"
    if plan.accumulate > 1:
        return "an update is the sum of several gradients"
    if plan.schedule is not None and dict(plan.schedule.named).get("cycle_momentum"):
        return "`cycle_momentum` moves more than the learning rate"
    return ""
