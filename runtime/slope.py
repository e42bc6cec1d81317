r"""The gradient of an objective as a function that can be differentiated once more.

Most gradients are autograd's own, with their graph. Where an operator has no second derivative
(fused attention, cuDNN's recurrent networks, `once_differentiable` functions) torch raises as soon
as that graph is run. This is found by running it once per objective, and from then on

    (\partial g / \partial x)^T v  ~  [ grad_x C(theta + e v) - grad_x C(theta - e v) ] / (2 e)

for x the level's own variables and those of any other level, with e |v| = eps^(1/3) max(1, |theta|)
for eps the rounding of the precision: the length at which the errors of the difference, O(e^2), and
of rounding, O(eps / e), meet. Two gradients per product. Reports say so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bettyc.runtime.objective import Frame, Objective

Evaluate = Callable[[Sequence[Tensor]], list[Tensor]]

# Nodes of autograd's graph that stand for a derivative that is not there.
RAISING = ("torch::autograd::Error", "torch::autograd::NotImplemented")
REFUSED = "a function is marked `once_differentiable`"


def value_of(objective: Objective, theta: Mapping[str, Tensor], frame: Frame) -> Tensor:
    """The objective, scalar; of a replicated level (two-dimensional theta[level]) the sum over its
    replicas.
    """
    own = theta[objective.level]
    if own.ndim < 2:
        return objective(theta, frame)
    if not len(own):
        return own.sum()
    if together(objective, theta, frame):
        return objective.replicas.batched(objective, theta, frame).sum()  # type: ignore[attr-defined, no-any-return]
    values = [
        objective({**theta, objective.level: row}, replica(frame, objective.level, i))
        for i, row in enumerate(own.unbind())
    ]
    return torch.stack(values).sum()


def together(objective: Objective, theta: Mapping[str, Tensor], frame: Frame) -> bool:
    """Whether all replicas of a replicated level are evaluated at once."""
    replicas = getattr(objective, "replicas", None)
    return replicas is not None and replicas.together(objective, theta, frame)


def replica(frame: Frame, level: str, index: int) -> Frame:
    """The frame of one replica of a `foreach` level."""
    return replace(frame, replica={**frame.replica, level: index})


def first_derivative(value: Tensor, wrt: Tensor, create_graph: bool = False) -> Tensor:
    """d value / d wrt; zeros where value does not depend on it."""
    if not value.requires_grad:
        return torch.zeros_like(wrt)
    (found,) = torch.autograd.grad(
        value, [wrt], create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return found


def slope(
    objective: Objective, theta: Mapping[str, Tensor], frame: Frame, names: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """The value, and the gradient in the level's own variables as a differentiable function of
    the tensors theta[l] for l in `names`, its own level first; those carry gradient.
    """
    own = theta[names[0]]
    if reason(objective):
        return _by_differences(objective, theta, frame, names)
    with torch.enable_grad():
        value = value_of(objective, theta, frame)
        gradient = first_derivative(value, own, create_graph=True)
    if getattr(objective, "once", "") is None and gradient.requires_grad:
        objective.once = _failure(gradient, own)  # type: ignore[attr-defined]
        if reason(objective):
            return _by_differences(objective, theta, frame, names)
    return value, gradient


def reason(objective: Objective) -> str:
    """Why the objective cannot be differentiated twice; empty where it can, or is not known yet."""
    return getattr(objective, "once", "") or ""


def _failure(gradient: Tensor, own: Tensor) -> str:
    """What torch says to a second derivative; empty where it has one.

    The graph is looked through as well as run: torch leaves out a node that only says that it
    raises, where it stands beside the way to `own`, and the derivative is then silently wrong.
    """
    zero = torch.zeros_like(gradient)
    try:
        torch.autograd.grad(gradient, [own], zero, retain_graph=True, allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return REFUSED if _refuses(gradient.grad_fn) else ""


def _refuses(root: Any) -> bool:
    seen, stack = {root}, [root]
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is None or node in seen:
                continue
            if node.name() in RAISING:
                return True
            seen.add(node)
            stack.append(node)
    return False


def _by_differences(
    objective: Objective, theta: Mapping[str, Tensor], frame: Frame, names: Sequence[str]
) -> tuple[Tensor, Tensor]:
    def evaluate(tensors: Sequence[Tensor]) -> list[Tensor]:
        leaves = [x.detach().requires_grad_() for x in tensors]
        with torch.enable_grad():
            value = value_of(objective, {**theta, **dict(zip(names, leaves, strict=True))}, frame)
        if not value.requires_grad:
            return [torch.zeros_like(x) for x in tensors]
        found = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
        return list(found)

    with torch.no_grad():
        value = value_of(objective, theta, frame)
    return value, _Slope.apply(evaluate, *(theta[n] for n in names))


class _Slope(torch.autograd.Function):
    """The gradient in the first tensor, with the products of the module's formula as derivative."""

    @staticmethod
    def forward(ctx: Any, evaluate: Evaluate, *tensors: Tensor) -> Tensor:
        ctx.evaluate = evaluate
        ctx.save_for_backward(*tensors)
        return evaluate(tensors)[0].detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, v: Tensor) -> Any:
        own, *others = ctx.saved_tensors
        size = float(v.norm())
        if not size:
            return (None, *(torch.zeros_like(x) for x in ctx.saved_tensors))
        length = torch.finfo(own.dtype).eps ** (1 / 3) * max(1.0, float(own.norm()))
        move = (length / size) * v
        plus, minus = (ctx.evaluate([own + sign * move, *others]) for sign in (1, -1))
        return None, *((p - m) * (size / (2 * length)) for p, m in zip(plus, minus, strict=True))
