"""The other optimizers of torch.optim, run by torch itself on copies, so with its bits; not
differentiable.

Those that work entry by entry get the flat tensor as one parameter; those that look at shapes
(adafactor, muon) get a view per variable. Muon is for matrices: all other variables are updated
by AdamW with the same learning rate and weight decay, as its authors advise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bettyc.runtime.optimizers.arithmetic import InPlace, Pure
from bettyc.runtime.optimizers.rule import Options, Rule, State

FLAT = {
    "adadelta": torch.optim.Adadelta,
    "adamax": torch.optim.Adamax,
    "asgd": torch.optim.ASGD,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "rprop": torch.optim.Rprop,
}
SHAPED = ("adafactor", "muon")


class View(NamedTuple):
    """A variable in the last axis of theta."""

    start: int
    stop: int
    shape: tuple[int, ...]


def rule(name: str, views: Sequence[View]) -> Rule:
    """The optimizer by its name, for a level with these variables."""

    def init(theta: Tensor, options: Options) -> State:
        return {}

    def update(
        theta: Tensor,
        grad: Tensor,
        state: State,
        count: int,
        options: Options,
        ops: type[Pure] = Pure,
    ) -> tuple[Tensor, State]:
        # torch writes into what it is given
        kept = state if ops is InPlace else {k: v.clone() for k, v in state.items()}
        moved = theta if ops is InPlace else theta.clone()
        pieces = [moved] if name in FLAT else _views(moved, views)
        grads = [grad] if name in FLAT else _views(grad, views)
        parameters = []
        for piece, g in zip(pieces, grads, strict=True):
            piece.grad = g
            parameters.append(piece)
        for optimizer, indices in _optimizers(name, parameters, options):
            for i in indices:
                held = {k.partition(".")[2]: v for k, v in kept.items() if k.startswith(f"{i}.")}
                if held:
                    optimizer.state[parameters[i]] = held
            optimizer.step()
            for i in indices:
                kept |= {f"{i}.{k}": v for k, v in optimizer.state[parameters[i]].items()}
        for piece in parameters:
            piece.grad = None
        return moved, kept

    return Rule(init, update)


def _views(flat: Tensor, views: Sequence[View]) -> list[Tensor]:
    """One tensor per variable, and per replica where there are any."""
    rows = flat.unbind() if flat.ndim == 2 else (flat,)
    return [row[v.start : v.stop].view(v.shape).detach() for row in rows for v in views]


def _optimizers(
    name: str, parameters: list[Tensor], options: Options
) -> list[tuple[torch.optim.Optimizer, list[int]]]:
    given = {k: float(v) if isinstance(v, Tensor) else v for k, v in options.items()}
    everything = list(range(len(parameters)))
    if name in FLAT:
        return [(FLAT[name](parameters, **given, foreach=False), everything)]
    if name == "adafactor":
        eps: Any = (given.pop("eps1") or None, given.pop("eps2"))
        return [(torch.optim.Adafactor(parameters, **given, eps=eps, foreach=False), everything)]
    given["adjust_lr_fn"] = given.get("adjust_lr_fn") or None
    matrices = [i for i in everything if parameters[i].ndim == 2]
    others = [i for i in everything if parameters[i].ndim != 2]
    found: list[tuple[torch.optim.Optimizer, list[int]]] = []
    if matrices:
        found.append((torch.optim.Muon([parameters[i] for i in matrices], **given), matrices))
    if others:
        adamw = torch.optim.AdamW(
            [parameters[i] for i in others],
            lr=given["lr"],
            weight_decay=given["weight_decay"],
            foreach=False,
        )
        found.append((adamw, others))
    return found
