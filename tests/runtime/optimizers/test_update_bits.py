"""Every update rule gives the bits of torch.optim, out of place and in place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bettyc.optimizers import OPTIMIZERS
from bettyc.runtime.optimizers import RULES, View, rule_of
from bettyc.runtime.optimizers.arithmetic import InPlace, Pure

ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False}
RMS = {
    "lr": 1e-2,
    "alpha": 0.99,
    "eps": 1e-8,
    "weight_decay": 0.0,
    "momentum": 0.0,
    "centered": False,
}
SGD = {"lr": 0.1, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False}
ADAGRAD = {
    "lr": 1e-2,
    "lr_decay": 0.0,
    "weight_decay": 0.0,
    "initial_accumulator_value": 0.0,
    "eps": 1e-10,
}
CASES = [
    ("sgd", torch.optim.SGD, SGD),
    ("sgd", torch.optim.SGD, {**SGD, "momentum": 0.9, "weight_decay": 1e-2}),
    ("sgd", torch.optim.SGD, {**SGD, "momentum": 0.8, "dampening": 0.3}),
    ("sgd", torch.optim.SGD, {**SGD, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}),
    ("adam", torch.optim.Adam, ADAM),
    ("adam", torch.optim.Adam, {**ADAM, "amsgrad": True, "weight_decay": 0.1, "betas": (0.5, 0.9)}),
    ("adamw", torch.optim.AdamW, {**ADAM, "weight_decay": 0.1, "lr": 0.05}),
    ("rmsprop", torch.optim.RMSprop, RMS),
    (
        "rmsprop",
        torch.optim.RMSprop,
        {**RMS, "momentum": 0.9, "centered": True, "weight_decay": 0.01},
    ),
    ("adagrad", torch.optim.Adagrad, ADAGRAD),
    (
        "adagrad",
        torch.optim.Adagrad,
        {**ADAGRAD, "lr_decay": 0.1, "weight_decay": 0.05, "initial_accumulator_value": 0.5},
    ),
]


def gradients(count: int, dtype: torch.dtype) -> list[Tensor]:
    g = torch.Generator().manual_seed(1)
    return [torch.randn(37, generator=g, dtype=dtype) for _ in range(count)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ops", [Pure, InPlace])
@pytest.mark.parametrize(("name", "theirs", "options"), CASES)
def test_bits_of_torch(name, theirs, options, ops, dtype):
    start = torch.linspace(-1, 1, 37, dtype=dtype)
    parameter = torch.nn.Parameter(start.clone())
    optimizer = theirs([parameter], **options, foreach=False)
    theta = start.clone()
    state = RULES[name].init(theta, options)
    for count, grad in enumerate(gradients(12, dtype)):
        parameter.grad = grad.clone()
        optimizer.step()
        theta, state = RULES[name].update(theta, grad, state, count, options, ops)

    assert torch.equal(theta, parameter.detach())


@pytest.mark.parametrize(("name", "theirs", "options"), CASES)
def test_pure_update_leaves_its_input_alone(name, theirs, options):
    theta = torch.linspace(-1, 1, 37, dtype=torch.float64)
    grads = gradients(2, torch.float64)
    _, state = RULES[name].update(theta, grads[0], RULES[name].init(theta, options), 0, options)
    copies = {k: v.clone() for k, v in state.items()}
    before = theta.clone()

    RULES[name].update(theta, grads[1], state, 1, options)

    assert torch.equal(theta, before)
    for key, value in copies.items():
        assert torch.equal(state[key], value)


@pytest.mark.parametrize(("name", "theirs", "options"), CASES)
def test_differentiable_in_theta_grad_and_rate(name, theirs, options):
    """Three updates against central differences, the learning rate as a tensor."""
    grads = [g[:4] for g in gradients(3, torch.float64)]

    def final(theta, lr, scale):
        state = RULES[name].init(theta, options)
        for count, g in enumerate(grads):
            theta, state = RULES[name].update(theta, scale * g, state, count, {**options, "lr": lr})
        return theta

    theta = torch.linspace(-1, 1, 4, dtype=torch.float64, requires_grad=True)
    lr = torch.tensor(0.07, dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(final, (theta, lr, scale), eps=1e-6, atol=1e-6)


def test_adam_is_differentiable_where_the_gradient_was_always_zero():
    options = {**ADAM, "lr": 0.1}
    theta = torch.ones(2, dtype=torch.float64, requires_grad=True)
    state = RULES["adam"].init(theta, options)
    after, _ = RULES["adam"].update(theta, theta * torch.tensor([0.0, 1.0]), state, 0, options)

    (grad,) = torch.autograd.grad(after.sum(), theta)

    assert grad[0] == 1.0
    assert torch.isfinite(grad).all()


def test_a_tensor_rate_gives_the_number_s_update():
    options = {**SGD, "lr": 0.3}
    theta, grad = torch.arange(3.0), torch.ones(3)
    number, _ = RULES["sgd"].update(theta, grad, {}, 0, options)
    tensor, _ = RULES["sgd"].update(theta, grad, {}, 0, {**options, "lr": torch.tensor(0.3)})

    torch.testing.assert_close(number, tensor)


def test_sign_sgd():
    theta, _ = RULES["sign_sgd"].update(
        torch.zeros(3), torch.tensor([2.0, 0.0, -5.0]), {}, 0, {"lr": 0.25}
    )

    assert theta.tolist() == [-0.25, 0.0, 0.25]


THEIRS = {
    "adadelta": torch.optim.Adadelta, "adamax": torch.optim.Adamax, "asgd": torch.optim.ASGD,
    "nadam": torch.optim.NAdam, "radam": torch.optim.RAdam, "rprop": torch.optim.Rprop,
    "adafactor": torch.optim.Adafactor,
}  # fmt: skip
VIEWS = (View(0, 12, (3, 4)), View(12, 15, (3,)))


@pytest.mark.parametrize("ops", [Pure, InPlace])
@pytest.mark.parametrize("name", THEIRS)
def test_torch_s_other_optimizers_have_its_bits_and_defaults(name, ops):
    start = torch.linspace(-1, 1, 15)
    twins = [torch.nn.Parameter(start[v.start : v.stop].view(v.shape).clone()) for v in VIEWS]
    optimizer = THEIRS[name](twins, foreach=False)
    ours = rule_of(name, VIEWS)
    options = vars(OPTIMIZERS[name]())
    theta, state = start.clone(), ours.init(start, options)
    for count in range(8):
        grad = torch.randn(15, generator=torch.Generator().manual_seed(count))
        for twin, v in zip(twins, VIEWS, strict=True):
            twin.grad = grad[v.start : v.stop].view(v.shape).clone()
        optimizer.step()
        before, held = theta.clone(), {k: v.clone() for k, v in state.items()}
        new, new_state = ours.update(theta, grad, state, count, options, ops)
        if ops is Pure:
            assert torch.equal(theta, before)
            assert all(torch.equal(held[k], state[k]) for k in held)
        theta, state = new, new_state

    assert torch.equal(theta, torch.cat([t.detach().reshape(-1) for t in twins]))


def test_muon_moves_matrices_and_adamw_the_rest():
    theta, grad = torch.linspace(-1, 1, 15), torch.linspace(1, -1, 15) ** 3
    options = vars(OPTIMIZERS["muon"]())
    found, _ = rule_of("muon", VIEWS).update(theta, grad, {}, 0, options)
    matrix, vector = (
        torch.nn.Parameter(theta[v.start : v.stop].view(v.shape).clone()) for v in VIEWS
    )
    matrix.grad, vector.grad = grad[:12].view(3, 4).clone(), grad[12:].clone()
    torch.optim.Muon([matrix]).step()
    torch.optim.AdamW([vector], lr=1e-3, weight_decay=0.1, foreach=False).step()

    assert torch.equal(found, torch.cat([matrix.detach().reshape(-1), vector.detach()]))


def test_every_optimizer_of_the_language_has_a_rule_or_solves():
    for name, table in OPTIMIZERS.items():
        assert table.solves == (rule_of(name, VIEWS) is None), name
