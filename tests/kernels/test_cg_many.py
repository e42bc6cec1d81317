"""Many systems at once, and whole solves in one launch."""

from __future__ import annotations

import pytest
import torch

from bettyc.kernels import cg_batched, cg_small
from bettyc.kernels.cg_update import CONVERGED, CURVATURE, NOT_FINITE, RUNNING


def systems(draw, m, n):
    """m symmetric positive definite matrices with eigenvalues 1, 9 .. 41: few, so CG takes few
    steps.
    """
    q, _ = torch.linalg.qr(draw(m, n, n))
    return q @ ((1.0 + 8 * (torch.arange(n) % 6))[:, None] * q.mT)


SHAPES = [(0, 3), (1, 1), (3, 0), (5, 7), (3, 31), (2, 129)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batched_solves_every_system(way, device, draw, close, shape):
    a, b = systems(draw, *shape).to(device), draw(*shape).to(device)
    x, state = cg_batched.cg_batched(
        lambda p: torch.bmm(a, p[:, :, None])[:, :, 0], b, tol=1e-12, damping=0.5, max_iters=90
    )
    shifted = a + 0.5 * torch.eye(shape[1], dtype=torch.float64, device=device)
    close(x, torch.linalg.solve(shifted, b[:, :, None])[:, :, 0], 1e-9)
    assert (state[:, 2] == CONVERGED).all()


def test_batched_vectors_longer_than_a_block(way, device, guard, draw, close, monkeypatch):
    monkeypatch.setattr(cg_batched, "MAX_BLOCK", 32)
    h = (1 + torch.arange(4 * 101) % 7).double().view(4, 101).to(device)
    b = draw(4, 101)
    x, state = cg_batched.cg_batched(lambda p: h * p, guard(b), tol=1e-12, max_iters=12)
    close(x, b.to(device) / h, 1e-11)
    # seven different eigenvalues: seven steps
    assert (state[:, 3] == 7).all()


def test_batched_systems_stop_each_on_its_own(way, device, draw, close):
    """One zero, one isotropic, one indefinite, one that is not finite, one that needs all its
    steps.
    """
    n = 12
    b = draw(5, n).to(device)
    b[0] = 0
    h = torch.ones(5, n, dtype=torch.float64, device=device)
    h[2], h[3], h[4] = -1.0, float("nan"), torch.arange(1, n + 1)
    x, state = cg_batched.cg_batched(lambda p: h * p, b, tol=1e-10, max_iters=20)
    assert state[:, 2].tolist() == [CONVERGED, CONVERGED, CURVATURE, NOT_FINITE, CONVERGED]
    assert state[:4, 3].tolist() == [0, 1, 0, 0]
    close(x[4], b[4] / h[4], 1e-9)
    assert torch.equal(x[2], torch.zeros_like(x[2]))
    assert torch.equal(x[3], torch.zeros_like(x[3]))


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_small_solves_every_system(way, guard, draw, close, monkeypatch, shape, resident):
    if not resident:
        monkeypatch.setattr(cg_small, "MAX_RESIDENT", 0)
        monkeypatch.setattr(cg_small, "TILE", 2048)
    a, b = systems(draw, *shape), draw(*shape)
    x, state = cg_small.cg_small(guard(a), guard(b), tol=1e-12, damping=0.5)
    shifted = a + 0.5 * torch.eye(shape[1], dtype=torch.float64)
    close(x, torch.linalg.solve(shifted, b[:, :, None])[:, :, 0], 1e-9)
    assert (state[:, 2] == CONVERGED).all()


def test_small_in_float32_reaches_float32(way, guard, draw, close):
    a, b = systems(draw, 3, 40).float(), draw(3, 40).float()
    x, _ = cg_small.cg_small(guard(a), guard(b), tol=1e-6)
    close(x, torch.linalg.solve(a.double(), b.double()[:, :, None])[:, :, 0], 1e-4)


def test_small_stops_as_batched_does(way, device, draw):
    n = 6
    b = draw(5, n).to(device)
    b[0] = 0
    diagonals = torch.ones(5, n, dtype=torch.float64, device=device)
    diagonals[2], diagonals[4] = -1.0, torch.arange(1, n + 1)
    a = torch.diag_embed(diagonals)
    a[3] = float("nan")
    x, state = cg_small.cg_small(a, b, tol=1e-10)
    assert state[:, 2].tolist() == [CONVERGED, CONVERGED, CURVATURE, NOT_FINITE, CONVERGED]
    assert state[:, 3].tolist() == [0, 1, 0, 0, n]
    assert torch.isfinite(x).all()


def test_small_stops_at_the_limit(way, device, draw):
    a, b = systems(draw, 2, 20).to(device), draw(2, 20).to(device)
    _, state = cg_small.cg_small(a, b, tol=1e-12, max_iters=4)
    assert state[:, 2].tolist() == [RUNNING, RUNNING]
    assert state[:, 3].tolist() == [4, 4]


def test_operands_that_do_not_fit_are_refused(draw):
    with pytest.raises(ValueError, match=r"\(3,\); it must be \(systems, n\)"):
        cg_batched.cg_batched(lambda p: p, draw(3))
    with pytest.raises(ValueError, match=r"`a` is torch.float64 \(2, 3, 4\)"):
        cg_small.cg_small(draw(2, 3, 4), draw(2, 3))
    with pytest.raises(ValueError, match="`a` is not contiguous"):
        cg_small.cg_small(systems(draw, 2, 3).mT, draw(2, 3))
