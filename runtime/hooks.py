"""Functions of the user's that a run calls at its moments.

    class Mine(Hooks):
        def on_update(self, event): print(event.level, event.update)

    plan.start(hooks=Mine())

Tensors are shown, not handed over: a hook gets copies, and one that writes into them, or into what
the run holds, is found out after its call and ends the run. What a hook may change, it returns: a
gradient from `on_gradient`, variables from `optimizer_step`. What it keeps between calls it gives
out in `state`, so that checkpoints hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bettyc.failures import CallbackError, RunError
from bettyc.runtime.report import Hypergradient
from bettyc.runtime.state import State


@dataclass(frozen=True)
class Event:
    """A moment of a level. theta and gradient are copies of its flat variables and their gradient,
    shape of theta[level]. step: of the top level; update: of the level; both from 0.
    """

    level: str
    step: int
    update: int
    theta: Tensor
    loss: Tensor | None = None
    gradient: Tensor | None = None


class Hooks:
    """Override what is wanted; everything else does nothing."""

    def on_inner_start(self, event: Event) -> None:
        """The first update of a level after the level above has moved, before it is made."""

    def on_gradient(self, event: Event) -> Tensor | None:
        """A gradient of a level; return another one to have it used instead."""

    def optimizer_step(self, event: Event) -> Tensor | None:
        """Return the level's next variables, shape of theta, to replace its optimizer in this
        update.
        """

    def on_update(self, event: Event) -> None:
        """After an update; theta are the new variables."""

    def on_hypergradient(self, level: str, found: Hypergradient) -> None:
        """A hypergradient, with its certificates, before the level moves along it."""

    def on_epoch(self, draw: str, epoch: int) -> None:
        """A draw has begun its epoch number `epoch`."""

    def on_validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """The metrics were evaluated."""

    def on_step(self, output: Any) -> None:
        """After every update of the top level, with its `Output`."""

    def state(self) -> dict[str, Any]:
        """What these hooks keep: tensors, numbers, strings, lists and dicts of them."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` gave when a checkpoint was written."""


class Watched:
    """Calls hooks, and finds out those that write into variables or raise.

    `replaces` says whether the hooks change updates, which a replay of the updates would not know.
    """

    def __init__(self, hooks: Hooks, state: State) -> None:
        self.hooks = hooks
        self.state = state

    def wants(self, name: str) -> bool:
        """Whether the hook does anything."""
        return getattr(type(self.hooks), name) is not getattr(Hooks, name)

    def call(self, name: str, *arguments: Any) -> Any:
        """One hook. Raises CallbackError with what it raised, RunError where it wrote into
        variables.
        """
        if not self.wants(name):
            return None
        before = self._held()
        shown = [_copied(argument) for argument in arguments]
        copies = [t for argument in shown for t in _tensors(argument)]
        versions = [t._version for t in copies]
        call: Callable[..., Any] = getattr(self.hooks, name)
        try:
            with torch.no_grad():
                result = call(*shown)
        except RunError:
            raise
        except Exception as error:
            # the user's hook: whatever it raises ends the run under its name
            raise CallbackError(f"hook `{name}` raised {type(error).__name__}: {error}") from error
        after = self._held()
        for what, (tensor, version) in before.items():
            found = after.get(what)
            if found is None or found[0] is not tensor or found[1] != version:
                raise RunError(f"hook `{name}` wrote into {what}; return new ones")
        if [t._version for t in copies] != versions:
            level = getattr(shown[0], "level", shown[0])
            raise RunError(
                f"hook `{name}` wrote into the variables of level `{level}`, of which it was shown"
                " a copy; return new ones"
            )
        return result

    def _held(self) -> dict[str, tuple[Tensor, int]]:
        """Every tensor of the run by what it is, with the number of writes that torch counts."""
        state = self.state
        found = {f"the variables of level `{n}`": t for n, t in state.theta.items()}
        for level, tensors in state.optimizer.items():
            found |= {f"`{k}` of the optimizer of level `{level}`": t for k, t in tensors.items()}
        for owner, tensors in state.buffers.items():
            found |= {f"buffer `{k}` of `{owner}`": t for k, t in tensors.items()}
        found |= {f"the memory `{k}` of a strategy": t for k, t in state.memory.items()}
        return {what: (tensor, tensor._version) for what, tensor in found.items()}

    def replaced(self, name: str, event: Event, like: Tensor) -> Tensor | None:
        """What a hook gives back in place of `like`. Raises RunError for another shape."""
        found = self.call(name, event)
        if found is None:
            return None
        if not isinstance(found, Tensor) or found.shape != like.shape:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise RunError(
                f"hook `{name}` returned {shape}, level `{event.level}` has {tuple(like.shape)}"
            )
        return found.detach().to(like)


def _tensors(argument: Any) -> list[Tensor]:
    """The tensors of an event or a hypergradient."""
    if not is_dataclass(argument) or isinstance(argument, type):
        return []
    values = (getattr(argument, f.name) for f in fields(argument))
    return [v for v in values if isinstance(v, Tensor)]


def _copied(argument: Any) -> Any:
    """An argument of a hook with tensors and tables of its own."""
    if isinstance(argument, Mapping):
        return dict(argument)
    if not _tensors(argument):
        return argument
    values = {f.name: getattr(argument, f.name) for f in fields(argument)}
    own = {k: v.detach().clone() for k, v in values.items() if isinstance(v, Tensor)}
    return replace(argument, **own)
