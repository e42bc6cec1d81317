"""Parameter groups: the bits of torch.optim with `param_groups`, for every optimizer that steps."""

from __future__ import annotations

import pytest
import torch
from toys import classification, start

from bettyc.api import MloError
from bettyc.failures import InputError
from bettyc.optimizers import OPTIMIZERS
from bettyc.runtime.optimizers import View, rule_of
from bettyc.runtime.optimizers.arithmetic import InPlace, Pure
from bettyc.runtime.optimizers.groups import grouped

VIEWS = (View(0, 12, (3, 4)), View(12, 15, (3,)), View(15, 21, (2, 3)))
THEIRS = {
    "sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop, "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta, "adamax": torch.optim.Adamax, "asgd": torch.optim.ASGD,
    "nadam": torch.optim.NAdam, "radam": torch.optim.RAdam, "rprop": torch.optim.Rprop,
    "adafactor": torch.optim.Adafactor,
}  # fmt: skip


@pytest.mark.parametrize("ops", [Pure, InPlace])
@pytest.mark.parametrize("name", THEIRS)
def test_groups_have_the_bits_of_torch(name, ops):
    """The first and the last variable in one group, the one between in another."""
    start_ = torch.linspace(-1, 1, 21)
    twins = [torch.nn.Parameter(start_[v.start : v.stop].view(v.shape).clone()) for v in VIEWS]
    defaults = vars(OPTIMIZERS[name]())
    first = {"params": [twins[0], twins[2]], "lr": 0.05}
    optimizer = THEIRS[name]([first, {"params": [twins[1]]}], foreach=False)
    ours = grouped(lambda views: rule_of(name, views), VIEWS, [[0, 2], [1]])
    options = {**defaults, "groups": ({**defaults, "lr": 0.05}, defaults)}
    theta, state = start_.clone(), ours.init(start_, options)
    for count in range(6):
        grad = torch.randn(21, generator=torch.Generator().manual_seed(count))
        for twin, v in zip(twins, VIEWS, strict=True):
            twin.grad = grad[v.start : v.stop].view(v.shape).clone()
        optimizer.step()
        before, held = theta.clone(), {k: v.clone() for k, v in state.items()}
        new, new_state = ours.update(theta, grad, state, count, options, ops)
        if ops is Pure:
            assert torch.equal(theta, before)
            assert all(torch.equal(held[k], state[k]) for k in held)
        else:
            assert new is theta
        theta, state = new, new_state

    assert torch.equal(theta, torch.cat([t.detach().reshape(-1) for t in twins]))


PROGRAM = """
mlo 0.1
dim n, d, C = 2
data all : { x: real[n, d], y: int<C>[n] } from memory()
level fit {
  module net = mlp([d, 5, C], act = tanh)
  draw s from all(batch = 12)
  minimize mean(xent(net(s.x), s.y))
  optimizer = adam(lr = 0.02, weight_decay = 0.1)
  groups = GROUPS
  lr_schedule = onecycle(0.05, cycle_momentum = true)
}
run { steps = 15 }
"""
DATA = classification()


def train(groups: str, **options):
    return start(PROGRAM.replace("GROUPS", groups), {"all": DATA}, opt=0, **options)


def test_a_program_with_groups_and_a_schedule_for_each():
    """Every group has its own start of the rise, and betas that cycle."""
    run = train(
        '[group("*.bias", weight_decay = 0), group("net.2.*", lr = 0.5, betas = [0.5, 0.9])]'
    )
    first, last = torch.nn.Linear(4, 5), torch.nn.Linear(5, 2)
    twin = torch.nn.Sequential(first, torch.nn.Tanh(), last)
    twin.load_state_dict(run["fit"].net.state_dict())
    options = {"lr": 0.02, "weight_decay": 0.1, "foreach": False}
    optimizer = torch.optim.Adam(
        [
            {"params": [first.bias, last.bias], "weight_decay": 0},
            {"params": [last.weight], "lr": 0.5, "betas": (0.5, 0.9)},
            {"params": [first.weight]},
        ],
        **options,
    )
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=15)
    at = 0
    for step in range(15):
        rows = slice(at, at + 12)
        at = (at + 12) % 60
        optimizer.zero_grad()
        logits = twin(DATA["x"][rows].float())
        loss = torch.nn.functional.cross_entropy(logits, DATA["y"][rows], reduction="none")
        torch.mean(loss).backward()
        optimizer.step()
        if step < 14:
            cycle.step()
    run.to_end()

    for name, value in twin.state_dict().items():
        torch.testing.assert_close(run["fit"].net.state_dict()[name], value, rtol=2e-5, atol=2e-6)


def test_groups_are_resumed(tmp_path):
    whole, first, second = (train('[group("net.0.*", lr = 0.3)]') for _ in range(3))
    whole.to_end()
    for _ in range(6):
        first.step()
    first.save(tmp_path / "c")
    second.load(tmp_path / "c")
    second.to_end()

    found = second["fit"].net.state_dict()
    for name, value in whole["fit"].net.state_dict().items():
        assert torch.equal(found[name], value)


@pytest.mark.parametrize(
    ("groups", "code", "words"),
    [
        ('[group("*.biases", lr = 1)]', "MLO0618", "`*.biases` matches nothing"),
        ('[group("*.bias", momentum = 1)]', "MLO0602", "`momentum`"),
        ('[group("*.bias", lr = -1)]', "MLO0603", "lr"),
        ("[group(3)]", "MLO0603", "a list of `group"),
        ("2", "MLO0603", "a list of `group"),
    ],
)
def test_groups_that_make_no_sense(groups, code, words):
    with pytest.raises(MloError) as raised:
        train(groups)
    (found,) = raised.value.diagnostics

    assert found.code == code
    assert words in found.message


def test_groups_need_an_optimizer_that_steps():
    text = PROGRAM.replace("adam(lr = 0.02, weight_decay = 0.1)", "lbfgs")
    with pytest.raises(MloError, match="used with `lbfgs`, but must be used with an optimizer"):
        start(text.replace("GROUPS", '[group("*.bias", lr = 1)]'), {"all": DATA})


def test_patterns_for_a_network_from_python_are_checked_when_it_is_built():
    text = PROGRAM.replace("mlp([d, 5, C], act = tanh)", "net()").replace(
        "dim n", 'extern module net() : real[B, d] -> real[B, C] from "nowhere:net"\ndim n'
    )
    build = {"net": lambda: torch.nn.Linear(4, 2)}
    start(text.replace("GROUPS", '[group("bias", lr = 1)]'), {"all": DATA}, build)
    with pytest.raises(InputError, match="matches nothing"):
        start(text.replace("GROUPS", '[group("bn.*", lr = 1)]'), {"all": DATA}, build)


def test_a_group_is_differentiated_through():
    """unroll through grouped updates, against differences."""
    text = """
mlo 0.1
level fit {
  var a : real[2] = ones
  var b : real[2] = ones
  minimize sum(exp(tune.s) * (a - 2)^2) + sum((b - a)^4)
  optimizer = sgd(lr = 0.05, momentum = 0.9)
  groups = [group("b", lr = 0.02)]
  steps = 4
  start = reset
  hypergrad = unroll
}
level tune {
  var s : real = 0.3
  minimize sum(fit*.a * fit*.b)
  optimizer = sgd(lr = 0.1)
}
run { steps = 1  precision = fp64 }
"""
    found = float(start(text).hypergrad("tune")["s"])
    losses = []
    for s in (0.3 + 1e-6, 0.3 - 1e-6):
        run = start(text)
        run["tune"].assign(s=torch.tensor(s, dtype=torch.float64))
        losses.append(float(run.hypergrad("tune").loss))

    assert found == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-6)
