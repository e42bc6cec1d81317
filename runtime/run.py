"""A run: an iterator with one output per update of the top level.

run = Run(plan, seed=0)
for out in run:
    print(out.step, out.loss["tune"], out.metrics)
run["tune"].log_wd
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bettyc.model import Call
from bettyc.plan import Plan, Pull, Repeat
from bettyc.runtime import checkpoint, metrics
from bettyc.runtime.adjoint import Lower, hypergradient
from bettyc.runtime.assemble import Assembly, assemble, device_of
from bettyc.runtime.captured import Captured
from bettyc.runtime.execute import Executor, Stopped
from bettyc.runtime.graphs import Graphs, engine
from bettyc.runtime.hooks import Hooks, Watched
from bettyc.runtime.loop import Later
from bettyc.runtime.lower import lower_of
from bettyc.runtime.nesting import Nest
from bettyc.runtime.objective import Frame
from bettyc.runtime.report import Hypergradient, Report
from bettyc.runtime.response import Point
from bettyc.runtime.stage import Stage
from bettyc.runtime.stopping import Early
from bettyc.runtime.variables import Variables
from bettyc.runtime.watch import watch
from bettyc.strategies import make


@dataclass(frozen=True)
class Output:
    """What one update of the top level did.

    step: its number, from 0. loss: each level's objective at its last gradient, as the program
    writes it (`maximize` included); of a `foreach` level the mean over replicas; computed when it
    is read where the steps did not need it. metrics: empty
    where they were not evaluated. reports: one per solve of the hypergradients. stopped: why the
    run ends here, or nothing.
    """

    step: int
    loss: Mapping[str, float]
    metrics: Mapping[str, float]
    reports: tuple[Report, ...] = ()
    grad_norm: Mapping[str, float] = field(default_factory=dict)
    stopped: str = ""


class Losses(Mapping[str, float]):
    """The losses of an output, each computed when it is read; at once where `now` says so."""

    def __init__(self, losses: Mapping[str, tuple[Tensor | Later, float]], now: bool) -> None:
        self._losses = losses
        self._known: dict[str, float] = {}
        for name, (loss, _) in losses.items():
            if now or not isinstance(loss, Later):
                self[name]

    def __getitem__(self, name: str) -> float:
        if name not in self._known:
            loss, sign = self._losses[name]
            value = loss.detach()
            self._known[name] = float(value if value.dim() == 0 else value.mean()) * sign
        return self._known[name]

    def known(self) -> list[float]:
        """Those that have been computed."""
        return list(self._known.values())

    def __contains__(self, name: object) -> bool:
        return name in self._losses  # that of Mapping would compute it

    def __iter__(self) -> Iterator[str]:
        return iter(self._losses)

    def __len__(self) -> int:
        return len(self._losses)

    def __repr__(self) -> str:
        return repr(dict(self))


class Gradients(dict[str, Tensor]):
    """A hypergradient by variable name, in the free coordinates of each variable; `flat` is all
    of it, shape (size,); `loss` the objective; `report` one certificate per solve.
    """

    def __init__(self, values: Mapping[str, Tensor], found: Hypergradient) -> None:
        super().__init__(values)
        self.flat = found.grad
        self.loss = found.loss
        self.report = found.reports


class Run:
    """A plan with its data, ready to run.

    data: values by data set name in place of the declared sources. externs: Python objects by name.
    device, seed: in place of the plan's. include: more folders to import Python from.
    hooks: functions to call at the moments of the run.
    Raises InputError for what does not fit.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        data: Mapping[str, Any] | None = None,
        externs: Mapping[str, Any] | None = None,
        device: str | None = None,
        seed: int | None = None,
        include: Sequence[str] = (),
        hooks: Hooks | None = None,
    ) -> None:
        self.plan = plan
        self.seed = plan.seed if seed is None else seed
        self.device = device_of(device or plan.device)
        self._parts: Assembly = assemble(
            plan,
            data=data or {},
            given=externs or {},
            device=self.device,
            seed=self.seed,
            include=tuple(include),
        )
        self.stages: dict[str, Stage] = self._parts.stages
        self.draws, self.tasks, self.sources = (
            self._parts.draws,
            self._parts.tasks,
            self._parts.sources,
        )
        self.state = self._parts.state
        self.reports: dict[str, tuple[Report, ...]] = {}
        self._pulls = {name: plan.sweep(name) for name in plan.order}
        self._objectives = {name: stage.objective for name, stage in self.stages.items()}
        self._nest = Nest({n: s.objective.reads for n, s in self.stages.items()}, plan.order)
        self._strategies = {
            pull.level: make(plan.level(pull.level).strategy)
            for pulls in self._pulls.values()
            for pull in pulls
        }
        self.norms: dict[str, Tensor] = {}
        self._stop_asked = False
        for name, stage in self.stages.items():
            if self._pulls[name]:
                stage.gradient = self._sweeping(stage, self._pulls[name])
        recorder = engine(self.device) if plan.cuda_graphs == "on" else None
        self.captured = None if recorder is None else Captured(plan, self.stages, Graphs(recorder))
        self.executor = Executor(
            plan.program,
            self.stages,
            self._moved,
            lambda: self._stop_asked,
            {*self._parts.averages, *(n for n, s in self.stages.items() if s.average is not None)},
            self.captured,
        )
        self.hooks = None if hooks is None else Watched(hooks, self.state)
        for stage in self.stages.values():
            stage.hooks, stage.clock = self.hooks, lambda: self.executor.step
        self._start_averages()
        stop = plan.model.setting("stop")
        self.early = Early.of_call(stop) if isinstance(stop, Call) else None
        self._outputs: Iterator[Output] | None = None
        self.finished = False

    # Running

    @property
    def step_count(self) -> int:
        """Updates of the top level so far."""
        return self.executor.step

    @property
    def total(self) -> int:
        """Updates of the top level in the whole run."""
        return next((i.times for i in reversed(self.plan.program) if isinstance(i, Repeat)), 0)

    @property
    def replicas(self) -> dict[str, str]:
        """How the copies of each `foreach` level are evaluated: "vmap", or "loop: " and why.

        With `replicas = auto` it is known after the first update.
        """
        return {name: found.taken for name, found in self._parts.linked.replicas.items()}

    @property
    def cuda_graphs(self) -> dict[str, str]:
        """What is recorded in CUDA graphs: "recorded", or why not, by "steps of LEVEL" and "adjoint
        of LEVEL". Empty where `run.cuda_graphs` is not `on`, and on a CPU.
        """
        if self.captured is None:
            return {}
        return {
            f"{g.work} of {g.level}": self.captured.why_not(g.level, g.work) or "recorded"
            for g in self.plan.graphs
        }

    def __iter__(self) -> Iterator[Output]:
        return self

    def __next__(self) -> Output:
        if self._outputs is None:
            self._outputs = self._run()
        return next(self._outputs)

    def step(self) -> Output:
        """One update of the top level, with all that comes before it. Raises StopIteration at the
        end.
        """
        return next(self)

    def to_end(self) -> Output | None:
        """Run on to the end; gives the last output, None where nothing was left to do."""
        last = None
        for last in self:  # noqa: B007 - the last one is the result
            pass
        return last

    def interrupt(self) -> None:
        """Ask the run to stop after the update at hand: the iterator then raises Stopped, and
        `save` writes a checkpoint from which it continues with the same bits. Safe to call from a
        signal handler.
        """
        self._stop_asked = True

    def _run(self) -> Iterator[Output]:
        if self.finished:
            return
        try:
            for step in self.executor.run():
                output = self._output(step)
                if output.stopped:
                    self.finished = True
                yield output
                if self.finished:
                    return
        except Stopped:
            self._outputs = None
            self._stop_asked = False
            self.executor.resume(self.executor.position, self.executor.step)
            raise
        self.finished = True

    def _output(self, step: int) -> Output:
        stages = list(self.stages.values())
        evaluated = self._evaluates(step)
        loss = Losses({s.name: (s.losses[-1], s.sign) for s in stages if s.losses}, evaluated)
        watch(stages, loss.known(), step)
        for stage in stages:
            stage.losses.clear()
        values = self.metrics() if evaluated else {}
        for name, stage in self.stages.items():
            for plateau in stage.options.plateaus if name in loss else ():
                plateau.look(loss[name] * stage.sign)
        stopped = self._early(loss, values)
        reports = tuple(r for name in self.plan.order for r in self.reports.get(name, ()))
        norms = {name: float(value) for name, value in self.norms.items()}
        if stopped and not evaluated:
            values = self.metrics()
        output = Output(step, loss, values, reports, norms, stopped)
        if self.hooks is not None:
            if values:
                self.hooks.call("on_validation", step, values)
            self.hooks.call("on_step", output)
        return output

    def _evaluates(self, step: int) -> bool:
        setting = self.plan.model.setting("eval")
        every = _number(setting, "n") if isinstance(setting, Call) else ceil(self.total / 100)
        return (step + 1) % max(every, 1) == 0 or step + 1 == self.total

    def _early(self, loss: Mapping[str, float], values: Mapping[str, float]) -> str:
        if self.early is None:
            return ""
        name = self.early.of
        value = (
            values.get(name) if not name.endswith(".loss") else loss.get(name.removesuffix(".loss"))
        )
        if value is None or not self.early.look(value):
            return ""
        return f"`{name}` has not improved in {self.early.patience} looks"

    def metrics(self) -> dict[str, float]:
        """Every metric at the present variables; at their averages, where a level has some."""
        theta, buffers = dict(self.state.theta), {}
        for name, stage in self.stages.items():
            if stage.average is not None and stage.average.theta is not None:
                theta[name] = stage.average.theta
                buffers |= stage.average.buffers()
        return metrics.evaluate(self._parts.metrics, self._parts.metric_feed, theta, buffers)

    # Hypergradients

    def hypergrad(self, level: str, respond: bool = True) -> Gradients:
        """The derivative of the level's objective along the responses of the levels below it.

        respond: first bring those levels to their responses, as the program would before the
        level moves, with their warm-ups where the run has not begun. The run is left as it was:
        variables, samplers and random numbers. Raises KeyError for a level that the program does
        not move.
        """
        if level not in self.stages:
            raise KeyError(f"no level `{level}`; there are {', '.join(self.plan.order)}")
        kept = checkpoint.capture(self)
        try:
            if respond:
                self.executor.respond(level)
            stage = self.stages[level]
            found = self._hypergradient(stage, self._pulls[level], stage.feed.next())
        finally:
            checkpoint.restore(self, kept)
        values = {}
        for slot in stage.layout.slots:
            if slot.trainable:
                part = found.grad[..., slot.start : slot.stop] * stage.sign
                values[slot.name] = part.reshape((*part.shape[:-1], *slot.free))
        signed = Hypergradient(found.grad * stage.sign, found.loss * stage.sign, found.reports)
        return Gradients(values, signed)

    def _sweeping(self, stage: Stage, pulls: tuple[Pull, ...]) -> Any:
        """The gradient of a level along the responses below it, as its updates use it."""

        def gradient(frame: Frame) -> tuple[Tensor, Tensor]:
            found = self._hypergradient(stage, pulls, frame, self.captured)
            stage.keep_buffers()
            self.reports[stage.name] = found.reports
            self.norms[stage.name] = torch.linalg.vector_norm(found.grad)
            memory = self.state.memory
            for key in [k for k in memory if k.startswith(f"{stage.name}/")]:
                del memory[key]
            memory.update(found.memory)
            if self.hooks is not None:
                self.hooks.call("on_hypergradient", stage.name, found)
            for lower, direction in found.directions.items():
                self.stages[lower].follow(direction)
            return found.loss, found.grad

        return gradient

    def _hypergradient(
        self,
        stage: Stage,
        pulls: tuple[Pull, ...],
        frame: Frame,
        captured: Captured | None = None,
    ) -> Hypergradient:
        frames = {name: s.feed.current() for name, s in self.stages.items() if name != stage.name}
        frames[stage.name] = frame
        given: dict[str, Any] = {
            "objectives": self._objectives,
            "theta": self.state.theta,
            "frames": frames,
            "lowers": self._lowers(pulls, frames),
            "pulls": pulls,
            "memory": {
                k: v for k, v in self.state.memory.items() if k.startswith(f"{stage.name}/")
            },
        }
        found = None if captured is None else captured.adjoint(stage.name, **given)
        return found or hypergradient(stage.name, **given)

    def _lowers(self, pulls: tuple[Pull, ...], frames: Mapping[str, Frame]) -> dict[str, Lower]:
        strategies = {pull.level: self._strategies[pull.level] for pull in pulls}
        point = Point(self._nest, self._objectives, frames, self.state.theta, strategies)
        return {pull.level: lower_of(self.stages[pull.level], point) for pull in pulls}

    def _moved(self, level: str) -> None:
        """After an update: its batches are used up, and what is below begins a new trajectory."""
        for source in self._parts.owners[level]:
            source.spent = True
        for lower in self._pulls[level]:
            self.stages[lower.level].stale = True
        for node, decay, formula in self._parts.averages.get(level, ()):
            self._average(node, decay, formula)
        average = self.stages[level].average
        if average is not None:
            average.look()

    def _start_averages(self) -> None:
        rows = [row for rows in self._parts.averages.values() for row in rows]
        if rows:
            self.state.buffers["ema"] = {}
        for node, _, formula in rows:
            self.state.buffers["ema"][node] = self._averaged(formula).clone()

    def _average(self, node: str, decay: float, formula: Any) -> None:
        held = self.state.buffers["ema"]
        self.state.buffers["ema"] = {
            **held,
            node: torch.lerp(self._averaged(formula), held[node], decay),
        }

    def _averaged(self, formula: Any) -> Tensor:
        frame = self.stages[formula.level].feed.current()
        with torch.no_grad():
            return formula(self.state.theta, frame)  # type: ignore[no-any-return]

    # Variables and checkpoints

    def __getitem__(self, level: str) -> Variables:
        """The variables of a level: `run["tune"].log_wd`, a tensor in natural units;
        `run["student"].net`, the module. Raises KeyError for a level that is not there.
        """
        if level not in self.stages:
            raise KeyError(f"no level `{level}`; there are {', '.join(self.plan.order)}")
        return Variables(self.stages[level])

    def averaged(self, level: str) -> Variables:
        """The averages that the level's `average` has made so far, as `run[level]` gives the
        variables; those themselves where there are none yet. Raises KeyError.
        """
        if level not in self.stages:
            raise KeyError(f"no level `{level}`; there are {', '.join(self.plan.order)}")
        return Variables(self.stages[level], averaged=True)

    def save(self, path: str | Path) -> Path:
        """Write a checkpoint, whole or not at all; gives its path."""
        return checkpoint.save(self, Path(path))

    def load(self, path: str | Path) -> None:
        """Continue from a checkpoint. Raises InputError (MLO0803, MLO0506) if it does not fit."""
        checkpoint.load(self, Path(path))


def _number(call: Call, name: str) -> int:
    value = call.get(name)
    if value is None and call.positional:
        value = call.positional[0]
    return int(value)  # type: ignore[call-overload, no-any-return]
