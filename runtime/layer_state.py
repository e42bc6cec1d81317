"""What a layer keeps from call to call, as data: variables, optimizers, samplers, memories."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from bettyc.diagnostics.registry import report
from bettyc.failures import InputError
from bettyc.plan import Plan
from bettyc.runtime.run import Run
from bettyc.runtime.state import fresh


def pack(run: Run, group: Collection[str]) -> dict[str, Any]:
    """Copies of the state of the levels in `group`."""
    state = run.state.snapshot()
    return {
        "theta": {n: x for n, x in state.theta.items() if n in group},
        "optimizer": {n: x for n, x in state.optimizer.items() if n in group},
        "counts": {n: [state.gradients[n], state.updates[n], state.starts[n]] for n in group},
        "buffers": {k: b for k, b in state.buffers.items() if _owner(k) in group},
        "memory": state.memory,
        "draws": {n: draw.state() for n, draw in run.draws.items() if draw.ready},
        "tasks": {n: task.state() for n, task in run.tasks.items() if task.ready},
    }


def unpack(run: Run, group: Collection[str], packed: Mapping[str, Any]) -> None:
    """Put it back, in the run's precision and on its device. Raises InputError (MLO0803)."""
    state = run.state
    shapes = {n: tuple(state.theta[n].shape) for n in group}
    theta = packed.get("theta", {})
    if shapes != {n: tuple(x.shape) for n, x in theta.items()}:
        raise InputError(report("MLO0803", None, path="state_dict"))
    like = next(iter(state.theta.values()))
    state.theta.update({n: _as(x, like) for n, x in theta.items()})
    state.optimizer.update({n: _all(x, like) for n, x in packed["optimizer"].items()})
    for name, (gradients, updates, starts) in packed["counts"].items():
        state.gradients[name], state.updates[name] = int(gradients), int(updates)
        state.starts[name] = int(starts)
    state.buffers.update({k: _all(b, like) for k, b in packed["buffers"].items()})
    state.memory.clear()
    state.memory.update(_all(packed["memory"], like))
    for name, held in packed["draws"].items():
        run.draws[name].restore({k: _as(x, like) for k, x in held.items()})
    for name, held in packed["tasks"].items():
        run.tasks[name].restore(held)


def in_precision(plan: Plan, precision: str) -> Plan:
    """The plan with all variables in another precision."""
    levels = tuple(
        replace(p, precision=precision if p.precision == plan.precision else p.precision)
        for p in plan.levels
    )
    return replace(plan, precision=precision, levels=levels)


def beginning(run: Run, level: str) -> Tensor:
    """The free variables of a level where a run begins."""
    stage = run.stages[level]
    return fresh(run._parts.linked, stage.level, run.seed, 0, stage.replicas).theta


def _owner(key: str) -> str:
    return key.partition(".")[0]


def _all(tensors: Mapping[str, Tensor], like: Tensor) -> dict[str, Tensor]:
    return {name: _as(x, like) for name, x in tensors.items()}


def _as(x: Any, like: Tensor) -> Any:
    """A copy in the precision and on the device of `like`; what is no real tensor keeps its
    kind.
    """
    if not isinstance(x, Tensor):
        return x
    return x.detach().to(like.device, like.dtype if x.is_floating_point() else x.dtype, copy=True)
