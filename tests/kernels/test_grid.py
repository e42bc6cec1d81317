"""No result depends on how many programs, or threads, share the work, beyond rounding."""

from __future__ import annotations

import importlib

import pytest
import torch

from bettyc.kernels import dispatch
from bettyc.kernels.cg import cg
from bettyc.kernels.neumann_update import neumann_update
from bettyc.kernels.perturb import perturb

SIZE = 5000
SHARED_BY_THREADS = 300_000  # elements
USERS = ("cg_update", "cg_single", "neumann_update", "sum_squares")


@pytest.fixture(params=[1, 2, 4])
def shared(request, monkeypatch, way):
    """So many programs of a Triton kernel, or threads of native.c; gives a size that is shared."""
    if way == "torch":
        pytest.skip("the reference has no grid")
    for name in USERS:
        module = importlib.import_module(f"bettyc.kernels.{name}")
        monkeypatch.setattr(module, "programs", lambda n: request.param)
    torch.set_num_threads(request.param)
    return SHARED_BY_THREADS if way == "native" else SIZE


def references(compute):
    """What the same call gives with the grid that the size has by itself, in torch."""
    with dispatch.use("torch"):
        return compute()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
def test_neumann_update(shared, draw, device, dtype):
    v, total, q = (draw(shared).to(dtype).to(device) for _ in range(3))

    def compute():
        moved, summed = v.clone(), total.clone()
        return moved, summed, neumann_update(moved, summed, q, 0.3)

    found, wanted = compute(), references(compute)
    eps = torch.finfo(dtype).eps
    for a, b in zip(found[:2], wanted[:2], strict=True):
        torch.testing.assert_close(a, b, rtol=4 * eps, atol=4 * eps)
    exact = v.double() @ q.double(), (v.double() - 0.3 * q.double()).square().sum()
    assert found[2][0] == pytest.approx(float(exact[0]), abs=1e-12 * float(v.norm() * q.norm()))
    assert found[2][1] == pytest.approx(float(exact[1]), rel=10 * eps)


@pytest.mark.parametrize("method", ["classic", "single"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
def test_conjugate_gradient(shared, draw, device, dtype, method):
    values = (1 + draw(shared).abs()).to(dtype).to(device)
    b = draw(shared).to(dtype).to(device)

    def compute():
        x, info = cg(lambda p: values * p, b, tol=1e-4, method=method)
        return x, info.iterations

    (x, steps), (wanted, taken) = compute(), references(compute)
    assert steps == taken
    bound = 1e-12 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(x, wanted, rtol=bound, atol=bound)


def test_perturb(shared, draw, device):
    theta, v = (draw(shared).float().to(device) for _ in range(2))
    plus, minus, size = perturb(theta, v, 0.01)
    assert float(size) == pytest.approx(0.01 / float(v.double().norm()), rel=1e-6)
    step = 0.01 / v.double().norm()
    torch.testing.assert_close(plus.double(), theta.double() + step * v, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(minus.double(), theta.double() - step * v, rtol=1e-6, atol=1e-6)
