r"""Cross terms by forward mode through the optimizer's updates.

    Z_k+1 = (\partial step_k / \partial (theta, s)) Z_k + \partial step_k / \partial theta_R,
    cross_R = -Z_T^T a

Z holds one tangent of the variables and the optimizer's state per scalar of the upper variables:
for few of those it gives what `unroll` gives with memory that does not grow with the number of
steps. Per step one gradient and one Jacobian product per upper scalar (two backward passes through
a transposed graph, in one batch).

Franceschi, Donini, Frasconi, Pontil. ICML 2017, arXiv:1703.01785.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from bettyc.runtime.report import SolveError
from bettyc.runtime.slope import reason
from bettyc.runtime.strategies.replay import floating, step, trajectory_of
from bettyc.runtime.strategies.system import Pulled, System
from bettyc.strategies import Forward


def pull(system: System, options: Forward) -> Pulled:
    """The cross terms, from tangents carried along the replayed steps."""
    path = trajectory_of(system)
    directions = _unit_tangents(system)
    leaves = {name: system.theta[name].detach().requires_grad_() for name in system.into}
    others = {**system.theta, **leaves}
    upper = list(leaves.values())
    with torch.enable_grad():
        theta, state = path.begin(others)
    (tangent,) = jacobian_rows([theta], upper, directions)
    carried = {name: _zeros(directions, x) for name, x in state.items() if x.is_floating_point()}
    theta = theta.detach()
    for k in range(path.length):
        own = theta.requires_grad_()
        state = {name: floating(x) for name, x in state.items()}
        names = [name for name, x in state.items() if x.requires_grad]
        with torch.enable_grad():
            moved, new = step(system, path, own, state, k, others, "graph")
        if why := reason(system.objective):
            raise SolveError(
                f"`forward` through level `{system.level}` needs second derivatives, and torch"
                f" says: {why}; `unroll` takes differences of gradients instead"
            )
        for name in names:
            carried.setdefault(name, _zeros(directions, state[name]))
        inputs = [own, *(state[name] for name in names), *upper]
        tangents = [tangent, *(carried[name] for name in names), *directions]
        outputs = {name: x for name, x in new.items() if x.is_floating_point()}
        tangent, *rest = jacobian_rows([moved, *outputs.values()], inputs, tangents)
        carried = dict(zip(outputs, rest, strict=True))
        theta, state = moved.detach(), {name: x.detach() for name, x in new.items()}
    return Pulled(_cross(system, tangent), products=path.length * (1 + len(tangent)))


def _cross(system: System, tangent: Tensor) -> dict[str, Tensor]:
    a = system.rhs.flatten()
    flat = -(tangent.reshape(len(tangent), a.numel()).to(a.dtype) @ a)
    if not bool(torch.isfinite(flat).all()):
        raise SolveError(
            f"the forward derivative of level `{system.level}` is not finite; lower its"
            " learning rate"
        )
    sizes = [system.theta[name].numel() for name in system.into]
    parts = flat.split(sizes) if sizes else []
    return {
        name: part.reshape(system.theta[name].shape)
        for name, part in zip(system.into, parts, strict=True)
    }


def _unit_tangents(system: System) -> list[Tensor]:
    """For every upper level R, one row per scalar of all upper levels: (count, *shape of
    theta[R]).
    """
    shapes = [system.theta[name] for name in system.into]
    count = sum(x.numel() for x in shapes)
    own = system.theta[system.level]
    eye = torch.eye(count, dtype=own.dtype, device=own.device)
    parts = eye.split([x.numel() for x in shapes], dim=1) if shapes else []
    return [part.reshape(count, *x.shape) for part, x in zip(parts, shapes, strict=True)]


def _zeros(directions: list[Tensor], x: Tensor) -> Tensor:
    count = len(directions[0]) if directions else 0
    return torch.zeros(count, *x.shape, dtype=x.dtype, device=x.device)


def jacobian_rows(
    outputs: list[Tensor], inputs: list[Tensor], tangents: list[Tensor]
) -> list[Tensor]:
    """J t for every row t: per output (count, *shape). Transposes the transposed graph, so that any
    operator with a double backward will do.
    """
    count = len(tangents[0]) if tangents else 0
    live = [y for y in outputs if y.requires_grad]
    if not live or not count:
        return [torch.zeros(count, *y.shape, dtype=y.dtype, device=y.device) for y in outputs]
    dummies = [torch.zeros_like(y, requires_grad=True) for y in live]
    back = torch.autograd.grad(
        live, inputs, dummies, create_graph=True, allow_unused=True, materialize_grads=True
    )
    pairs = [(x, t) for x, t in zip(back, tangents, strict=True) if x.requires_grad]
    if not pairs:
        return [torch.zeros(count, *y.shape, dtype=y.dtype, device=y.device) for y in outputs]
    rows = iter(_batched([x for x, _ in pairs], dummies, [t for _, t in pairs]))
    return [
        next(rows)
        if y.requires_grad
        else torch.zeros(count, *y.shape, dtype=y.dtype, device=y.device)
        for y in outputs
    ]


def _batched(outputs: list[Tensor], inputs: list[Tensor], rows: list[Tensor]) -> list[Tensor]:
    options = {"retain_graph": True, "allow_unused": True}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found = torch.autograd.grad(outputs, inputs, rows, is_grads_batched=True, **options)
    except RuntimeError:
        each = [
            torch.autograd.grad(outputs, inputs, [r[i] for r in rows], **options)
            for i in range(len(rows[0]))
        ]
        found = [None if x[0] is None else torch.stack(x) for x in zip(*each, strict=True)]
    return [
        torch.zeros(len(rows[0]), *y.shape, dtype=y.dtype, device=y.device)
        if x is None
        else x.detach()
        for x, y in zip(found, inputs, strict=True)
    ]
