"""The two games of examples/dirac_gan.mlo near their solution, against eigenvalues by hand.

There the discriminator's step is psi - lr theta / 2, the generator's theta + lr psi' / 2 with the
discriminator psi' after its k steps. With h = lr / 2 an update of the usual game is linear with

    psi' = psi - k h theta,  theta' = theta + h psi'                    determinant 1
    of the leading one,      theta' = theta + h psi' - h theta k h      determinant 1 - k h^2

since the leader adds theta dpsi'/dtheta / 2. Both have complex eigenvalues while h is small, whose
size is the root of the determinant.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import bettyc

EXAMPLE = Path(__file__).parents[2] / "examples" / "dirac_gan.mlo"
GAMES = {"usual": ("critic_plain", "maker_plain"), "leading": ("critic", "maker")}


def update(lr: float, steps: int, game: str, opt: int) -> np.ndarray:
    """The Jacobian of one update at the solution, in (psi, theta), by central differences."""
    critic, maker = GAMES[game]
    settings = {"lr": lr, "critic.steps": steps, "critic_plain.steps": steps}
    plan = bettyc.load(EXAMPLE, set={**settings, "run.precision": "fp64"}).compile(opt=opt)

    def after(psi: float, theta: float) -> np.ndarray:
        run = plan.start(seed=0)
        run[critic].assign(psi=psi)
        run[maker].assign(theta=theta)
        run.step()
        return np.array([float(run[critic].psi), float(run[maker].theta)])

    e = 1e-5
    columns = [(after(*p) - after(*-p)) / (2 * e) for p in (np.array([e, 0]), np.array([0, e]))]
    return np.stack(columns, 1)


@pytest.mark.parametrize("opt", [0, 1])
@pytest.mark.parametrize(("lr", "steps"), [(0.2, 5), (0.4, 2)])
def test_the_spectra_are_those_by_hand(lr: float, steps: int, opt: int) -> None:
    torch.set_num_threads(1)
    h = lr / 2
    usual = np.array([[1, -steps * h], [h, 1 - steps * h**2]])
    leading = usual - np.array([[0, 0], [0, steps * h**2]])
    for game, want, size in (
        ("usual", usual, 1.0),
        ("leading", leading, (1 - steps * h**2) ** 0.5),
    ):
        found = update(lr, steps, game, opt)

        np.testing.assert_allclose(found, want, atol=1e-8)
        np.testing.assert_allclose(np.abs(np.linalg.eigvals(found)), size, rtol=1e-7)
