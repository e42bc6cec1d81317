"""The distortions of examples/augmentation.mlo, on images where the answer is known."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("sklearn")
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def distorted(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import distortions

    yield distortions.distorted
    del sys.modules["distortions"]


def one_each(pose: list[float], strength: list[float], distorted: Any) -> tuple[Any, Any]:
    """An image and what becomes of it, both of shape (8, 8)."""
    x = torch.rand(1, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pixels = torch.ones(1, 64, dtype=torch.float64)
    out = distorted(
        x,
        torch.tensor(strength, dtype=torch.float64),
        torch.tensor([pose], dtype=torch.float64),
        pixels,
    )
    return x.reshape(8, 8), out.reshape(8, 8)


def test_strength_zero_changes_nothing(distorted: Any) -> None:
    image, out = one_each([1.0, 1.0, 1.0], [0.0, 0.0, 0.0], distorted)

    torch.testing.assert_close(out, image)


def test_a_quarter_turn(distorted: Any) -> None:
    image, out = one_each([1.0, 0.0, 0.0], [torch.pi / 2, 0.0, 0.0], distorted)

    torch.testing.assert_close(out, image.rot90(1))


def test_a_shift_by_whole_pixels_and_noise(distorted: Any) -> None:
    image, out = one_each([0.0, 2.0, -1.0], [0.0, 1.0, 0.25], distorted)

    expected = torch.zeros(8, 8, dtype=torch.float64)
    expected[2:, :-1] = image[:-2, 1:]  # down by two, left by one
    torch.testing.assert_close(out, expected + 0.25)


def test_the_derivative_in_the_strengths(distorted: Any) -> None:
    random = torch.Generator().manual_seed(1)
    x, pixels = (torch.rand(2, 64, dtype=torch.float64, generator=random) for _ in range(2))
    pose = torch.randn(2, 3, dtype=torch.float64, generator=random)
    strength = torch.tensor([0.3, 0.4, 0.1], dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(lambda s: distorted(x, s, pose, pixels), strength)
