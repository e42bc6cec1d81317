r"""Comparing a hypergradient with references that share no code with the solves behind it.

    unroll        every level below is continued by gradient descent for as many steps as
    convergence takes,
                  and the adjoint goes backwards through those steps: no linear system is solved
    differences   central differences of the root's objective, with every level below solved anew by
                  Newton's method for each perturbed variable: no adjoint at all
    O0            the planned strategy itself by plain autograd, without the compiler's derivatives

The first two are derivatives of the nested problem at its solution for the root's present
variables: they judge the strategy, and cannot be had where a level below has no solution that
Newton's method finds, as most networks. `O0` judges the derivatives that the compiler wrote, at the
variables as they are, and agrees to rounding whatever the strategy. `differences` costs two nested
solves per coordinate; beyond `most` coordinates of a variable a fixed random choice of them is
compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bettyc.runtime.adjoint import Lower, hypergradient
from bettyc.runtime.objective import Frame
from bettyc.runtime.report import SolveError
from bettyc.runtime.response import Point, Reduced, settle
from bettyc.runtime.strategies.neumann import largest_eigenvalue
from bettyc.runtime.strategies.system import System
from bettyc.strategies import Unroll

REFERENCES = ("unroll", "differences", "O0")
# A variable whose gradient is smaller than this part of the whole level's is measured by that part:
# where it is zero, as that of a constant added to all logits, rounding is no error.
SMALL = 1e-4
# No gradient is measured by less than this: where that of the whole level is zero, what the solves
# and differences leave of it is no error either.
FLOOR = 1e-7
# From the variables of all levels to the hypergradient, the shape of theta[root].
Hyper = Callable[[Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Comparison:
    """A hypergradient against one reference, for one variable of the root.

    absolute_error: ||found - reference||. scale: ||reference||, but at least SMALL times that of
    the whole level, and at least the floor. relative_error: absolute_error / scale. cosine: of the
    angle between them, norm_ratio: ||found|| / ||reference||; None where that divides by zero.
    coordinates: how many were compared.
    """

    root: str
    variable: str
    reference: str
    cosine: float | None
    absolute_error: float
    scale: float
    relative_error: float
    norm_ratio: float | None
    coordinates: int


@dataclass(frozen=True)
class Missing:
    """A reference that cannot be had for a root, and why."""

    root: str
    reference: str
    reason: str


@dataclass(frozen=True)
class Piece:
    """A variable in the root's flat buffer: theta[..., start:stop]."""

    name: str
    start: int
    stop: int


def gradcheck(
    root: str,
    planned: Hyper,
    point: Point,
    pieces: Sequence[Piece],
    against: Sequence[str] = ("unroll", "differences"),
    most: int = 20,
    plain: Hyper | None = None,
    floor: float = FLOOR,
) -> tuple[Comparison, ...]:
    """Compare the planned hypergradient of root, per variable.

    plain: the same strategy by plain autograd, needed for the reference `O0`. floor: the norm by
    which smaller gradients are measured, in units of the gradient. Raises SolveError
    where a reference needs the solutions of the levels below and there are none, ValueError for an
    unknown reference.
    """
    rows, missing = compared(root, planned, point, pieces, against, most, plain, floor)
    for gone in missing:
        raise SolveError(gone.reason)
    return rows


def compared(
    root: str,
    planned: Hyper,
    point: Point,
    pieces: Sequence[Piece],
    against: Sequence[str],
    most: int = 20,
    plain: Hyper | None = None,
    floor: float = FLOOR,
) -> tuple[tuple[Comparison, ...], tuple[Missing, ...]]:
    """As `gradcheck`, with the references that can be had and those that cannot."""
    unknown = set(against) - set(REFERENCES) | ({"O0"} & set(against) if plain is None else set())
    if unknown:
        known = REFERENCES[:2] if plain is None else REFERENCES
        raise ValueError(f"no reference {sorted(unknown)}; there are {', '.join(known)}")
    size = point.theta[root].numel()
    chosen = {piece.name: coordinates(piece, size, most) for piece in pieces}
    at = [index for places in chosen.values() for index in places]
    rows: list[Comparison] = []
    missing: list[Missing] = []
    solved, reason = None, ""
    if set(against) - {"O0"}:
        try:
            solved = respond(root, point)
        except SolveError as error:
            reason = str(error)
    for name in against:
        here = point if name == "O0" else solved
        if here is None:
            missing.append(Missing(root, name, reason))
            continue
        try:
            reference = _reference(name, root, here, at, plain)
        except SolveError as error:
            missing.append(Missing(root, name, str(error)))
            continue
        found = planned(here.theta).detach().flatten()
        rows += _rows(root, name, found, reference, chosen, floor)
    return tuple(rows), tuple(missing)


def _reference(name: str, root: str, here: Point, at: Sequence[int], plain: Hyper | None) -> Tensor:
    if name == "differences":
        return by_differences(root, here, at)
    if name == "unroll":
        return by_unrolling(root, here)[at]
    assert plain is not None
    return plain(here.theta).detach().flatten()[at]


def _rows(
    root: str,
    name: str,
    found: Tensor,
    reference: Tensor,
    chosen: Mapping[str, list[int]],
    floor: float,
) -> list[Comparison]:
    """One row per variable. found: of the whole level; reference: of the chosen coordinates."""
    least = max(SMALL * float(reference.norm()), floor)
    parts = reference.split([len(places) for places in chosen.values()])
    return [
        compare(root, variable, name, found[places], part, least)
        for (variable, places), part in zip(chosen.items(), parts, strict=True)
    ]


def respond(root: str, point: Point) -> Point:
    """The point with every level below root at its nested solution. Raises SolveError."""
    return settle(root, point, {root: point.theta[root]})


def coordinates(piece: Piece, size: int, most: int) -> list[int]:
    """The coordinates of a variable that are compared; of all replicas where the level has them."""
    found = list(range(piece.start, piece.stop))
    if len(found) <= most:
        return found
    generator = torch.Generator().manual_seed(piece.start)
    return [
        found[i] for i in torch.randperm(len(found), generator=generator)[:most].sort()[0].tolist()
    ]


def by_differences(root: str, point: Point, at: Sequence[int], step: float = 1e-4) -> Tensor:
    """Central differences of root's reduced objective in the coordinates `at`, with two step sizes
    combined so that the error is of fourth order.
    """
    base = point.theta[root]

    def value(index: int, move: float) -> Tensor:
        moved = base.flatten().clone()
        moved[index] += move
        there = settle(root, point, {root: moved.reshape(base.shape)})
        with torch.no_grad():
            return point.objectives[root](there.theta, point.frames[root])

    found = []
    for index in at:
        h = step * max(1.0, abs(float(base.flatten()[index])))
        near = (value(index, h) - value(index, -h)) / (2 * h)
        far = (value(index, 2 * h) - value(index, -2 * h)) / (4 * h)
        found.append((4 * near - far) / 3)
    return torch.stack(found) if found else base.new_zeros(0)


def by_unrolling(root: str, point: Point, tol: float = 1e-8, most: int = 20_000) -> Tensor:
    """The adjoint sweep with every level differentiated through gradient descent to convergence,
    flat.
    """
    nest = point.nest
    pulls = nest.sweep(root, frozenset(nest.order))
    lowers = {}
    for pull in pulls:
        reduced = Reduced(pull.level, point)
        path = descent(reduced, point, tol, most)
        lowers[pull.level] = Lower(Unroll(recompute=True), trajectory=path, reduced=reduced)
    return hypergradient(
        root,
        objectives=point.objectives,
        theta=point.theta,
        frames=point.frames,
        lowers=lowers,
        pulls=pulls,
    ).grad.flatten()


@dataclass(frozen=True)
class Descent:
    """Plain gradient descent from a level's present variables, as a trajectory."""

    length: int
    theta: Tensor
    lr: float
    seen: Frame
    group: int = 1

    def begin(self, others: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return self.theta, {}

    def frame(self, k: int) -> Frame:
        return self.seen

    def below(self, k: int) -> Mapping[str, Tensor]:
        return {}

    def advance(
        self,
        k: int,
        theta: Tensor,
        grad: Tensor,
        state: dict[str, Tensor],
        others: Mapping[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return theta - self.lr * grad, state


def descent(reduced: Reduced, point: Point, tol: float, most: int) -> Descent:
    """As many steps of size 1 / (largest eigenvalue) as shrink a random error to `tol`, at most
    `most`.
    """
    level = reduced.level
    theta = point.theta[level]
    generator = torch.Generator().manual_seed(1)
    error = torch.randn(theta.numel(), generator=generator, dtype=torch.float64).to(theta)
    system = System(level, "", reduced, point.theta, point.frames[level], error, ())
    lr = 1 / largest_eigenvalue(system) if theta.numel() else 1.0
    first, steps = float(error.norm()), 0
    while float(error.norm()) > tol * first and steps < most:
        error = error - lr * system.product(error)
        steps += 1
    return Descent(steps, theta, lr, point.frames[level])


def compare(
    root: str,
    variable: str,
    reference: str,
    found: Tensor,
    expected: Tensor,
    least: float = FLOOR,
) -> Comparison:
    """The comparison of one variable; both tensors (coordinates,). least: the smallest norm that
    the error is measured by, above 0.
    """
    size, right = float(found.norm()), float(expected.norm())
    error = float((found - expected).norm())
    scale = max(right, least)
    return Comparison(
        root,
        variable,
        reference,
        float(found @ expected) / (size * right) if size and right else None,
        error,
        scale,
        error / scale,
        size / right if right else None,
        found.numel(),
    )


def worst(rows: Sequence[Comparison]) -> float:
    """The largest relative error; 0 without any."""
    return max((row.relative_error for row in rows), default=0.0)
