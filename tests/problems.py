"""Multilevel problems with known hypergradients, written as torch functions of flat variables.

The answers are algebra in dense float64: no code of `bettyc.runtime` is used to make them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bettyc.plan import Pull
from bettyc.runtime.objective import Frame

FRAME = Frame({})


@dataclass(frozen=True)
class Formula:
    """An objective from a torch function of the variables (and of the frame, where it takes
    one).
    """

    level: str
    reads: tuple[str, ...]
    function: Callable[..., Tensor]
    framed: bool = False

    def __call__(self, theta: Mapping[str, Tensor], frame: Frame) -> Tensor:
        return self.function(theta, frame) if self.framed else self.function(theta)


@dataclass(frozen=True)
class Problem:
    """Objectives by level, a point, and the levels from the lowest to the highest.

    `answer`: the hypergradient of the top level at that point, where it is known in closed form.
    """

    objectives: Mapping[str, Formula]
    theta: Mapping[str, Tensor]
    order: tuple[str, ...]
    pulls: tuple[Pull, ...] = ()
    answer: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def top(self) -> str:
        return self.order[-1]

    @property
    def frames(self) -> dict[str, Frame]:
        return dict.fromkeys(self.objectives, FRAME)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def spd(n: int, condition: float, seed: int) -> Tensor:
    """A symmetric matrix with eigenvalues spread evenly in the logarithm over [1 /
    condition, 1].
    """
    q, _ = torch.linalg.qr(normal(n, n, seed=seed))
    values = torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), n, dtype=torch.float64)
    h = (q * values) @ q.T
    return 0.5 * (h + h.T)


def two_levels(h: Tensor, seed: int = 0, uppers: int = 3) -> Problem:
    r"""C_low = 1/2 w.Hw + w.Bx + b.w and C_up = 1/2 |w - c|^2 + 1/2 |x|^2, at w = H^+ (-Bx - b).

    The hypergradient at any w is x - B^T H^-1 (w - c), as H and B are constant.
    """
    n = len(h)
    b_x, b, c = normal(n, uppers, seed=seed), normal(n, seed=seed + 1), normal(n, seed=seed + 2)
    x = normal(uppers, seed=seed + 3)
    w = (
        -torch.linalg.pinv(h, hermitian=True) @ (b_x @ x + b)
        if n
        else torch.zeros(0, dtype=h.dtype)
    )
    low = Formula("low", ("low", "up"), lambda t: quadratic(h, b_x, b, t["low"], t["up"]))
    up = Formula(
        "up",
        ("up", "low"),
        lambda t: 0.5 * (t["low"] - c).square().sum() + 0.5 * t["up"].square().sum(),
    )
    u = torch.linalg.pinv(h, hermitian=True) @ (w - c) if n else w
    return Problem(
        {"low": low, "up": up},
        {"low": w, "up": x},
        ("low", "up"),
        (Pull("low", ("up",)),),
        x - b_x.T @ u,
        {"h": h, "b_x": b_x, "b": b, "a": w - c},
    )


def quadratic(h: Tensor, b_x: Tensor, b: Tensor, w: Tensor, x: Tensor) -> Tensor:
    """1/2 w.Hw + w.Bx + b.w"""
    return 0.5 * w @ h @ w + w @ (b_x @ x) + b @ w


def ridge(n: int = 30, d: int = 6, seed: int = 0) -> Problem:
    r"""Ridge regression with one log penalty per coordinate, validated on other rows.

    w(x) = (X^T X / n + diag(e^x))^-1 X^T y / n; dw_j/dx_i = -(A^-1)_ji e^{x_i} w_i.
    """
    x_train, x_val = normal(n, d, seed=seed), normal(n, d, seed=seed + 1)
    truth = normal(d, seed=seed + 2)
    y_train = x_train @ truth + 0.5 * normal(n, seed=seed + 3)
    y_val = x_val @ truth + 0.5 * normal(n, seed=seed + 4)
    log_wd = 0.3 * normal(d, seed=seed + 5) - 1

    def fit(t: Mapping[str, Tensor]) -> Tensor:
        error = x_train @ t["fit"] - y_train
        return 0.5 * error.square().mean() + 0.5 * (t["tune"].exp() * t["fit"].square()).sum()

    def tune(t: Mapping[str, Tensor]) -> Tensor:
        return (x_val @ t["fit"] - y_val).square().mean()

    a = x_train.T @ x_train / n + torch.diag(log_wd.exp())
    w = torch.linalg.solve(a, x_train.T @ y_train / n)
    outer = 2 * x_val.T @ (x_val @ w - y_val) / n
    answer = -log_wd.exp() * w * torch.linalg.solve(a, outer)
    return Problem(
        {
            "fit": Formula("fit", ("fit", "tune"), fit),
            "tune": Formula("tune", ("tune", "fit"), tune),
        },
        {"fit": w, "tune": log_wd},
        ("fit", "tune"),
        (Pull("fit", ("tune",)),),
        answer,
        {"h": a, "a": outer, "cross": torch.diag(log_wd.exp() * w)},
    )


def logistic(n: int = 60, d: int = 5, seed: int = 0) -> Problem:
    """Logistic regression with one log penalty per coordinate; the fit is Newton's, to rounding."""
    x_train, x_val = normal(n, d, seed=seed), normal(n, d, seed=seed + 1)
    truth = normal(d, seed=seed + 2)
    y_train = (x_train @ truth + normal(n, seed=seed + 3) > 0).double()
    y_val = (x_val @ truth + normal(n, seed=seed + 4) > 0).double()
    log_wd = 0.3 * normal(d, seed=seed + 5) - 2

    def bce(z: Tensor, y: Tensor) -> Tensor:
        return (torch.nn.functional.softplus(z) - y * z).mean()

    def fit(t: Mapping[str, Tensor]) -> Tensor:
        return bce(x_train @ t["fit"], y_train) + 0.5 * (t["tune"].exp() * t["fit"].square()).sum()

    def tune(t: Mapping[str, Tensor]) -> Tensor:
        return bce(x_val @ t["fit"], y_val)

    def solved(log_wd: Tensor) -> Tensor:
        w = torch.zeros(d, dtype=torch.float64)
        for _ in range(40):
            s = torch.sigmoid(x_train @ w)
            g = x_train.T @ (s - y_train) / n + log_wd.exp() * w
            h = (x_train.T * (s * (1 - s))) @ x_train / n + torch.diag(log_wd.exp())
            w = w - torch.linalg.solve(h, g)
        return w

    w = solved(log_wd)
    s = torch.sigmoid(x_train @ w)
    h = (x_train.T * (s * (1 - s))) @ x_train / n + torch.diag(log_wd.exp())
    return Problem(
        {
            "fit": Formula("fit", ("fit", "tune"), fit),
            "tune": Formula("tune", ("tune", "fit"), tune),
        },
        {"fit": w, "tune": log_wd},
        ("fit", "tune"),
        (Pull("fit", ("tune",)),),
        central(lambda x: tune({"fit": solved(x), "tune": x}), log_wd),
        {"h": h},
    )


def central(function: Callable[[Tensor], Tensor], x: Tensor, step: float = 1e-5) -> Tensor:
    """The gradient of a scalar function by central differences."""
    found = torch.zeros_like(x)
    for i in range(x.numel()):
        e = torch.zeros_like(x)
        e[i] = step
        found[i] = (function(x + e) - function(x - e)) / (2 * step)
    return found


def relative(found: Tensor, expected: Tensor) -> float:
    """||found - expected|| / ||expected||, over the whole vector."""
    return float((found - expected).norm() / expected.norm())
