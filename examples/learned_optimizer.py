"""Problems of learned_optimizer.mlo, and an objective with a given gradient."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx


def problems(count: int, rows: int, features: int) -> dict[str, Tensor]:
    """Logistic regressions: x of shape (count, rows, features), y of shape (count, rows), 0 or 1.

    The features of a problem have scales between 1/10 and 10, another one for each.
    """
    scale = 10 ** (2 * torch.rand(count, 1, features) - 1)
    x = torch.randn(count, rows, features)
    logits = (x * torch.randn(count, 1, features)).sum(-1)
    return {"x": scale * x, "y": torch.bernoulli(torch.sigmoid(2 * logits))}


class _Follow(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, update: Tensor) -> Tensor:
        return x.new_zeros(())

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        (update,) = ctx.saved_tensors
        return grad * update, None


def follow(x: Tensor, update: Tensor) -> Tensor:
    """Zero, with the gradient `update` in x and none in update: a step of gradient descent
    at rate 1 on it takes `update` off x. `update` may depend on anything, and is differentiated
    where the gradient is.
    """
    found: Tensor = _Follow.apply(x, update)
    return found
