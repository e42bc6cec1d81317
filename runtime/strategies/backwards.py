"""Reverse mode through recorded steps where the level's objective has formulas.

Autograd sees the optimizer's arithmetic only. A cotangent of the gradient g_k goes on by formula:
to theta_k through H, to the levels above through the cross terms. No graph of the objective is
made; memory: iterates and gradients of the steps at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bettyc.runtime.strategies.system import System, Trajectory

State = dict[str, Tensor]


class Back(NamedTuple):
    """Cotangents at the start of a segment."""

    theta: Tensor
    state: State
    others: dict[str, Tensor]


def reverse(
    system: System,
    form: Any,
    path: Trajectory,
    point: tuple[Tensor, State],
    start: int,
    end: int,
    a_theta: Tensor,
    a_state: State,
) -> Back:
    """Cotangents pulled back through steps start .. end-1, and through the start itself for
    step 0. form: the closed form of the objective.
    """
    leaves = {name: system.theta[name].detach().requires_grad_() for name in system.into}
    begun = None
    if start == 0:
        with torch.enable_grad():
            begun, state = path.begin({**system.theta, **leaves})
        point = begun.detach(), {n: x.detach() for n, x in state.items()}
    back = Back(a_theta, a_state, {name: torch.zeros_like(x) for name, x in leaves.items()})
    points = _points(system, form, path, point, start, end)
    for k in range(end - 1, start - 1, -1):
        # The first iterate of a start that is nobody's function is not differentiated.
        moves = k > 0 or (begun is not None and begun.requires_grad)
        back = _step(system, form, path, k, points[k - start], back, leaves, moves)
    if begun is not None and begun.requires_grad:
        found = torch.autograd.grad(
            begun, list(leaves.values()), back.theta, allow_unused=True, materialize_grads=True
        )
        for name, value in zip(leaves, found, strict=True):
            back.others[name] += value
    return back


class _Point(NamedTuple):
    theta: Tensor
    state: State
    grad: Tensor


class Kept:
    """The graphs of the gradients of recorded steps, in place of a closed form: iterates and
    gradients are not computed again, and products are one backward through each.
    """

    def __init__(self, path: Any) -> None:
        self.records = path.records

    def point(self, k: int) -> _Point:
        record = self.records[k]
        return _Point(record.theta, record.state, record.slope.gradient)


def _points(
    system: System, form: Any, path: Trajectory, point: tuple[Tensor, State], start: int, end: int
) -> list[_Point]:
    """Every iterate of the segment with the gradient that was taken there."""
    if isinstance(form, Kept):
        return [form.point(k) for k in range(start, end)]
    theta, state = point
    found = []
    with torch.no_grad():
        for k in range(start, end):
            at = _seen(system, path, k, theta)
            grad = form.gradients(at, path.frame(k), [system.level])[1][system.level]
            found.append(_Point(theta, state, grad))
            if k + 1 < end:
                theta, state = path.advance(k, theta, grad, state, system.theta)
    return found


def _seen(system: System, path: Trajectory, k: int, theta: Tensor) -> Mapping[str, Tensor]:
    return {**system.theta, **path.below(k), system.level: theta}


def _step(
    system: System,
    form: Any,
    path: Trajectory,
    k: int,
    point: _Point,
    back: Back,
    leaves: Mapping[str, Tensor],
    moves: bool,
) -> Back:
    theta, grad = (x.detach().requires_grad_() for x in (point.theta, point.grad))
    state = {
        n: x.detach().requires_grad_() if x.is_floating_point() else x
        for n, x in point.state.items()
    }
    names = [n for n, x in state.items() if x.requires_grad]
    with torch.enable_grad():
        last, last_state = path.advance(k, theta, grad, state, {**system.theta, **leaves})
    pairs = [(last, back.theta), *((last_state[n], a) for n, a in back.state.items())]
    pairs = [(x, a) for x, a in pairs if x.requires_grad]
    inputs = [theta, grad, *(state[n] for n in names), *leaves.values()]
    found = torch.autograd.grad(
        [x for x, _ in pairs],
        inputs,
        [a for _, a in pairs],
        allow_unused=True,
        materialize_grads=True,
    )
    a_theta, a_grad, rest = found[0], found[1], found[2:]
    with torch.no_grad():
        if isinstance(form, Kept):
            products = form.records[k].slope
        else:
            at = _seen(system, path, k, point.theta)
            products = form.products(at, path.frame(k), system.into)
        if moves:
            a_theta = a_theta + products.hvp(a_grad).reshape(a_theta.shape)
        cross = products.cross(a_grad)
        others = {
            name: back.others[name] + value + cross.get(name, 0.0)
            for name, value in zip(leaves, rest[len(names) :], strict=True)
        }
    return Back(a_theta, dict(zip(names, rest, strict=False)), others)
