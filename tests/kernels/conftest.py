"""Every test of an operation runs once per way of computing it.

`way` is torch and native in the usual process, interpret in a process started with
TRITON_INTERPRET=1 (test_interpreted.py starts one), and cuda where there is a GPU (`pytest -m
gpu`). Memory that a kernel is to fill arrives full of NaN, and every operand made by `guard` lies
between two stretches of sentinels that must be unchanged at the end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from bettyc.kernels import dispatch, native

INTERPRET = os.environ.get("TRITON_INTERPRET") == "1"
MODES = {"torch": "torch", "native": "auto", "interpret": "interpret", "cuda": "triton"}
SENTINEL, PADDING = 12345.0, 64


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "way" in metafunc.fixturenames:
        ways: list[object] = ["interpret"] if INTERPRET else ["torch", "native"]
        if torch.cuda.is_available() and not INTERPRET:
            ways.append(pytest.param("cuda", marks=pytest.mark.gpu))
        metafunc.parametrize("way", ways, indirect=True)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "native" and native.library() is None:
        pytest.skip(native.reason())
    with dispatch.use(MODES[request.param]):
        yield request.param


@pytest.fixture
def device(way: str) -> str:
    return "cuda" if way == "cuda" else "cpu"


@pytest.fixture(autouse=True)
def nan_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uninitialised memory is NaN, so that an output nobody writes cannot pass."""
    empty, empty_like, new_empty = torch.empty, torch.empty_like, Tensor.new_empty

    def fill(tensor: Tensor) -> Tensor:
        return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch, "empty", lambda *a, **k: fill(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: fill(empty_like(*a, **k)))
    monkeypatch.setattr(Tensor, "new_empty", lambda *a, **k: fill(new_empty(*a, **k)))


@pytest.fixture
def guard(device: str) -> Iterator[Callable[[Tensor], Tensor]]:
    """guard(t): a copy of t on the way's device, between sentinels."""
    made: list[tuple[Tensor, int]] = []

    def place(tensor: Tensor) -> Tensor:
        size = tensor.numel()
        fill = SENTINEL if tensor.is_floating_point() else 0
        room = torch.full((size + 2 * PADDING,), fill, dtype=tensor.dtype, device=device)
        room[PADDING : PADDING + size] = tensor.reshape(-1).to(device)
        made.append((room, size))
        return room[PADDING : PADDING + size].view(tensor.shape)

    yield place
    for room, size in made:
        fill = SENTINEL if room.is_floating_point() else 0
        assert (room[:PADDING] == fill).all(), "written before the beginning"
        assert (room[PADDING + size :] == fill).all(), "written past the end"


@pytest.fixture
def draw() -> Callable[..., Tensor]:
    """draw(shape, ...): standard normal numbers in float64, the same in every run."""
    generator = torch.Generator().manual_seed(20240917)
    return lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=generator)


@pytest.fixture
def close() -> Callable[[Tensor, Tensor, float], None]:
    """close(got, want, bound): the error relative to the largest expected entry is within the
    bound.
    """

    def compare(got: Tensor, want: Tensor, bound: float) -> None:
        assert got.shape == want.shape
        got, want = got.detach().double().cpu(), want.double().cpu()
        assert torch.isfinite(got).all()
        scale = want.abs().max().item() if want.numel() else 1.0
        worst = (got - want).abs().max().item() if want.numel() else 0.0
        assert worst <= bound * max(scale, 1e-300), f"{worst / scale:.2e} > {bound:.0e}"

    return compare
