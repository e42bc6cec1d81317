"""Everything that changes while a plan runs, apart from samplers: one flat tensor per level and
what goes with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bettyc.model import Call, Level
from bettyc.ops.initial import INITIAL
from bettyc.runtime.initial import initial
from bettyc.runtime.layout import Layout, plainly
from bettyc.runtime.link import Linked


@dataclass
class State:
    """theta: the free variables of each level, (size,) or (replicas, size) of a `foreach` level.

    optimizer: tensors of each level's optimizer. gradients: how many gradients that state has
    seen. updates: updates of each level since the run began. starts: how often its inner loop
    began. buffers: "level.net" -> module buffers; level -> {"frozen": flat tensor}; "ema" ->
    averages by node. memory: what strategies keep between solves.
    """

    theta: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    gradients: dict[str, int] = field(default_factory=dict)
    updates: dict[str, int] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)
    buffers: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    memory: dict[str, Tensor] = field(default_factory=dict)

    def snapshot(self) -> State:
        """A copy that later steps do not change."""
        return State(
            {k: v.clone() for k, v in self.theta.items()},
            {k: {n: x.clone() for n, x in v.items()} for k, v in self.optimizer.items()},
            dict(self.gradients),
            dict(self.updates),
            dict(self.starts),
            {k: {n: x.clone() for n, x in v.items()} for k, v in self.buffers.items()},
            {k: v.clone() for k, v in self.memory.items()},
        )

    def assign(self, other: State) -> None:
        """Become `other`, keeping the identity of the dictionaries that levels hold on to."""
        for name in ("theta", "optimizer", "gradients", "updates", "starts", "buffers", "memory"):
            mine, theirs = getattr(self, name), getattr(other, name)
            mine.clear()
            mine.update(theirs)


def fresh(linked: Linked, level: Level, seed: int, start: int, replicas: int | None) -> Fresh:
    """Initial values of a level. start: how often it has begun; each beginning draws anew."""
    rows = [_fresh(linked, level, seed, start, r) for r in range(replicas or 1)]
    if replicas is None:
        return rows[0]
    return Fresh(torch.stack([r.theta for r in rows]), rows[0].frozen, rows[0].buffers)


def drawn(level: Level) -> bool:
    """Whether each beginning of a level draws something, or builds a network from Python."""
    if any(network.extern is not None for network in level.networks):
        return True
    return any(
        isinstance(v.initial, Call) and INITIAL[v.initial.name].random for v in level.variables
    )


@dataclass(frozen=True)
class Fresh:
    """theta, the frozen variables, and the buffers of each network from Python by "level.net"."""

    theta: Tensor
    frozen: Tensor
    buffers: Mapping[str, dict[str, Tensor]]


def _fresh(linked: Linked, level: Level, seed: int, start: int, replica: int) -> Fresh:
    layout: Layout = linked.layouts[level.name]
    values: dict[str, Tensor] = {}
    buffers: dict[str, dict[str, Tensor]] = {}
    for declared in level.networks:
        if declared.extern is None:
            continue
        key = f"{level.name}.{declared.name}"
        module = linked.build(level.name, declared, seed, "initial", key, start, replica)
        values |= {
            f"{declared.name}.{plainly(n)}": p.detach().double()
            for n, p in module.named_parameters()
        }
        buffers[key] = {n: _buffer(linked, b) for n, b in module.named_buffers()}
    for variable in level.variables:
        slot = layout.slot(variable.name)
        values[slot.name] = initial(
            slot.initial,
            slot.shape,
            slot.domain,
            seed,
            "initial",
            level.name,
            slot.name,
            start,
            replica,
        )
    return Fresh(
        layout.pack(values).to(linked.device, linked.dtype),
        layout.pack(values, trainable=False).to(linked.device, linked.dtype),
        buffers,
    )


def _buffer(linked: Linked, buffer: Tensor) -> Tensor:
    dtype = linked.dtype if buffer.is_floating_point() else buffer.dtype
    return buffer.detach().to(linked.device, dtype, copy=True)
