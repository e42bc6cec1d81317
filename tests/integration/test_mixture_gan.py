"""The two games of examples/mixture_gan.mlo near their solution, against eigenvalues by hand.

At the solution, where real and made points are alike and the discriminator's weights w are 0, its
gradient is J t / 2 and its Hessian A = M / 2 + 2 l2: M is the second moment of what it sees, J the
derivative of its mean in what the generator is off by, t = (shift, log_size). The generator's
gradient in t is -J^T w / 2, in w it is -J t / 2 + M w / 4. With P = (1 - lr A)^k and
S = A^-1 (1 - P) after k steps an update is

    w' = P w - S J t / 2,   t' = t + lr J^T w' / 2    of the simultaneous game

and where the generator leads its gradient has (dw'/dt)^T (M w' / 4 - J t / 2) more, which makes it

    t' = t + lr J^T (1 + S M / 4) w' / 2 - lr J^T S J t / 4.

What is seen is uncorrelated, so this falls into blocks of two with determinants p of the one game
and p (1 - lr j^2 s / 4) of the other.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import bettyc

EXAMPLE = Path(__file__).parents[2] / "examples" / "mixture_gan.mlo"
GAMES = {"simultaneous": ("critic_plain", "maker_plain"), "leading": ("critic", "maker")}


def points(radius: float, spread: float) -> Tensor:
    """Thirty-two points with the mean and covariance of the mixture, and of its every part."""
    angle = 2 * math.pi / 8 * torch.arange(8, dtype=torch.float64)
    centres = radius * torch.stack([angle.cos(), angle.sin()], -1)
    away = 2**0.5 * spread * torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]).double()
    return (centres[:, None] + away).flatten(0, 1)


def jacobians(values: dict[str, float], updates: int = 1, opt: int = 1) -> dict[str, np.ndarray]:
    """Of so many updates, in (place, far, shift, log_size) at 0, by central differences."""
    x = points(values["radius"], values["spread"])
    program = bettyc.load(EXAMPLE, set={"B": 32, "run.precision": "fp64", **values})
    run = program.compile(opt=opt, externs={"batch": lambda *_, **__: {"x": x, "z": x}}).start()

    def after(v: np.ndarray) -> np.ndarray:
        for critic, maker in GAMES.values():
            run[critic].assign(place=v[:2], far=v[2])
            run[maker].assign(shift=v[3:5], log_size=v[5])
        for _ in range(updates):
            run.step()
        found = [
            (run[critic].place, run[critic].far, run[maker].shift, run[maker].log_size)
            for critic, maker in GAMES.values()
        ]
        return np.stack([np.concatenate([np.atleast_1d(f) for f in game]) for game in found])

    e = 1e-5
    both = np.stack([(after(e * d) - after(-e * d)) / (2 * e) for d in np.eye(6)], -1)
    return dict(zip(GAMES, both, strict=True))


def by_hand(game: str, values: dict[str, float], steps: int) -> np.ndarray:
    radius, spread, lr, l2 = (values[k] for k in ("radius", "spread", "lr", "l2"))
    x = points(radius, spread).numpy()
    seen = np.c_[x, (x**2).sum(1) / radius**2 - 1 - 2 * (spread / radius) ** 2]
    slope = np.diag([1, 1, 2 * (1 + 2 * (spread / radius) ** 2)])
    moment = seen.T @ seen / len(x)
    curvature = moment / 2 + 2 * l2 * np.eye(3)
    left = np.linalg.matrix_power(np.eye(3) - lr * curvature, steps)
    path = np.linalg.solve(curvature, np.eye(3) - left)
    critic = np.c_[left, -path @ slope / 2]
    maker = np.c_[np.zeros((3, 3)), np.eye(3)] + lr / 2 * slope @ critic
    if game == "leading":
        maker += lr / 8 * slope @ path @ moment @ critic
        maker[:, 3:] -= lr / 4 * slope @ path @ slope
    return np.r_[critic, maker]


THIN = {"radius": 2.0, "spread": 0.1, "l2": 1e-4, "lr": 0.2}
SETTINGS = {
    "thin": THIN,
    "thick": {**THIN, "spread": 1.0},
    "decayed": {**THIN, "l2": 0.05},
    "small": {**THIN, "radius": 0.3, "lr": 0.3},
}


@pytest.mark.parametrize(("name", "opt"), [*((name, 1) for name in SETTINGS), ("thin", 0)])
def test_an_update_is_that_by_hand(name: str, opt: int) -> None:
    torch.set_num_threads(1)
    values = SETTINGS[name]

    for game, found in jacobians(values, opt=opt).items():
        np.testing.assert_allclose(found, by_hand(game, values, 5), atol=1e-7, err_msg=game)


def test_the_size_goes_round_in_one_game_and_settles_in_the_other() -> None:
    """The sizes in the example's text, of 20 updates of the run."""
    torch.set_num_threads(1)
    a = 4 * (0.1 / 2) ** 2 / 2 + 2e-4
    p = (1 - 0.2 * a) ** 5
    slope, s = 2 * (1 + 2 * (0.1 / 2) ** 2), (1 - p) / a
    sizes = {"simultaneous": p**0.5, "leading": (p * (1 - 0.2 * slope**2 * s / 4)) ** 0.5}
    own = [2, 5]  # far and log_size

    for game, found in jacobians(THIN, updates=20).items():
        np.testing.assert_allclose(np.delete(found[own], own, 1), 0, atol=1e-8)
        eigenvalues = np.linalg.eigvals(found[np.ix_(own, own)])
        np.testing.assert_allclose(np.abs(eigenvalues) ** (1 / 20), sizes[game], rtol=1e-6)
        once = np.linalg.eigvals(by_hand(game, THIN, 5)[np.ix_(own, own)])
        assert np.abs(once.imag).min() > 0
