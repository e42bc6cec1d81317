"""A level as a differentiable `torch.nn.Module` in the user's own training loop.

layer = plan.layer("fit")
out = layer(decay=decay, train={"x": x, "y": y})
loss(out.w).backward()                 # decay.grad, by the strategy that the plan has for `fit`

A call solves the level, and those below it, as the program would before the level above moves. Each
call remembers where its own solve ended, so calls may be differentiated in any order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from bettyc.diagnostics.registry import report
from bettyc.failures import DivergedError, InputError
from bettyc.plan import Plan, Pull
from bettyc.runtime import layer_state
from bettyc.runtime.gradcheck import Comparison
from bettyc.runtime.layer_check import gradcheck
from bettyc.runtime.layer_plan import Part, part
from bettyc.runtime.lower import lower_of
from bettyc.runtime.nesting import Nest
from bettyc.runtime.response import Point
from bettyc.runtime.run import Run
from bettyc.runtime.signature import Column, Inputs, Signature, Variable, column, variables
from bettyc.runtime.through import DATA, LayerReport, OfData, Response, Solved
from bettyc.strategies import make

PRECISIONS = {torch.float32: "fp32", torch.float64: "fp64"}


class Solution(dict[str, Any]):
    """The variables of a level at its response, by name and as attributes, in natural units. A
    network is a dict of its parameters. `report` says what the call did.
    """

    def __init__(self, values: Mapping[str, Any], report: LayerReport) -> None:
        super().__init__(values)
        self.report = report

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(f"no variable `{name}`; there are {', '.join(self)}")


class Layer(nn.Module):
    """The response of `level` as a function of the levels above and of the data that it reads.

    warm: True begins each call where the last one ended, False where the program begins; None does
    as the level's `start` says. data, externs, device, seed, include: as of `Run`. Raises
    InputError: MLO0201 for a level that is not there, MLO0602 for a strategy that has no meaning
    in a layer, and what a run raises.
    """

    def __init__(
        self,
        plan: Plan,
        level: str,
        *,
        warm: bool | None = None,
        device: str | None = None,
        seed: int | None = None,
        **given: Any,
    ) -> None:
        super().__init__()
        self.level = level
        self._plan, self._warm, self._given = plan, warm, given
        self._seed = plan.seed if seed is None else seed
        self._part: Part = part(plan, level, warm)
        self.report: LayerReport | None = None
        self._calls = 0
        self._updates = 0  # of the level, before the present call
        self._paths: dict[Any, tuple[Nest, tuple[Pull, ...]]] = {}
        self._build(self._part.plan, device or plan.device)

    def _build(self, plan: Plan, device: str) -> None:
        """Everything that depends on precision and device."""
        self._run = run = Run(plan, device=device, seed=self._seed, **self._given)
        linked = run._parts.linked
        self.dtype, self.device = linked.dtype, linked.device
        found: dict[str, Column] = {}
        self._columns: dict[str, set[str]] = {}
        for name in self._part.group:
            own = self._columns[name] = set()
            for index in linked.graph.reachable([linked.level(name).objective]):
                node = linked.graph[index]
                if node.op in ("data", "batch", "task"):
                    one = column(linked, node, run.stages[name].replicas)
                    found[one.path] = one
                    own.add(one.path)
        above = [
            v
            for name in self._part.above
            for v in variables(linked, name, run.state.theta[name].shape[:-1])
        ]
        self._signature = Signature(f'layer("{self.level}")', above, found.values(), linked)
        self._shared = self._sources_from_above()

    def _sources_from_above(self) -> list[Any]:
        """Batches that are used up when a level above moves: here, by each call."""
        parts = self._run._parts
        return [
            source
            for name, sources in parts.owners.items()
            if name not in self._part.group
            for source in sources
        ]

    # Calling

    def forward(self, inputs: Mapping[str, Any] | None = None, /, **named: Any) -> Solution:
        """The level's variables at its response.

        inputs, named: every variable of the levels above that the level depends on, in natural
        units; columns of data, in place of what the program names. Tensors of the layer's dtype and
        device and of the declared shapes; a path, `{"tune.decay": x}`, or its end, `decay=x`.
        Raises InputError (MLO0210, MLO0507) for what does not fit, RunError where a solve fails.
        """
        taken = self._signature.read({**(inputs or {}), **named})
        flat, solved = self.respond(taken)
        stage = self._run.stages[self.level]
        frozen = self._run.state.buffers[self.level]["frozen"]
        values = dict(stage.layout.values(flat, frozen))
        for network in stage.level.networks:
            head = f"{network.name}."
            inside = {n.removeprefix(head): v for n, v in values.items() if n.startswith(head)}
            values = {n: v for n, v in values.items() if not n.startswith(head)}
            values[network.name] = inside  # type: ignore[assignment]
        return Solution(values, solved.report)

    def respond(self, inputs: Inputs) -> tuple[Tensor, Solved]:
        """The level's free variables, flat, with a derivative in what of `inputs` has one."""
        learned = {c: x for c, x in inputs.columns.items() if x.requires_grad}
        tensors = dict(inputs.flat)
        if learned:
            tensors[DATA] = torch.cat([x.reshape(-1) for x in learned.values()])
        wanted = frozenset(n for n, x in tensors.items() if x.requires_grad)
        if not torch.is_grad_enabled():
            wanted = frozenset()
        # whatever the caller's modes are: the solve needs first derivatives of its own
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(self.device.type, enabled=False),
        ):
            values = {name: x.detach().clone() for name, x in tensors.items()}
            self._solve(inputs, values)
            solved = self._solved(inputs, values, tuple(learned), wanted)
        self.report = solved.report
        if not wanted:
            return solved.theta.clone(), solved
        return Response.apply(solved, *tensors.values()), solved

    def _solve(self, inputs: Inputs, values: Mapping[str, Tensor]) -> None:
        run, part_ = self._run, self._part
        run.state.theta.update({n: x for n, x in values.items() if n in part_.above})
        given = inputs.given()
        for source in self._shared:
            source.spent = True
        for name in part_.group:
            stage = run.stages[name]
            stage.feed.give(given)
            stage.losses.clear()
            if stage.trajectory is not None:  # the last call may still need its own
                stage.trajectory = replace(
                    stage.trajectory, records=deque(), dropped=0, copied=False
                )
        run.executor.step = self._calls
        if not self._calls:
            run.executor.warm_up(part_.fragment.warmups)
        run.executor.perform(part_.fragment.body)
        for name in part_.group:
            if not bool(torch.isfinite(run.state.theta[name]).all()):
                raise DivergedError(
                    name, self._calls, None, "its variables are not finite",
                    "lower its learning rate",
                )  # fmt: skip
        self._calls += 1

    def _solved(
        self,
        inputs: Inputs,
        values: Mapping[str, Tensor],
        learned: tuple[Column, ...],
        wanted: frozenset[str],
    ) -> Solved:
        """Where the solve ended, with all that a backward pass through it needs."""
        run, group = self._run, self._part.group
        nest, pulls = self._path(learned, wanted)
        theta = dict(run.state.theta) | {n: run.state.theta[n].clone() for n in group} | values
        frames = {name: run.stages[name].feed.current() for name in group}
        objectives: dict[str, Any] = {}
        for name in group:
            own = [c for c in learned if c.path in self._columns[name]]
            objective = run.stages[name].objective
            objectives[name] = OfData(objective, learned) if own else objective
        strategies = {name: make(self._part.plan.level(name).strategy) for name in group}
        point = Point(nest, objectives, frames, theta, strategies)
        stage = run.stages[self.level]
        done = run.state.updates[self.level]
        report_ = LayerReport(self.level, done - self._updates, (), point, stage.sign)
        self._updates = done
        fixed = [(c, x) for c, x in inputs.columns.items() if c not in learned]
        seen = [(c.path, x, x._version) for c, x in fixed if not x.is_inference()]
        return Solved(
            self.level,
            point,
            {pull.level: lower_of(run.stages[pull.level], point) for pull in pulls},
            pulls,
            tuple(values),
            run.state.memory,
            report_,
            seen,
        )

    def _path(
        self, learned: tuple[Column, ...], wanted: frozenset[str]
    ) -> tuple[Nest, tuple[Pull, ...]]:
        """The sweep from the user's loss to the inputs whose derivative is wanted."""
        key = (learned, wanted)
        if key not in self._paths:
            paths = {c.path for c in learned}
            nest = self._part.nest(
                {n for n, own in self._columns.items() if own & paths} if learned else set()
            )
            self._paths[key] = nest, self._part.sweep(nest, wanted)
        return self._paths[key]

    # What there is

    def above(self) -> list[Variable]:
        """The variables that a call must be given."""
        return list(self._signature.variables.values())

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """The shapes of what a call must be given, by path."""
        return {path: v.shape for path, v in self._signature.variables.items()}

    @property
    def data(self) -> dict[str, tuple[int, ...]]:
        """The shapes of what a call may be given in place of the program's data, by path."""
        return {path: c.shape for path, c in self._signature.columns.items()}

    def initial(self) -> dict[str, Tensor]:
        """Where the program begins the variables that a call must be given, by path."""
        found = {}
        for name in self._part.above:
            stage = self._run.stages[name]
            theta = layer_state.beginning(self._run, name)
            frozen = self._run.state.buffers[name]["frozen"]
            for variable, value in stage.layout.values(theta, frozen):
                path = f"{name}.{variable}"
                if path in self._signature.variables:
                    found[path] = value.detach().clone()
        return found

    def extra_repr(self) -> str:
        """As `print(layer)` shows it."""
        takes = [f"{path}: {list(shape)}" for path, shape in self.inputs.items()]
        return ", ".join([self.level, *takes])

    # Checking

    def gradcheck(
        self,
        inputs: Mapping[str, Any] | None = None,
        /,
        *,
        against: tuple[str, ...] = ("unroll", "differences"),
        most: int = 20,
        **named: Any,
    ) -> tuple[Comparison, ...]:
        """The layer's derivative at these inputs against independent references, in float64.

        As `bettyc gradcheck`, for a quadratic loss of the response: one row per input and
        reference. The layer is left as it is. Raises SolveError where a reference has no solution.
        """
        values = _double({**(inputs or {}), **named})
        twin = self._copy().double()
        plain = None
        if "O0" in against:
            plain = self._copy(replace(self._plan, opt=0)).double()
        return gradcheck(twin, twin._signature.read(values), against, most, plain)

    # State

    def _copy(self, plan: Plan | None = None) -> Layer:
        made = Layer(
            plan or self._plan, self.level, warm=self._warm, seed=self._seed,
            device=str(self.device), **self._given,
        )  # fmt: skip
        made.to(self.dtype)
        made.set_extra_state(self.get_extra_state())
        return made

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """What `to`, `double` and the like come down to."""
        super()._apply(fn, recurse)
        like = fn(torch.zeros(0, dtype=self.dtype, device=self.device))
        if (like.dtype, like.device) == (self.dtype, self.device):
            return self
        if like.dtype not in PRECISIONS:
            raise InputError(
                report(
                    "MLO0603",
                    None,
                    setting=f'dtype of layer("{self.level}")',
                    value=str(like.dtype).removeprefix("torch."),
                    expected="float32 or float64",
                )
            )
        kept = self.get_extra_state()
        plan = self._run.plan
        if like.dtype != self.dtype:
            plan = layer_state.in_precision(plan, PRECISIONS[like.dtype])
        self._build(plan, str(like.device))
        self.set_extra_state(kept)
        return self

    def get_extra_state(self) -> dict[str, Any]:
        """What calls have left for later ones: tensors, numbers, dicts; part of `state_dict`."""
        return {"calls": self._calls, **layer_state.pack(self._run, self._part.group)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Raises InputError (MLO0803) for the state of another layer."""
        layer_state.unpack(self._run, self._part.group, state)
        self._calls = int(state["calls"])
        self._updates = self._run.state.updates[self.level]

    def __reduce__(self) -> Any:
        options = {
            **self._given,
            "warm": self._warm,
            "seed": self._seed,
            "device": str(self.device),
        }
        state = (self.dtype, self.training, self.get_extra_state())
        return _restored, (self._plan, self.level, options, state)


def _restored(plan: Plan, level: str, options: dict[str, Any], state: tuple[Any, ...]) -> Layer:
    dtype, training, extra = state
    layer = Layer(plan, level, **options).to(dtype).train(training)
    layer.set_extra_state(extra)
    return layer


def _double(values: Mapping[str, Any]) -> dict[str, Any]:
    """Real tensors in float64, as leaves where they carried gradient."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, nn.Module):
            value = dict(value.named_parameters())
        if isinstance(value, Mapping):
            found[name] = _double(value)
        elif isinstance(value, Tensor) and value.is_floating_point():
            found[name] = value.detach().double().requires_grad_(value.requires_grad)
        else:
            found[name] = value
    return found
