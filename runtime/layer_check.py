"""`layer.gradcheck`: the derivative of a layer against references that share no code with it.

The inputs become the variables of one level above, whose objective is a fixed quadratic of the
response; the references of `bettyc.runtime.gradcheck` then solve that nested problem themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bettyc.runtime import gradcheck as reference
from bettyc.runtime.gradcheck import Comparison, Piece
from bettyc.runtime.nesting import Nest
from bettyc.runtime.objective import Frame
from bettyc.runtime.response import Point
from bettyc.runtime.signature import Column, Inputs
from bettyc.runtime.through import DATA, ROOT, OfData

if TYPE_CHECKING:
    from bettyc.runtime.layer import Layer


@dataclass(frozen=True)
class Merged:
    """An objective whose inputs lie one after another in the variables of one level."""

    objective: Any
    shapes: Mapping[str, torch.Size]

    @property
    def level(self) -> str:
        return self.objective.level  # type: ignore[no-any-return]

    @property
    def reads(self) -> tuple[str, ...]:
        kept = [name for name in self.objective.reads if name not in self.shapes]
        return (*kept, ROOT)

    def __call__(self, theta: Mapping[str, Tensor], frame: Frame) -> Tensor:
        parts = theta[ROOT].split([shape.numel() for shape in self.shapes.values()])
        values = {
            name: part.view(shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
        return self.objective({**theta, **values}, frame)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Quadratic:
    """c.theta + |theta|^2 / 2 of the response, with fixed random c."""

    response: str
    level: str = ROOT

    @property
    def reads(self) -> tuple[str, ...]:
        return (ROOT, self.response)

    def __call__(self, theta: Mapping[str, Tensor], frame: Frame) -> Tensor:
        x = theta[self.response].flatten()
        generator = torch.Generator().manual_seed(0)
        c = torch.randn(len(x), generator=generator, dtype=torch.float64).to(x)
        return c @ x + 0.5 * x.square().sum()


def gradcheck(
    layer: Layer, inputs: Inputs, against: Sequence[str], most: int, plain: Layer | None
) -> tuple[Comparison, ...]:
    """The comparisons, by input. layer, plain: copies, which this may move."""
    learned = {c: x for c, x in inputs.columns.items() if x.requires_grad}
    values = {name: x.detach() for name, x in inputs.flat.items()}
    if learned:
        values[DATA] = torch.cat([x.detach().reshape(-1) for x in learned.values()])
    shapes = {name: x.shape for name, x in values.items()}
    start = layer.get_extra_state()
    solved = layer.respond(inputs)[1]
    objectives: dict[str, Any] = {ROOT: Quadratic(layer.level)}
    for name, objective in solved.point.objectives.items():
        bare = objective._objective if isinstance(objective, OfData) else objective
        objectives[name] = Merged(OfData(bare, tuple(learned)) if learned else bare, shapes)
    order = (*solved.point.objectives, ROOT)
    theta = {name: solved.point.theta[name] for name in solved.point.objectives}
    flat = [x.reshape(-1) for x in values.values()]
    theta[ROOT] = torch.cat(flat) if flat else torch.zeros(0, dtype=layer.dtype)
    point = Point(
        Nest({name: objective.reads for name, objective in objectives.items()}, order),
        objectives,
        {**solved.point.frames, ROOT: Frame({})},
        theta,
    )

    def by(which: Layer) -> reference.Hyper:
        def hyper(at: Mapping[str, Tensor]) -> Tensor:
            which.set_extra_state(start)
            parts = at[ROOT].split([shape.numel() for shape in shapes.values()])
            leaves = {
                name: part.detach().clone().view(shape).requires_grad_()
                for (name, shape), part in zip(shapes.items(), parts, strict=True)
            }
            flat = which.respond(_moved(inputs, tuple(learned), leaves))[0]
            value = Quadratic(which.level)({which.level: flat}, Frame({}))
            found = torch.autograd.grad(
                value, list(leaves.values()), allow_unused=True, materialize_grads=True
            )
            return torch.cat([x.reshape(-1) for x in found])

        return hyper

    return reference.gradcheck(
        ROOT,
        by(layer),
        point,
        _pieces(layer, tuple(learned), shapes),
        against,
        most,
        None if plain is None else by(plain),
    )


def _moved(inputs: Inputs, learned: Sequence[Column], leaves: Mapping[str, Tensor]) -> Inputs:
    columns = dict(inputs.columns)
    if learned:
        sizes = [torch.Size(c.shape).numel() for c in learned]
        for column, part in zip(learned, leaves[DATA].split(sizes), strict=True):
            columns[column] = part.view(column.shape)
    return Inputs({name: leaves[name] for name in inputs.flat}, columns)


def _pieces(
    layer: Layer, learned: Sequence[Column], shapes: Mapping[str, torch.Size]
) -> list[Piece]:
    """The inputs in the merged variables. Of a `foreach` level above, its variables as one."""
    found: list[Piece] = []
    start = 0
    for name, shape in shapes.items():
        if name == DATA:
            for column in learned:
                stop = start + torch.Size(column.shape).numel()
                found.append(Piece(column.path, start, stop))
                start = stop
            continue
        slots = [v.slot for v in layer.above() if v.level == name]
        if len(shape) > 1:
            found.append(Piece(name, start, start + shape.numel()))
        else:
            found += [Piece(f"{name}.{s.name}", start + s.start, start + s.stop) for s in slots]
        start += shape.numel()
    return found
