"""Functions of the user's that a run calls at its moments.

    class Mine(Hooks):
        def on_update(self, event): print(event.level, event.update)

    plan.start(hooks=Mine())

Variables are shown, not handed over: a hook that writes into them is found out after its call and
ends the run. What a hook may change, it returns: a gradient from `on_gradient`, variables from
`optimizer_step`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bettyc.failures import CallbackError, RunError
from bettyc.runtime.report import Hypergradient


@dataclass(frozen=True)
class Event:
    """A moment of a level. theta and gradient are its flat variables and their gradient, shape of
    theta[level], not to be written to. step: of the top level; update: of the level; both from 0.
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


class Watched:
    """Calls hooks, and finds out those that write into variables or raise.

    `replaces` says whether the hooks change updates, which a replay of the updates would not know.
    """

    def __init__(self, hooks: Hooks, theta: Mapping[str, Tensor]) -> None:
        self.hooks = hooks
        self.theta = theta

    def wants(self, name: str) -> bool:
        """Whether the hook does anything."""
        return getattr(type(self.hooks), name) is not getattr(Hooks, name)

    def call(self, name: str, *arguments: Any) -> Any:
        """One hook. Raises CallbackError with what it raised, RunError where it wrote into
        variables.
        """
        if not self.wants(name):
            return None
        before = {level: (tensor, tensor._version) for level, tensor in self.theta.items()}
        call: Callable[..., Any] = getattr(self.hooks, name)
        try:
            with torch.no_grad():
                result = call(*arguments)
        except RunError:
            raise
        except Exception as error:
            # the user's hook: whatever it raises ends the run under its name
            raise CallbackError(f"hook `{name}` raised {type(error).__name__}: {error}") from error
        for level, (tensor, version) in before.items():
            if self.theta.get(level) is not tensor or tensor._version != version:
                raise RunError(
                    f"hook `{name}` wrote into the variables of level `{level}`; return new ones"
                )
        return result

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
