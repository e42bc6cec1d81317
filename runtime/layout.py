"""Where each variable of a level lies in the level's flat buffer.

A level's trainable variables are one contiguous free tensor theta of shape (size,); those that
match a pattern of the setting `freeze` stand in a second one that no update touches. A network
from Python contributes one slot per parameter, named `net.fc.weight`, in the order of
`named_parameters`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bettyc.failures import RunError
from bettyc.model import Call, Level, Value
from bettyc.patterns import matches
from bettyc.runtime import domains
from bettyc.types import Dim, bind, number


@dataclass(frozen=True)
class Slot:
    """One variable. `shape` is of its value, `free` of the free tensor behind it; [start, stop)
    of the buffer, or of the frozen one where not `trainable`.
    """

    name: str
    shape: tuple[int, ...]
    free: tuple[int, ...]
    domain: Call | None
    initial: Value
    trainable: bool
    start: int
    stop: int


@dataclass(frozen=True)
class Layout:
    """All slots of a level, in the order of the declarations."""

    level: str
    slots: tuple[Slot, ...]
    size: int
    frozen: int

    def slot(self, name: str) -> Slot:
        return next(s for s in self.slots if s.name == name)

    def of(self, network: str) -> tuple[Slot, ...]:
        """The slots of a network, or of one variable."""
        inside = tuple(s for s in self.slots if s.name.startswith(f"{network}."))
        return inside or (self.slot(network),)

    def values(self, theta: Tensor, frozen: Tensor | None) -> Iterator[tuple[str, Tensor]]:
        """Name and value of every variable; views of theta where the domain has no transform."""
        for slot in self.slots:
            yield slot.name, self.value(slot, theta, frozen)

    def value(self, slot: Slot, theta: Tensor, frozen: Tensor | None) -> Tensor:
        """One variable; leading axes of theta (replicas) are kept."""
        source = theta if slot.trainable or frozen is None else frozen
        u = source[..., slot.start : slot.stop].reshape((*source.shape[:-1], *slot.free))
        return transformed(slot.domain, u)

    def pack(self, values: Mapping[str, Tensor], trainable: bool = True) -> Tensor:
        """Free tensors by name to one flat tensor."""
        parts = [values[s.name].reshape(-1) for s in self.slots if s.trainable == trainable]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)

    def project(self, theta: Tensor) -> Tensor:
        """theta with every ball and box variable moved to its nearest point; theta itself without
        any.
        """
        if not self.projected:
            return theta
        pieces = []
        for slot in self.slots:
            if not slot.trainable:
                continue
            piece = theta[..., slot.start : slot.stop]
            if slot.domain is not None and slot.domain.name in domains.PROJECTED:
                rows = piece.reshape(-1, piece.shape[-1])
                piece = torch.stack([domains.project(slot.domain, row) for row in rows]).view_as(
                    piece
                )
            pieces.append(piece)
        return torch.cat(pieces, -1)

    @property
    def projected(self) -> bool:
        return any(s.domain is not None and s.domain.name in domains.PROJECTED for s in self.slots)

    def text(self, name: str, theta: str, frozen: str) -> str:
        """How emitted code reads a variable, or a network from Python as one flat tensor."""
        slots = self.of(name)
        if len(slots) == 1 and slots[0].name == name:
            return self._slot_text(slots[0], theta, frozen)
        runs = _runs(slots)
        parts = [f"{theta if trainable else frozen}[{a}:{b}]" for trainable, a, b in runs]
        if len(parts) != 1:
            return f"torch.cat([{', '.join(parts)}])"
        trainable, a, b = runs[0]
        whole = trainable and (a, b) == (0, self.size)
        return theta if whole else parts[0]

    def _slot_text(self, slot: Slot, theta: str, frozen: str) -> str:
        source = theta if slot.trainable else frozen
        whole = (slot.start, slot.stop) == (0, self.size if slot.trainable else self.frozen)
        if not slot.free:
            text = f"{source}[{slot.start}]"
        else:
            text = source if whole else f"{source}[{slot.start}:{slot.stop}]"
            text = text if len(slot.free) == 1 else f"{text}.view({', '.join(map(str, slot.free))})"
        return domains.value_text(slot.domain, text)


def transformed(domain: Call | None, u: Tensor) -> Tensor:
    """The value of a free tensor."""
    if domain is None or domain.name in domains.PROJECTED:
        return u
    if domain.name == "interval":
        return domains.interval(u, *domains.bounds(domain))
    function = {"positive": domains.positive, "unit": domains.unit, "simplex": domains.simplex}
    return function[domain.name](u)


def layout(
    level: Level, freeze: Sequence[str], sizes: Mapping[str, int], networks: Mapping[str, nn.Module]
) -> Layout:
    """The layout of a level. networks: modules built for its networks from Python, by name."""
    known = {name: number(size) for name, size in sizes.items()}
    found: list[tuple[str, tuple[int, ...], Call | None, Value]] = [
        (v.name, concrete(bind(v.type, known).shape), v.domain, v.initial)  # type: ignore[union-attr]
        for v in level.variables
    ]
    for network in level.networks:
        module = networks.get(network.name)
        if module is not None:
            found += [
                (f"{network.name}.{plainly(n)}", tuple(p.shape), None, None)
                for n, p in module.named_parameters()
            ]
    slots: list[Slot] = []
    ends = {True: 0, False: 0}
    for name, shape, domain, initial in found:
        trainable = not any(matches(name, pattern) for pattern in freeze)
        free = domains.free_shape(domain, shape)
        start = ends[trainable]
        ends[trainable] = start + math.prod(free)
        slots.append(Slot(name, shape, free, domain, initial, trainable, start, ends[trainable]))
    return Layout(level.name, tuple(slots), ends[True], ends[False])


def plainly(name: str) -> str:
    """The name of a parameter without what torch.compile puts into it."""
    return name.replace("_orig_mod.", "")


def concrete(shape: tuple[Dim, ...]) -> tuple[int, ...]:
    """The shape as numbers. Raises ValueError while a dim has no value."""
    values = [d.value for d in shape]
    missing = [str(d) for d in shape if d.value is None]
    if missing:
        raise ValueError(f"no value for dim `{missing[0]}`")
    return tuple(v for v in values if v is not None)


def _runs(slots: Sequence[Slot]) -> list[tuple[bool, int, int]]:
    """Neighbouring slots of one buffer as one range."""
    runs: list[tuple[bool, int, int]] = []
    for slot in slots:
        if runs and runs[-1][0] == slot.trainable and runs[-1][2] == slot.start:
            runs[-1] = (slot.trainable, runs[-1][1], slot.stop)
        else:
            runs.append((slot.trainable, slot.start, slot.stop))
    return runs


def counterpart(mine: Layout, theirs: Layout, name: str) -> dict[str, str]:
    """Own slots and the slots of the other level's network or variable that they start from.

    The own network of the same name, else the one whose parameters have the same names and shapes.
    """
    source = theirs.of(name)
    shapes = {s.name.removeprefix(name): s.free for s in source}
    heads = [name, *dict.fromkeys(s.name.partition(".")[0] for s in mine.slots)]
    for head in heads:
        if not any(s.name == head or s.name.startswith(f"{head}.") for s in mine.slots):
            continue
        own = {s.name.removeprefix(head): s.free for s in mine.of(head)}
        if own == shapes:
            return {f"{head}{suffix}": f"{name}{suffix}" for suffix in shapes}
    raise RunError(
        f"`start = copy({theirs.level}.{name})`: level `{mine.level}` has nothing of that structure"
    )
