"""A cart on a line, for lqr.mlo: position and speed x, a push a, and a cost |x|^2 + 0.3 a^2.

The expected discounted cost of a = -gain . x is the trace of X, from starts x = (1, 0) and (0, 1),

    X = M + discount F^T X F,    F = A - B gain,    M = I + 0.3 gain gain^T

(Anderson and Moore, Optimal Control, 1990). Noise on the pushes adds to it and leaves the best gain
where it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

A = torch.tensor([[1.0, 0.3], [0.0, 1.0]], dtype=torch.float64)
B = torch.tensor([0.045, 0.3], dtype=torch.float64)
PRICE = 0.3  # of the square of a push


def episodes(gain: Tensor, spread: float, discount: float, steps: int) -> dict[str, Tensor]:
    """Two episodes of `steps` steps from (1, 0) and (0, 1). Rows are ordered by step: x, shape
    (2 * steps, 2), and the push a there. cost: of both, discounted.
    """
    matrix, push = A.to(gain), B.to(gain)
    x = torch.eye(2).to(gain)
    noise = spread * torch.randn(steps, 2).to(gain)
    states, pushes = [], []
    for step in range(steps):
        a = noise[step] - x @ gain
        states.append(x)
        pushes.append(a)
        x = x @ matrix.T + a[:, None] * push
    s, a = torch.stack(states), torch.stack(pushes)
    weight = discount ** torch.arange(steps).to(gain)
    cost = weight @ (s.square().sum((1, 2)) + PRICE * a.square().sum(1))
    return {"x": s.flatten(0, 1), "a": a.flatten(), "cost": cost}


def expected(gain: Tensor, discount: float) -> Tensor:
    """The cost of both episodes without noise and end; infinite where it does not settle."""
    k = gain.double()
    closed = A - torch.outer(B, k)
    if discount * torch.linalg.eigvals(closed).abs().max() ** 2 >= 1:
        return torch.full((), torch.inf).to(gain)
    weighted = discount * torch.kron(closed.T.contiguous(), closed.T.contiguous())
    stage = torch.eye(2, dtype=torch.float64) + PRICE * torch.outer(k, k)
    x = torch.linalg.solve(torch.eye(4, dtype=torch.float64) - weighted, stage.flatten())
    return (x[0] + x[3]).to(gain)


def riccati(discount: float) -> dict[str, Tensor]:
    """The best gain and its cost, by Riccati's recursion from the end of a long episode."""
    x = torch.zeros(2, 2, dtype=torch.float64)
    gain = torch.zeros(2, dtype=torch.float64)
    for _ in range(1000):
        gain = discount * (B @ x @ A) / (PRICE + discount * (B @ x @ B))
        closed = A - torch.outer(B, gain)
        stage = torch.eye(2, dtype=torch.float64) + PRICE * torch.outer(gain, gain)
        x = stage + discount * closed.T @ x @ closed
    return {"gain": gain, "cost": x.trace()}
