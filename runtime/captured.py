"""What of a run is recorded in CUDA graphs, as functions of tensors (`bettyc.runtime.graphs`):

    steps       updates of one level in a row, from its batches to its variables
    adjoint     the hypergradient of a level: its gradient, every solve below it, the cross terms,
                and what the level's update makes of it

Between them Python decides: it draws batches, looks up learning rates, tells hooks and metrics, and
reads what the solves report. All of that reaches the functions as arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor

from bettyc.plan import Plan, Pull
from bettyc.runtime import inputs, loop
from bettyc.runtime.adjoint import (
    Found,
    Lower,
    hypergradient,
    report_of_pull,
    report_of_solve,
)
from bettyc.runtime.follow import HOOKS
from bettyc.runtime.graphs import Arguments, Graphs, Work
from bettyc.runtime.objective import Frame, Objective
from bettyc.runtime.optimizers.arithmetic import InPlace
from bettyc.runtime.optimizers.rate import Clock
from bettyc.runtime.passes import Slope
from bettyc.runtime.report import Hypergradient, Report
from bettyc.runtime.slope import reason
from bettyc.runtime.stage import Foreseen, Stage
from bettyc.runtime.strategies import LAUNCHES
from bettyc.runtime.strategies.launched import Left
from bettyc.runtime.strategies.system import Solution, System
from bettyc.strategies import name_of

BUDGET = 64  # steps of a solve that are queued before it is known how many it takes
UNLIKE = 8  # solves in a row that have to be taken again, after which they are not recorded

Given = Mapping[str, Tensor]


class Captured:
    """The recorded functions of one run."""

    def __init__(self, plan: Plan, stages: Mapping[str, Stage], graphs: Graphs) -> None:
        self.graphs = graphs
        self.stages = stages
        self._plan = plan
        self._reasons = {(g.level, g.work): g.reason for g in plan.graphs}
        self._budgets: dict[str, int] = {}
        self._settled: set[str] = set()
        self._unlike: dict[str, int] = {}

    def why_not(self, level: str, work: str) -> str:
        """Why the steps or the adjoint of a level are not recorded; empty where they are."""
        refused = self.graphs.refused.get(f"{work} of {level}", "")
        return refused or self._reasons.get((level, work), "") or self._now(level, work)

    def _now(self, level: str, work: str) -> str:
        """What only a run knows."""
        stage = self.stages[level]
        if work == "update":
            return self.why_not(level, "adjoint") if stage.trajectory is None else "it is replayed"
        if work == "steps" and stage.hooks is not None:
            return "hooks are told of every update"
        pulls = self._plan.sweep(level) if work == "adjoint" else ()
        objectives = [self.stages[n].objective for n in (level, *(p.level for p in pulls))]
        once = next(filter(None, map(reason, objectives)), "")
        if once and work == "adjoint":
            return f"products are differences of gradients, as torch says: {once}"
        for name in dict.fromkeys(n for o in objectives for n in o.networks):
            network = stage.linked.networks[name]
            if network.buffers and name.startswith(f"{level}."):
                return f"an evaluation changes the buffers of `{name}`"
            if any(getattr(p, h, None) for p in network.module.modules() for h in HOOKS):
                return f"`{name}` has hooks"
        return ""

    # Updates in a row

    def takes(self, stage: Stage) -> bool:
        """Whether updates of the level are recorded."""
        return stage.gradient == stage.own_gradient and not self.why_not(stage.name, "steps")

    def steps(self, stage: Stage, count: int) -> None:
        """`count` updates of a level that `takes` says yes to, apart from `moved`."""
        name, state = stage.name, stage.state
        first, theta, memory = state.gradients[name], stage.theta[name], state.optimizer[name]
        frames = self._frames(stage, count)
        arguments = Arguments()
        function = _steps(stage, arguments, frames, first, memory)
        made = self.graphs.call(f"steps of {name}", function, arguments)
        assert made is not None
        if stage.trajectory is not None:
            if stage.stale:
                stage.trajectory.clear()
            below = {n: stage.theta[n] for n in stage.below}
            for k, frame in enumerate(frames):
                stage.trajectory.add(theta, memory, frame, below, first + k)
        stage.theta[name] = made.tensors["theta"]
        state.optimizer[name] = _under("state/", made.tensors)
        losses = made.tensors["losses"].unbind()
        stage.losses += [loop.UNSEEN] * (count - len(losses))
        stage.losses += losses
        stage.stale = False

    def _frames(self, stage: Stage, count: int) -> list[Frame]:
        """What each of the updates sees; counts them, since masks depend on that."""
        found = []
        for k in range(count):
            for source in stage.owned if k else ():
                source.spent = True
            found.append(stage.feed.next())
            stage.state.gradients[stage.name] += 1
            stage.state.updates[stage.name] += 1
        return found

    # Hypergradients

    def adjoint(
        self,
        root: str,
        *,
        objectives: Mapping[str, Objective],
        theta: Mapping[str, Tensor],
        frames: Mapping[str, Frame],
        lowers: Mapping[str, Lower],
        pulls: Sequence[Pull],
        memory: Mapping[str, Tensor],
    ) -> Hypergradient | None:
        """The hypergradient of a level, None where it has to be computed without a graph."""
        if self.why_not(root, "adjoint"):
            return None
        name = f"adjoint of {root}"
        arguments = Arguments()
        function = self._adjoint(arguments, root, objectives, theta, frames, lowers, pulls, memory)
        work = self.graphs.call(name, function, arguments)
        if work is None:
            return None
        reports = _concluded(work)
        if reports is None:
            self._otherwise(name)
            return None
        self._unlike[name] = 0
        if name not in self._settled:
            self._settled.add(name)
            most = max((r.iterations for r in reports), default=0)
            self._budgets[name] = 16 * ceil((1.25 * most + 8) / 16)
        tensors = work.tensors
        if "theta" in tensors:
            state = _under("state/", tensors)
            self.stages[root].foreseen = Foreseen(tensors["grad"], tensors["theta"], state)
        kept = _under("memory/", tensors)
        return Hypergradient(tensors["grad"], tensors["loss"], reports, kept)

    def _otherwise(self, name: str) -> None:
        """A solve went another way than was recorded: perhaps it took more steps."""
        self._unlike[name] = self._unlike.get(name, 0) + 1
        if self._unlike[name] > UNLIKE:
            self.graphs.refuse(name, "its solves go another way again and again")
            return
        self._budgets[name] = 2 * self._budgets.get(name, BUDGET)
        self.graphs.forget(name)

    def _adjoint(
        self,
        arguments: Arguments,
        root: str,
        objectives: Mapping[str, Objective],
        theta: Mapping[str, Tensor],
        frames: Mapping[str, Frame],
        lowers: Mapping[str, Lower],
        pulls: Sequence[Pull],
        memory: Mapping[str, Tensor],
    ) -> Callable[[Given], Work]:
        levels = [root, *(pull.level for pull in pulls)]
        stages = [self.stages[level] for level in levels]
        names, kept = list(theta), list(memory)
        arguments.tensors |= {f"theta/{n}": x for n, x in theta.items()}
        arguments.tensors |= {f"memory/{n}": x for n, x in memory.items()}
        for stage in stages:
            inputs.guard(arguments, stage)
        seen = {s.name: inputs.frame_of(arguments, s.name, s.feed, frames[s.name]) for s in stages}
        under = {
            p.level: inputs.lower_of(arguments, self.stages[p.level], lowers[p.level])
            for p in pulls
        }
        budget = self._budgets.get(f"adjoint of {root}", BUDGET)
        update = None if self.why_not(root, "update") else _update(arguments, self.stages[root])

        def function(given: Given) -> Work:
            pending: list[_Pending] = []

            def through(system: System, options: Any) -> Found:
                launched = _through(system, options, budget)
                pending.append(launched[0])
                return launched[1]

            found = hypergradient(
                root,
                objectives=objectives,
                theta={n: given[f"theta/{n}"] for n in names},
                frames={n: build(given) for n, build in seen.items()},
                lowers={n: build(given) for n, build in under.items()},
                pulls=pulls,
                memory={n: given[f"memory/{n}"] for n in kept},
                through=through,
            )
            left = [x.double().reshape(-1) for p in pending for x in p.left.values()]
            tensors = {"grad": found.grad, "loss": found.loss}
            tensors |= {f"memory/{n}": x for n, x in found.memory.items()}
            if update is not None:
                tensors |= update(given, found.grad)
            if left:
                tensors["left"] = torch.cat(left)
            return Work(tensors, [p.bare() for p in pending])

        return function


@dataclass(frozen=True)
class _Pending:
    """A pull whose report waits for numbers. left: them, of which `bare` keeps the shapes only."""

    level: str
    root: str
    name: str
    mu: float | None
    products: int
    left: Left
    shapes: Mapping[str, tuple[int, ...]]
    conclude: Callable[[Left], Any]

    def bare(self) -> _Pending:
        return replace(self, left={})

    def report(self, left: Left) -> Report | None:
        found = self.conclude(left)
        if found is None:
            return None
        if not isinstance(found, Solution):
            return report_of_pull(self.level, self.root, self.name, found)
        size = float(left["size"])
        return report_of_solve(
            self.level, self.root, self.name, found, size, self.products, self.mu
        )


def _through(system: System, options: Any, budget: int) -> tuple[_Pending, Found]:
    """One pull, queued."""
    name = name_of(options)
    launched = LAUNCHES[name](system, options, budget)
    left, cross, products = dict(launched.left), launched.cross, 0
    if launched.u is not None:
        dtype = system.theta[system.level].dtype
        cross = system.products.cross(launched.u.to(dtype))
        products = system.products.count
        left["size"] = torch.linalg.vector_norm(system.rhs)
    shapes = {n: tuple(x.shape) for n, x in left.items()}
    made = _Pending(
        system.level, system.root, name, system.mu, products, left, shapes, launched.conclude
    )
    assert cross is not None
    return made, Found(cross, Report(system.level, system.root, name), launched.memory)


def _concluded(work: Work) -> tuple[Report, ...] | None:
    """The reports, from one look at the device; None where a pull has to be taken again."""
    numbers, at, found = work.tensors.get("left", torch.empty(0)).cpu(), 0, []
    for pending in work.host:
        left = {}
        for name, shape in pending.shapes.items():
            left[name] = numbers[at : at + prod(shape)].reshape(shape)
            at += prod(shape)
        report = pending.report(left)
        if report is None:
            return None
        found.append(report)
    return tuple(found)


def _steps(
    stage: Stage,
    arguments: Arguments,
    frames: Sequence[Frame],
    first: int,
    memory: Mapping[str, Tensor],
) -> Callable[[Given], Work]:
    """The function of `Captured.steps`: updates number `first` and on."""
    name, count, fixed = stage.name, len(frames), stage.feed.fixed
    # a formula of an option may read any level
    others = stage.theta if stage.options.formulas else [r.level for r in stage.level.reads]
    names = list(dict.fromkeys([name, *others]))
    arguments.tensors |= {f"theta/{n}": stage.theta[n] for n in names}
    arguments.tensors |= {f"state/{n}": x for n, x in memory.items()}
    inputs.guard(arguments, stage)
    seen = [
        inputs.frame_of(arguments, f"{name}/{k}", stage.feed, frame)
        for k, frame in enumerate(frames[:1] if fixed else frames)
    ]
    clocks = [inputs.clock_of(arguments, stage, first + k) for k in range(count)]
    kept = list(memory)
    arguments.key += [count]

    def function(given: Given) -> Work:
        theta = {n: given[f"theta/{n}"] for n in names}
        state = {n: given[f"state/{n}"] for n in kept}
        views = [build(given) for build in seen]
        ticks = [tick(given) for tick in clocks]
        if fixed and stage.objective.closed is not None and stage.simple and stage.replicas is None:
            own, state = _slopes(stage, theta, views[0], state, ticks[:-1])
            theta, losses, ticks = {**theta, name: own}, [], ticks[-1:]
        else:
            losses = []
        for k, tick in enumerate(ticks):
            loss, grad = stage.gradient_at(theta, views[0] if fixed else views[k])
            own, state = stage.advance(theta[name], grad, state, tick, theta)
            theta = {**theta, name: own}
            losses.append(loss)
        tensors = {"theta": theta[name], "losses": torch.stack(losses)}
        return Work(tensors | {f"state/{n}": x for n, x in state.items()})

    return function


def _update(arguments: Arguments, stage: Stage) -> Callable[[Given, Tensor], dict[str, Tensor]]:
    """The update of a level with a gradient that is computed in the same function."""
    memory = stage.state.optimizer[stage.name]
    names = inputs.named(arguments, "state", memory)
    clock, levels = (
        inputs.clock_of(arguments, stage, stage.state.gradients[stage.name]),
        list(stage.theta),
    )

    def update(given: Given, grad: Tensor) -> dict[str, Tensor]:
        theta = {n: given[f"theta/{n}"] for n in levels}
        state = {key: given[n] for key, n in names.items()}
        own, state = stage.advance(theta[stage.name], grad, state, clock(given), theta)
        return {"theta": own, **{f"state/{n}": x for n, x in state.items()}}

    return update


def _under(prefix: str, tensors: Given) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    return {n.removeprefix(prefix): x for n, x in tensors.items() if n.startswith(prefix)}


def _slopes(
    stage: Stage, theta: Given, frame: Frame, state: Given, ticks: Sequence[Clock]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Updates by the formula of the gradient, with what does not change computed once."""
    closed, rule, name = stage.objective.closed, stage.rule, stage.name
    assert closed is not None
    assert rule is not None
    own, memory = theta[name].clone(), {n: x.clone() for n, x in state.items()}
    with torch.no_grad():
        slope = closed.slope({**theta, name: own}, frame)
        assert not isinstance(slope, Slope)  # C, which is not recorded
        for tick in ticks:
            grad = slope()
            if grad.data_ptr() == own.data_ptr():
                grad = own.clone()
            options = stage.options.at(tick, {**theta, name: own})
            found, memory = rule.update(own, grad, memory, tick.update, options, InPlace)
            if found is not own:
                own.copy_(found)
    return own, memory
