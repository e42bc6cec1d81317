"""portfolio.mlo against SLSQP of scipy: the portfolios, and the hypergradient through them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import bettyc

optimize = pytest.importorskip("scipy.optimize")
EXAMPLES = Path(__file__).parent.parent / "examples"
ROWS = 4


def portfolio(predicted: np.ndarray, loadings: np.ndarray) -> np.ndarray:
    """The best portfolio of one day, found as a constrained problem in the weights themselves."""
    H = loadings @ loadings.T + 4 * np.eye(len(loadings))
    found = optimize.minimize(
        lambda w: 0.5 * w @ H @ w - w @ predicted,
        np.full(len(H), 1 / len(H)),
        jac=lambda w: H @ w - predicted,
        bounds=[(0, None)] * len(H),
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return found.x


def least_squares(x: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The program's `plain`: mean squared error + 1e-3 |A|^2 + 1e-6 |b|^2, solved densely."""
    ones = np.column_stack([x, np.ones(len(x))])
    decay = np.diag([1e-3] * x.shape[1] + [1e-6]) * r.size
    both = np.linalg.solve(ones.T @ ones + decay, ones.T @ r)
    return both[:-1], both[-1]


def test_portfolios_and_their_hypergradient_are_those_of_slsqp(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    source = pytest.importorskip("portfolio")
    train = {k: v.double() for k, v in source.days(ROWS, 16, 0, 0).items()}
    L = source.loadings(0)["L"].double()
    tight = {"run.precision": "fp64", "allocate.optimizer.tol": 1e-10}
    program = bettyc.load(EXAMPLES / "portfolio.mlo", set=tight)
    run = program.compile(data={"train": train, "test": train}).start()
    draw = torch.Generator().manual_seed(0)
    A = torch.randn(5, 10, generator=draw, dtype=torch.float64)
    A0, b0 = least_squares(train["x"].numpy(), train["r"].numpy())
    run["predict"].assign(A=A)
    found = run.hypergrad("predict")

    def value(A: np.ndarray) -> float:
        """The utility of SLSQP's portfolios, as the program writes it."""
        predicted = train["x"].numpy() @ (A0 + A) + b0
        w = np.stack([portfolio(row, L.numpy()) for row in predicted])
        variance = ((w @ L.numpy()) ** 2).sum(1) + 4 * (w**2).sum(1)
        gained = (w * train["r"].numpy()).sum(1) - 0.5 * variance
        return float(gained.mean() - 1e-3 * (A**2).sum())

    assert float(found.loss) == pytest.approx(value(A.numpy()), abs=1e-6)
    h = 1e-3
    for i, j in [(0, 0), (1, 3), (4, 9), (2, 6)]:
        moved = np.zeros((5, 10))
        moved[i, j] = h
        difference = (value(A.numpy() + moved) - value(A.numpy() - moved)) / (2 * h)
        assert float(found["A"][i, j]) == pytest.approx(difference, abs=1e-4)
