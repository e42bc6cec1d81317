"""One level while a plan runs: its gradient, its update, its solve, its start.

The update is one function, used by the executor without a graph and by strategies that replay the
inner steps with one: with `-O0` a replay has the bits of the run, with formulas for gradients it
agrees to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from bettyc.failures import DivergedError, RunError
from bettyc.model import Level
from bettyc.patterns import matches
from bettyc.plan import ENDLESS, LevelPlan
from bettyc.runtime.averages import Average
from bettyc.runtime.data.draw import Batches
from bettyc.runtime.domains import free
from bettyc.runtime.feed import Feed, TaskBatch
from bettyc.runtime.formula import Formula
from bettyc.runtime.hooks import Event, Watched
from bettyc.runtime.layout import Layout, counterpart
from bettyc.runtime.link import Linked
from bettyc.runtime.objective import Frame
from bettyc.runtime.optimizers import View, rule_of
from bettyc.runtime.optimizers.arithmetic import InPlace, Pure
from bettyc.runtime.optimizers.groups import grouped
from bettyc.runtime.optimizers.rate import Clock, Options
from bettyc.runtime.optimizers.rule import Rule
from bettyc.runtime.optimizers.solvers import SOLVERS, Solved
from bettyc.runtime.precision import tf32
from bettyc.runtime.problem import Problem
from bettyc.runtime.products import Products, gradients, products
from bettyc.runtime.scaling import Scaler
from bettyc.runtime.slope import replica, together
from bettyc.runtime.state import State, drawn, fresh
from bettyc.runtime.strategies import betty
from bettyc.runtime.strategies.system import Sampling
from bettyc.runtime.trajectory import Origin, Trajectory
from bettyc.strategies import STRATEGIES

if TYPE_CHECKING:
    from bettyc.runtime.loop import Later

# From this size on, updates that nobody replays overwrite their buffers.
LARGE = 1 << 16

# A gradient of the level at its present variables: (frame) -> loss, gradient; both detached.
Gradient = Callable[[Frame], tuple[Tensor, Tensor]]


class Foreseen(NamedTuple):
    """What an update with this gradient gives, where it was computed together with it."""

    gradient: Tensor
    theta: Tensor
    state: dict[str, Tensor]


class Stage:
    """How one level moves. `theta` is the run's dictionary of variables, shared by all stages."""

    def __init__(
        self,
        linked: Linked,
        level: Level,
        state: State,
        objective: Formula,
        feed: Feed,
        options: Options,
        *,
        seed: int,
        replicas: int | None,
        recorded: bool,
        movable: bool,
    ) -> None:
        self.name = level.name
        self.linked = linked
        self.level = level
        self.plan: LevelPlan = linked.plan.level(level.name)
        self.layout: Layout = linked.layouts[level.name]
        self.state = state
        self.theta = state.theta
        self.objective = objective
        self.feed = feed
        self.options = options
        self.seed = seed
        self.replicas = replicas
        self.rule = _rule(self.plan, self.layout)
        self.average = (
            None if self.plan.average is None else Average(self.name, self.plan.average, state)
        )
        self.accumulate = max(self.plan.accumulate, 1)
        self.scaler = Scaler(self.name, state) if self.plan.precision == "fp16" else None
        self._overflowed = False  # in fp16, a gradient of the update at hand
        self.hooks: Watched | None = None
        self.clock: Callable[[], int] = lambda: 0  # the number of the top level's update
        self.epochs: dict[str, int] = {}  # of each draw, as hooks have been told
        self.owned: list[Batches | TaskBatch] = []  # what only this level's gradients use up
        self.losses: list[Tensor | Later] = []  # since the last output
        self.sign = -1.0 if level.sense == "maximize" else 1.0
        self._begun: Tensor | None = None  # where every start is, if none draws anything
        self.stale = False  # a level above has moved since the last update, or the warm-up ended
        self.solved: Solved | None = None
        self.gradient: Gradient = self.own_gradient
        self.foreseen: Foreseen | None = None
        size = self.layout.size * (replicas or 1)
        self.ops: type[Pure] = InPlace if movable and not recorded and size >= LARGE else Pure
        self.trajectory = (
            Trajectory(self.advance, self._origin(), self._keep(), self.accumulate)
            if recorded
            else None
        )
        self.sampling: Sampling | None = None  # where its strategy is `score`
        self.below = tuple(n for n in objective.reads if self._is_below(n))
        clips = self.plan.clip or self.plan.clip_value
        self.betty = linked.plan.compat == "betty"  # a step is one gradient, and so is its rate
        # its updates are directions of the level above: `step` only looks
        self.follows = self.plan.strategy.get("rule") == "bome"
        self.preconditioned = self.betty and self.plan.strategy.name == "sama"
        strategy = dict(self.plan.strategy.named)
        # reverse mode through the steps takes their graphs, where there is room for all of them
        self._keeps_slopes = (
            self.plan.strategy.name == "unroll"
            and not (strategy.get("recompute") or strategy.get("first_order"))
            and self.scaler is None
        )
        self._slope: Products | None = None  # of the gradient at hand
        self._keeps_gradients = bool(strategy.get("first_order")) and not strategy.get("recompute")
        self.simple = self.accumulate == 1 and not (
            clips or self.layout.projected or self.preconditioned
        )

    # Values at the beginning

    def initialise(self) -> None:
        """Initial variables, buffers and optimizer state."""
        made = fresh(self.linked, self.level, self.seed, 0, self.replicas)
        self.theta[self.name] = made.theta
        self.state.buffers[self.name] = {"frozen": made.frozen}
        self.state.buffers.update(made.buffers)
        self.state.updates[self.name] = 0
        self.state.starts[self.name] = 0
        self._forget_optimizer()

    def start(self) -> None:
        """Put the level to where its inner loop starts. The optimizer starts anew with it."""
        self.state.starts[self.name] += 1
        kind, _, source = self.plan.start.partition(":")
        if kind == "reset" and self._begun is not None:
            self.theta[self.name] = self._begun.clone()
        elif kind == "reset":
            made = fresh(
                self.linked, self.level, self.seed, self.state.starts[self.name], self.replicas
            )
            self.theta[self.name] = made.theta
            self.state.buffers.update(made.buffers)
            if not drawn(self.level):
                self._begun = made.theta.clone()
        elif kind == "copy":
            origin = self._origin()
            assert origin is not None
            with torch.no_grad():
                self.theta[self.name] = origin(self.theta, self.theta[self.name]).clone()
            self._copy_buffers(source)
        if kind != "warm":
            self._forget_optimizer()
            if self.average is not None:
                self.average.forget()
        if self.trajectory is not None:
            self.trajectory.clear(copied=kind == "copy")
            self.stale = False  # it has begun anew, and the first step must not forget where

    def _forget_optimizer(self) -> None:
        theta = self.theta[self.name]
        self.state.optimizer[self.name] = (
            {} if self.rule is None else self.rule.init(theta, self.options.fixed)
        )
        self.state.gradients[self.name] = 0

    def _copy_buffers(self, source: str) -> None:
        own = f"{self.name}.{source.partition('.')[2]}"
        if source in self.state.buffers and own in self.state.buffers:
            self.state.buffers[own] = {k: v.clone() for k, v in self.state.buffers[source].items()}

    def _origin(self) -> Origin | None:
        """theta at the start as a function of all levels, for `start = copy(level.module)`, and of
        what it was before, which the variables without a counterpart keep.
        """
        kind, _, source = self.plan.start.partition(":")
        if kind != "copy":
            return None
        other, _, name = source.partition(".")
        theirs = self.linked.layouts[other]
        mine = counterpart(self.layout, theirs, name)

        def origin(theta: Mapping[str, Tensor], before: Tensor) -> Tensor:
            pieces = []
            for slot in self.layout.slots:
                if not slot.trainable:
                    continue
                twin = mine.get(slot.name)
                if twin is None:
                    piece = before[..., slot.start : slot.stop].detach()
                else:
                    where = theirs.slot(twin)
                    piece = theta[other][where.start : where.stop]
                    if self.replicas is not None:
                        piece = piece.expand(self.replicas, -1)
                pieces.append(piece)
            return torch.cat(pieces, -1)

        return origin

    # One update

    def step(self) -> bool:
        """One optimizer update, of `accumulate` gradients; False where `stop` was met instead.

        As Betty counts it is one of those gradients, and the last of them updates.
        """
        seen, self._overflowed = self.state.gradients[self.name], False
        begun = seen % self.accumulate if self.betty else 0
        for k in range(begun, begun + 1 if self.betty else self.accumulate):
            if k > begun:
                for source in self.owned:
                    source.spent = True
            if not self._step_once(last=k + 1 == self.accumulate):
                return False
        if self._overflowed:
            self._leave_out(seen - begun)
        if not self.follows:
            self.state.updates[self.name] += 1
        return True

    def _leave_out(self, seen: int) -> None:
        """Forget the gradients of an update of which one overflowed; `seen` were there before."""
        begun = self.state.gradients[self.name] - seen
        for _ in range(begun if self.trajectory is not None else 0):
            self.trajectory.records.pop()  # type: ignore[union-attr]
        self.state.gradients[self.name] = seen
        self.state.optimizer[self.name].pop("accumulated", None)

    def _step_once(self, last: bool) -> bool:
        name, state, hooks = self.name, self.state, self.hooks
        frame = self.feed.next()
        if hooks is not None:
            self._announce(hooks)
        loss, grad = self.gradient(frame)
        self.losses.append(loss)
        if self.follows:
            return True
        if self.scaler is not None:
            self._overflowed = self._overflowed or not bool(torch.isfinite(grad).all())
            if last or (self.betty and self._overflowed):
                self.scaler.note(not self._overflowed)
            if self._overflowed:
                return True
        if self.plan.stop is not None and self._arrived(grad):
            return False
        if hooks is not None:
            grad = self._replaced(hooks, "on_gradient", loss, grad, grad)
        theta, memory, count = self.theta[name], state.optimizer[name], state.gradients[name]
        if self.trajectory is not None:
            if self.stale:
                self.trajectory.clear()
            below = {n: self.theta[n] for n in self.below}
            kept = grad if self._keeps_gradients and self.scaler is None else None
            self.trajectory.add(theta, memory, frame, below, count, self._slope, kept)
            self._slope = None
        moves = not (count + 1) % self.accumulate
        given = None
        if hooks is not None and moves:
            whole = self._whole(grad, memory)
            given = self._replaced(hooks, "optimizer_step", loss, whole, None)
        if given is not None:
            self.theta[name] = self.layout.project(given)
            state.optimizer[name] = {k: v for k, v in memory.items() if k != "accumulated"}
        elif self.foreseen is not None and self.foreseen.gradient is grad:
            _, self.theta[name], state.optimizer[name] = self.foreseen
        else:
            self.theta[name], state.optimizer[name] = self.advance(
                theta, grad, memory, count, self.theta, self.ops
            )
        state.gradients[name] = count + 1
        self.stale, self.foreseen = False, None
        if hooks is not None and moves:
            hooks.call("on_update", self._event(loss, grad))
        return True

    def _whole(self, grad: Tensor, memory: Mapping[str, Tensor]) -> Tensor:
        """The gradient that an update is made of: the mean of its group with `accumulate`."""
        if self.accumulate == 1:
            return grad
        return memory.get("accumulated", torch.zeros_like(grad)) + grad / self.accumulate

    def follow(self, direction: Tensor) -> None:
        """One update along a direction that a strategy gives in place of the level's own
        gradient: the only updates of a level that `follows`.
        """
        name, state = self.name, self.state
        self.theta[name], state.optimizer[name] = self.advance(
            self.theta[name],
            direction,
            state.optimizer[name],
            state.gradients[name],
            self.theta,
            self.ops,
        )
        state.gradients[name] += 1
        state.updates[name] += 1
        if self.hooks is not None:
            self.hooks.call("on_update", self._event(gradient=direction))

    def _event(self, loss: Tensor | None = None, gradient: Tensor | None = None) -> Event:
        update = self.state.updates[self.name]
        return Event(self.name, self.clock(), update, self.theta[self.name], loss, gradient)

    def _announce(self, hooks: Watched) -> None:
        """The beginnings of inner loops and of epochs."""
        if self.stale or not self.state.gradients[self.name]:
            hooks.call("on_inner_start", self._event())
        for source in self.owned:
            name = source.draw.name if isinstance(source, Batches) else source.sampler.name
            if self.epochs.get(name) != source.epoch:
                self.epochs[name] = source.epoch
                hooks.call("on_epoch", name, source.epoch)

    def _replaced(
        self, hooks: Watched, hook: str, loss: Tensor, grad: Tensor, otherwise: Tensor | None
    ) -> Tensor | None:
        """What a hook gives in place of a gradient or of the next variables."""
        found = hooks.replaced(hook, self._event(loss, grad), grad)
        if found is None:
            return otherwise
        if self.trajectory is not None:
            raise RunError(
                f"hook `{hook}` changes the updates of level `{self.name}`, which its `hypergrad`"
                " replays; choose one that does not, such as cg"
            )
        return found

    def rate(self) -> float | Tensor | None:
        """The learning rate of the last update, None for an optimizer without one."""
        seen = max(self.state.gradients[self.name] - 1, 0) // self.accumulate
        return self.options.lr(seen, self.theta)

    def jacobian(self) -> Tensor | None:
        """What Betty multiplies an adjoint by in `sama`; its scheduler has then gone on."""
        if not self.preconditioned:
            return None
        options = self.options.at(self.state.gradients[self.name], self.theta)
        state = self.state.optimizer[self.name]
        return betty.jacobian(self.plan.optimizer.name, options, state, self.theta[self.name])

    def scale(self) -> Tensor | None:
        """A positive approximation of diag(H), shape of theta: the root of the second moment, as
        Adam divides.
        """
        moment = self.state.optimizer[self.name].get("v")
        # of groups with other options there is one such tensor each: none for the whole
        if moment is None or not self.state.updates[self.name]:
            return None
        return moment.sqrt() + float(self.options.fixed.get("eps", 1e-8))

    def assign(self, values: Mapping[str, Tensor]) -> None:
        """Give variables new values, in natural units. Raises ValueError for a wrong name, shape
        or value.
        """
        theta = self.theta[self.name].clone()
        for name, value in values.items():
            slot = next((s for s in self.layout.slots if s.name == name and s.trainable), None)
            if slot is None:
                raise ValueError(f"level `{self.name}` has no variable `{name}`")
            tensor = torch.as_tensor(value, dtype=theta.dtype, device=theta.device)
            lead = theta.shape[:-1]
            if tuple(tensor.shape) != (*lead, *slot.shape):
                raise ValueError(
                    f"`{self.name}.{name}` has shape {slot.shape}, not {tuple(tensor.shape)}"
                )
            theta[..., slot.start : slot.stop] = free(slot.domain, tensor).reshape((*lead, -1))
        self.theta[self.name] = theta

    def _arrived(self, grad: Tensor) -> bool:
        """Whether the gradient's norm is below `stop`. Raises DivergedError."""
        norm = float(torch.linalg.vector_norm(grad))
        if not isfinite(norm):
            raise DivergedError(self.name, -1, None, f"the norm of its gradient is {norm}")
        return norm < float(self.plan.stop or 0.0)

    def advance(
        self,
        theta: Tensor,
        grad: Tensor,
        state: dict[str, Tensor],
        count: int | Clock,
        others: Mapping[str, Tensor],
        ops: type[Pure] = Pure,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What gradient number `count` does: wait for the others of its group, or update.

        Clipping and projection included; differentiable with `ops = Pure`. A Clock counts for
        levels that do not accumulate.
        """
        assert self.rule is not None
        if self.simple:
            options = self.options.at(count, others)
            return self.rule.update(theta, grad, state, _number(count), options, ops)
        if self.accumulate > 1:
            assert isinstance(count, int)
            grad = grad / self.accumulate
            if count % self.accumulate:
                grad = state["accumulated"] + grad
            state = {k: v for k, v in state.items() if k != "accumulated"}
            if (count + 1) % self.accumulate:
                return theta, {**state, "accumulated": grad}
        if self.plan.clip_value:
            grad = grad.clamp(-self.plan.clip_value, self.plan.clip_value)
        if self.plan.clip:
            grad = clipped(grad, self.plan.clip)
        update = count // self.accumulate if isinstance(count, int) else count
        options = self.options.at(count if self.betty else update, others)
        theta, state = self.rule.update(theta, grad, state, _number(update), options, ops)
        if self.preconditioned:
            state = {**state, "last_grad": grad}
        return self.layout.project(theta), state

    def own_gradient(self, frame: Frame) -> tuple[Tensor, Tensor]:
        """Loss and gradient of the objective as it stands, the levels below held fixed.

        Module buffers that this changes are kept: it is the evaluation that a step is made of.
        """
        return self.gradient_at(self.theta, frame, self._keeps_slopes)

    def gradient_at(
        self, theta: Mapping[str, Tensor], frame: Frame, keep: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The same at other variables. keep: the graph of the gradient, for the trajectory."""
        if self.plan.precision == "tf32":
            with tf32():
                return self._gradient(theta, frame, keep)
        return self._gradient(theta, frame, keep)

    def _gradient(
        self, theta: Mapping[str, Tensor], frame: Frame, keep: bool
    ) -> tuple[Tensor, Tensor]:
        name = self.name
        if self.replicas is None:
            return self._at(theta, frame)
        if together(self.objective, theta, frame):
            if keep:
                others = [n for n in self.objective.reads if n != name]
                self._slope = products(self.objective, theta, frame, others)
                with torch.no_grad():
                    return self._slope.value / self.replicas, self._slope.gradient
            if self.objective.closed_replicas is not None:
                value, slopes = gradients(self.objective, theta, frame, [name])
                return value / self.replicas, slopes[name]
            own = theta[name].detach().requires_grad_()
            assert self.objective.replicas is not None
            values = self.objective.replicas.batched(self.objective, {**theta, name: own}, frame)
            return values.detach(), self._derivative(values.sum(), own)
        # one replica after another: the graph of one is there at a time
        found = [
            self._at({**theta, name: row}, replica(frame, name, i))
            for i, row in enumerate(theta[name].unbind())
        ]
        return torch.stack([v for v, _ in found]), torch.stack([g for _, g in found])

    def _at(self, theta: Mapping[str, Tensor], frame: Frame) -> tuple[Tensor, Tensor]:
        """Loss and gradient of the level, or of one of its replicas."""
        if self.objective.closed is not None:
            value, found = self.objective.closed.gradients(theta, frame, (self.name,))
            return value, found[self.name]
        if self.objective.around is not None:
            value, found = self.objective.around.gradients(theta, frame, (self.name,))
            if self.objective.buffers:
                self.keep_buffers()
            return value, found[self.name]
        own = theta[self.name].detach().requires_grad_()
        value = self.objective({**theta, self.name: own}, replace(frame, first=True))
        grad = self._derivative(value, own)
        if self.objective.buffers:
            self.keep_buffers()
        return value.detach(), grad

    def _derivative(self, value: Tensor, own: Tensor) -> Tensor:
        if not value.requires_grad:
            return torch.zeros_like(own)
        scaled = value if self.scaler is None else value * self.scaler.scale
        (grad,) = torch.autograd.grad(scaled, own, allow_unused=True, materialize_grads=True)
        return grad if self.scaler is None else grad / self.scaler.scale

    def keep_buffers(self) -> None:
        """Keep what the last evaluation of the objective made of the buffers of the level's own
        networks.
        """
        for key, buffers in self.objective.buffers.items():
            if key.partition(".")[0] == self.name and buffers:
                self.state.buffers[key] = buffers

    # Solving to a tolerance

    def solve(self) -> None:
        """Run the optimizer until it has converged. Raises RunError where it does not."""
        if self.rule is not None:
            self._descend()
            return
        name = self.plan.optimizer.name
        frame = self.feed.next()
        rows = [self.theta[self.name]] if self.replicas is None else list(self.theta[self.name])
        solved = []
        for i, row in enumerate(rows):
            at = frame if self.replicas is None else replica(frame, self.name, i)
            solved.append(
                SOLVERS[name](Problem(self.objective, self.theta, at), row, self.options.fixed)
            )
        self.solved = max(solved, key=lambda s: s.norm)
        found = solved[0].theta if self.replicas is None else torch.stack([s.theta for s in solved])
        self.theta[self.name] = self.layout.project(found)
        self.losses.append(solved[0].loss)
        self.state.updates[self.name] += 1

    def _descend(self) -> None:
        """Updates until `stop` is met, or `steps` of them where both are given."""
        stop, steps = self.plan.stop, self.plan.steps
        if stop is None:
            raise RunError(f"level `{self.name}` has neither `steps` nor a `stop`")
        for _ in range(steps or ENDLESS):
            if not self.step():
                return
        if steps is None:
            raise RunError(
                f"level `{self.name}` did not reach grad_norm < {stop:g} in {ENDLESS} updates;"
                " raise its learning rate, loosen `stop` or set `steps`"
            )

    def _keep(self) -> int:
        """Gradients that the strategy replays; 0 for all."""
        last: int = getattr(STRATEGIES[self.plan.strategy.name], "keep", 0)
        truncate = dict(self.plan.strategy.named).get("truncate") or last
        return int(truncate) * self.accumulate  # type: ignore[call-overload, no-any-return]

    def _is_below(self, name: str) -> bool:
        order = self.linked.plan.order
        return order.index(name) < order.index(self.name)


def _rule(plan: LevelPlan, layout: Layout) -> Rule | None:
    """The level's update rule, by parameter groups where it has some: a variable belongs to the
    first group whose pattern matches it, or to none.
    """
    slots = [s for s in layout.slots if s.trainable]
    views = [View(s.start, s.stop, s.free) for s in slots]
    name = plan.optimizer.name
    if not plan.groups:
        return rule_of(name, views)
    members: list[list[int]] = [[] for _ in range(len(plan.groups) + 1)]
    for i, slot in enumerate(slots):
        found = (k for k, g in enumerate(plan.groups) if matches(slot.name, str(g.positional[0])))
        members[next(found, len(plan.groups))].append(i)

    def make(views: Sequence[View]) -> Rule:
        rule = rule_of(name, views)
        assert rule is not None
        return rule

    return grouped(make, views, members)


def _number(count: int | Clock) -> int | Tensor:
    return count.update if isinstance(count, Clock) else count


def clipped(grad: Tensor, largest: float) -> Tensor:
    """The gradient scaled down to norm `largest` (torch.nn.utils.clip_grad_norm_), without a host
    sync.

    Each replica of a `foreach` level has its own norm.
    """
    norm = torch.linalg.vector_norm(grad, dim=-1, keepdim=True)
    return grad * torch.clamp(largest / (norm + 1e-6), max=1.0)
