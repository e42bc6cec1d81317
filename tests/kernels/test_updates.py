"""Neumann update, perturbed copies, optimizer steps, weighted losses."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from bettyc.kernels.neumann_update import neumann_update
from bettyc.kernels.optimizer_step import Options, optimizer_step, start
from bettyc.kernels.perturb import perturb
from bettyc.kernels.weighted_loss import weighted_loss

SIZES = [0, 1, 63, 1024, 1025, 2503]
DTYPES = [torch.float64, torch.float32]
BOUND = {torch.float64: 1e-14, torch.float32: 1e-6}


@pytest.mark.parametrize("dtype", DTYPES, ids=["f64", "f32"])
@pytest.mark.parametrize("n", SIZES)
def test_neumann_update(way, guard, draw, close, n, dtype):
    v, total, q = (draw(n).to(dtype) for _ in range(3))
    got_v, got_total, kept = guard(v), guard(total), guard(q)
    along, square = neumann_update(got_v, got_total, kept, 0.3)
    want = v.double() - 0.3 * q.double()
    close(got_v, want, BOUND[dtype])
    close(got_total, total.double() + want, BOUND[dtype])
    assert torch.equal(kept.cpu(), q)
    size = float(v.double().norm() * q.double().norm())
    assert abs(along - float(v.double() @ q.double())) <= BOUND[dtype] * size
    assert square == pytest.approx(float(want @ want), rel=10 * BOUND[dtype])


def test_neumann_series_reaches_the_inverse(way, device, guard, draw, close):
    h = torch.linspace(0.5, 1.5, 40, dtype=torch.float64).to(device)
    a = draw(40)
    v, total = guard(a), guard(a)
    for _ in range(60):
        neumann_update(v, total, h * v, 1.0)
    close(total, a.to(device) / h, 1e-12)


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=["f64", "f32"])
@pytest.mark.parametrize("n", SIZES)
def test_perturb(way, guard, draw, close, n, dtype, relative):
    theta, v = draw(n).to(dtype), draw(n).to(dtype)
    kept = guard(theta), guard(v)
    out = guard(torch.full_like(theta, math.nan)), guard(torch.full_like(theta, math.nan))
    plus, minus, step = perturb(*kept, 0.01, relative=relative, out=out)
    norm = v.double().norm()
    want = (0.01 / norm if n else norm * 0) if relative else torch.tensor(0.01)
    close(step, want.double(), 1e-12 if relative else 1e-7)
    close(plus, theta.double() + want * v.double(), BOUND[dtype] if relative else 1e-6)
    close(minus, theta.double() - want * v.double(), BOUND[dtype] if relative else 1e-6)
    assert torch.equal(kept[0].cpu(), theta)
    assert torch.equal(kept[1].cpu(), v)


def test_perturb_along_zero_copies(way, guard, draw):
    theta = guard(draw(70))
    plus, minus, step = perturb(theta, torch.zeros_like(theta), 0.01)
    assert torch.equal(plus, theta)
    assert torch.equal(minus, theta)
    assert float(step) == 0.0


RULES = {
    "sgd": (Options("sgd"), lambda p: torch.optim.SGD(p, 0.1)),
    "sgd decay": (
        Options("sgd", weight_decay=0.2),
        lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.2),
    ),
    "momentum": (
        Options("sgd", momentum=0.9, dampening=0.3, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.3, weight_decay=0.1),
    ),
    "nesterov": (
        Options("sgd", momentum=0.8, nesterov=True),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.8, nesterov=True),
    ),
    "adam": (
        Options("adam", weight_decay=0.3, betas=(0.8, 0.99), eps=1e-3),
        lambda p: torch.optim.Adam(p, 0.1, betas=(0.8, 0.99), eps=1e-3, weight_decay=0.3),
    ),
    "adamw": (
        Options("adamw", weight_decay=0.3),
        lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.3),
    ),
}


@pytest.mark.parametrize("max_norm", [None, 0.5, 1e6])
@pytest.mark.parametrize("n", [0, 1, 63, 1025, 2503])
@pytest.mark.parametrize("rule", RULES)
def test_optimizer_step_is_torch_optim(way, device, guard, draw, close, rule, n, max_norm):
    """Four steps in float64 against torch.optim and clip_grad_norm_; lr as a number and as a
    tensor.
    """
    options, make = RULES[rule]
    options = Options(**{**vars(options), "max_norm": max_norm})
    begin = draw(n)
    parameter = torch.nn.Parameter(begin.clone())
    optimizer = make([parameter])
    theta = guard(begin)
    state = start(theta, options)
    for k in range(4):
        grad = draw(n)
        parameter.grad = grad.clone()
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_([parameter], max_norm)
        optimizer.step()
        kept = guard(grad)
        lr = torch.tensor(0.1, dtype=torch.float64, device=device) if k % 2 else 0.1
        optimizer_step(theta, kept, state, lr, options)
        assert torch.equal(kept.cpu(), grad)
    close(theta, parameter, 1e-12)
    assert float(state.count) == 4


@pytest.mark.parametrize("rule", RULES)
def test_optimizer_step_in_float32(way, guard, draw, close, rule):
    options, make = RULES[rule]
    begin = draw(130)
    parameter = torch.nn.Parameter(begin.clone())
    optimizer = make([parameter])
    theta = guard(begin.float())
    state = start(theta, options)
    for _ in range(3):
        grad = draw(130).float()
        parameter.grad = grad.double()
        optimizer.step()
        optimizer_step(theta, guard(grad), state, 0.1, options)
    close(theta, parameter, 2e-6)


def loss_of(kind, z, y):
    if kind == "bce":
        return functional.binary_cross_entropy_with_logits(z, y, reduction="none")
    if kind == "squared":
        return (z - y) ** 2 / 2
    return functional.cross_entropy(z, y, reduction="none")


@pytest.mark.parametrize("dtype", DTYPES, ids=["f64", "f32"])
@pytest.mark.parametrize(
    "shape", [(0,), (1,), (1023,), (1025,), (0, 3), (1, 1), (7, 5), (301, 10), (3, 2100)], ids=str
)
def test_weighted_loss_and_its_derivative(way, guard, draw, close, shape, dtype):
    """Against torch's losses and autograd in float64."""
    n = shape[0]
    for kind in ["xent"] if len(shape) == 2 else ["bce", "squared"]:
        z, w = 3 * draw(*shape).to(dtype), draw(n).to(dtype)
        y = torch.arange(n) * 7 % shape[1] if kind == "xent" else draw(n).to(dtype).sigmoid()
        at = z.double().clone().requires_grad_()
        each = loss_of(kind, at, y if kind == "xent" else y.double())
        want = 0.7 * (w.double() * each).sum()
        (slope,) = torch.autograd.grad(want, at)
        loss, dz, got = weighted_loss(kind, guard(z), guard(y), guard(w), 0.7)
        bound = 1e-13 if dtype == torch.float64 else 3e-6
        size = 0.7 * (w.double() * each).abs().sum().item()
        assert abs(float(loss) - want.item()) <= bound * max(size, 1e-300)
        close(dz, slope, bound)
        close(got, each.detach(), bound)


def test_weighted_loss_of_large_outputs(way, guard, close):
    """No exponential overflows, and none is lost below the rounding of one."""
    z = torch.tensor([1e4, -1e4, 80.0, -80.0, 20.0])
    y, w = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0]), torch.ones(5)
    _, dz, each = weighted_loss("bce", guard(z), guard(y), guard(w), 1.0)
    want = torch.tensor([1e4, 1e4, math.exp(-80), math.exp(-80), math.log1p(math.exp(-20))])
    assert torch.allclose(each.cpu(), want, rtol=1e-5, atol=0)
    close(dz, torch.tensor([1.0, -1.0, 0.0, 0.0, -math.exp(-20)]), 1e-6)
    z = torch.tensor([[1e4, 0.0], [0.0, 1e4]])
    y = torch.tensor([0, 0])
    loss, dz, _ = weighted_loss("xent", guard(z), guard(y), guard(torch.ones(2)), 1.0)
    assert float(loss) == pytest.approx(1e4)
    close(dz, torch.tensor([[0.0, 0.0], [-1.0, 1.0]]), 1e-7)


def test_operands_that_do_not_fit_are_refused(draw):
    a, b = draw(3), draw(3)
    with pytest.raises(ValueError, match=r"`q` has shape \(2,\), not \(3,\)"):
        neumann_update(a, b, draw(2), 0.1)
    with pytest.raises(ValueError, match=r"share memory"):
        neumann_update(a, a, b, 0.1)
    with pytest.raises(ValueError, match="`theta` requires grad"):
        perturb(a.clone().requires_grad_(), b, 0.1)
    with pytest.raises(ValueError, match="share memory"):
        perturb(a, b, 0.1, out=(a, draw(3)))
    with pytest.raises(ValueError, match="`grad` is not contiguous"):
        optimizer_step(a, draw(6)[::2], start(a, Options("sgd")), 0.1, Options("sgd"))
    with pytest.raises(ValueError, match="nesterov needs momentum"):
        Options("sgd", nesterov=True)
    with pytest.raises(ValueError, match="no rule 'rmsprop'"):
        Options("rmsprop")
    with pytest.raises(ValueError, match="not a float64 scalar"):
        optimizer_step(a, b, start(a, Options("sgd")), torch.tensor(0.1), Options("sgd"))
    with pytest.raises(ValueError, match="no loss 'hinge'"):
        weighted_loss("hinge", a, b, draw(3), 1.0)
    with pytest.raises(ValueError, match=r"`w` has shape \(2,\), not \(3,\)"):
        weighted_loss("bce", a, b, draw(2), 1.0)
    with pytest.raises(ValueError, match="dtypes of z, y, w"):
        weighted_loss("xent", draw(3, 2), a, b, 1.0)
