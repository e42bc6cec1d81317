"""A whole solve in one call: the bits of its steps, and a certificate that is true."""

from __future__ import annotations

import pytest
import torch

from bettyc.kernels import dispatch, native
from bettyc.kernels.cg import Info, cg
from bettyc.kernels.cg_update import CURVATURE, NOT_FINITE
from bettyc.kernels.phi import Diagonal
from bettyc.kernels.xt_phi_x import Product


@pytest.fixture(autouse=True)
def only_native():
    if native.library() is None:
        pytest.skip(native.reason())
    with dispatch.use("auto"):
        yield


def system(draw, dtype=torch.float64, n=90, d=17, shift=0.2):
    x, weights, b = draw(n, d).to(dtype), draw(n).abs().to(dtype), draw(d).to(dtype)
    product = Product(x, Diagonal(weights), b, scale=1 / n, shift=shift)
    dense = x.double().T @ (weights.double()[:, None] * x.double()) / n
    return product, dense + shift * torch.eye(d, dtype=torch.float64), b


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("steps", [0, 1, 3, 40])
@pytest.mark.parametrize("warm", [False, True])
def test_takes_the_steps_of_the_recurrence(draw, dtype, steps, warm):
    product, _, b = system(draw, dtype)
    x0 = draw(17).to(dtype) if warm else None
    kept = b.clone()
    u, info = cg(product, b, tol=1e-9, max_iters=steps, damping=0.1, x0=x0, certify=True)
    v, told = cg(lambda p: product(p), b, tol=1e-9, max_iters=steps, damping=0.1, x0=x0)
    assert isinstance(told, Info)
    near = {"rel": 1e-4 if dtype == torch.float32 else 1e-9} if warm else {"rel": 1e-12}
    if warm:  # the first residual may be rounded otherwise
        assert torch.allclose(u, v, rtol=near["rel"], atol=near["rel"])
    else:
        assert torch.equal(u, v)
    assert torch.equal(b, kept)
    for name in ("converged", "curvature", "breakdown"):
        assert getattr(info, name) == getattr(told, name), name
    assert info.relative_residual == pytest.approx(told.relative_residual, **near, abs=1e-9)
    assert (info.min_ritz or 0) == pytest.approx(told.min_ritz or 0, **near)
    assert abs(info.iterations - told.iterations) <= warm
    spent = info.products - info.iterations - warm  # on the true residual
    assert spent == 1 if warm else spent in ((0,) if steps < 40 else (0, 1))


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_the_certificate_is_the_true_residual(draw, damping):
    product, h, b = system(draw)
    u, info = cg(product, b, tol=0.0, max_iters=3, damping=damping, certify=True)
    left = b - h @ u
    assert info.certificate.residual == pytest.approx(float(left.norm()), rel=1e-12)
    assert info.certificate.damped == pytest.approx(float((left - damping * u).norm()), rel=1e-9)
    assert info.certificate.rayleigh == pytest.approx(float(u @ h @ u / (u @ u)), rel=1e-12)
    assert info.size == pytest.approx(float(b.norm()), rel=1e-15)
    assert cg(product, b, max_iters=3)[1].certificate is None


@pytest.mark.parametrize("steps", [2, 6, 17, 40])
def test_a_product_is_spent_where_rounding_may_have_moved_the_residual(draw, steps):
    """In float32: without one the residual is right to a tenth, with one to its own rounding."""
    product, h, b = system(draw, torch.float32)
    u, info = cg(product, b, tol=0.0, max_iters=steps, damping=0.3, certify=True)
    left = b.double() - h @ u.double()
    true = float((left - 0.3 * u).norm())
    spent = info.products - info.iterations
    noise = 1e-6 * float(b.norm())
    assert abs(info.certificate.damped - true) <= (noise if spent else 0.1 * true + noise / 10)
    assert info.certificate.residual == pytest.approx(float(left.norm()), rel=1e-3)
    want = float(u.double() @ h @ u.double() / (u.double() @ u.double()))
    assert info.certificate.rayleigh == pytest.approx(want, rel=1e-5)
    assert spent == (steps > 6)


def test_the_least_ritz_value_becomes_the_least_eigenvalue(draw):
    product, h, b = system(draw, d=9)
    _, info = cg(product, b, tol=0.0, max_iters=9, damping=0.5)
    assert info.min_ritz == pytest.approx(float(torch.linalg.eigvalsh(h)[0]), rel=1e-9)


def test_zero_costs_nothing(draw):
    product, _, b = system(draw)
    u, info = cg(product, torch.zeros_like(b), x0=draw(17), certify=True)
    assert not u.any()
    assert info[1:] == (0.0, info.code, 0, 0, None, None)
    assert info.converged


def test_stops_at_curvature_and_at_what_is_not_finite(draw):
    product, _, b = system(draw, shift=-50.0)
    u, info = cg(product, b, max_iters=5)
    assert info.code == CURVATURE
    assert not u.any()
    assert cg(system(draw, shift=float("nan"))[0], b, max_iters=5)[1].code == NOT_FINITE
