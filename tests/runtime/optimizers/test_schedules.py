"""Schedules have the bits of torch's, stepped once per update."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.optim import lr_scheduler as theirs

from bettyc.model import Call
from bettyc.runtime.optimizers.schedules import SCHEDULES, Plateau, Rates
from bettyc.schedules import SCHEDULES as TABLE

CASES = {
    "step": (Call("step", (), (("every", 3), ("gamma", 0.7))), lambda o: theirs.StepLR(o, 3, 0.7)),
    "multistep": (Call("multistep", ((4, 9),)), lambda o: theirs.MultiStepLR(o, [4, 9])),
    "exponential": (Call("exponential", (0.9,)), lambda o: theirs.ExponentialLR(o, 0.9)),
    "cosine": (Call("cosine", (0.01,)), lambda o: theirs.CosineAnnealingLR(o, 20, 0.01)),
    "linear": (Call("linear", (1.0, 0.1)), lambda o: theirs.LinearLR(o, 1.0, 0.1, 20)),
    "polynomial": (Call("polynomial", (2.0,)), lambda o: theirs.PolynomialLR(o, 20, 2.0)),
    "warmup": (Call("warmup", (5,)), lambda o: theirs.LambdaLR(o, lambda t: min(1.0, (t + 1) / 5))),
    "constant": (Call("constant", (0.5, 4)), lambda o: theirs.ConstantLR(o, 0.5, 4)),
    "restarts": (Call("restarts", (6, 2)), lambda o: theirs.CosineAnnealingWarmRestarts(o, 6, 2)),
    "cyclic": (
        Call("cyclic", (0.9, 4)),
        lambda o: theirs.CyclicLR(o, 0.3, 0.9, 4, cycle_momentum=False),
    ),
    "onecycle": (
        Call("onecycle", (0.8,)),
        lambda o: theirs.OneCycleLR(o, 0.8, total_steps=20, cycle_momentum=False),
    ),
    "sequential": (
        Call("sequential", ((Call("constant", (0.1, 5)), Call("exponential", (0.9,))), (5,))),
        lambda o: theirs.SequentialLR(
            o, [theirs.ConstantLR(o, 0.1, 5), theirs.ExponentialLR(o, 0.9)], [5]
        ),
    ),
    "chained": (
        Call("chained", ((Call("constant", (0.1, 5)), Call("exponential", (0.9,))),)),
        lambda o: theirs.ChainedScheduler(
            [theirs.ConstantLR(o, 0.1, 5), theirs.ExponentialLR(o, 0.9)], o
        ),
    ),
    "swa": (Call("swa", (0.05, 7)), lambda o: torch.optim.swa_utils.SWALR(o, 0.05, 7)),
    "factor": (Call("factor", ("half",)), lambda o: theirs.LambdaLR(o, half)),
    "multiply": (Call("multiply", ("half",)), lambda o: theirs.MultiplicativeLR(o, half)),
}


def half(t: int) -> float:
    return 1 / (1 + t / 2)


@pytest.mark.parametrize("name", CASES)
def test_rates_have_the_bits_of_torch(name):
    call, make = CASES[name]
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        scheduler = make(optimizer)
        expected = [optimizer.param_groups[0]["lr"]]
        for _ in range(19):
            scheduler.step()
            expected.append(optimizer.param_groups[0]["lr"])
    rates = Rates(call, 0.3, 20, functions={"half": half})

    # asked for out of order: a resumed run begins in the middle
    assert [rates[k] for k in (7, *range(20))] == [expected[7], *expected]


def test_onecycle_keeps_its_last_rate():
    rates = Rates(Call("onecycle", (0.8,)), 0.3, 20)

    assert rates[25] == rates[19]


def test_every_schedule_of_the_language_is_there():
    assert set(TABLE) == set(SCHEDULES) | {"plateau"}
    assert set(CASES) == set(SCHEDULES)


def test_plateau_falls_and_resumes():
    call = Call("plateau", (), (("factor", 0.5), ("patience", 1)))
    losses = [3.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.4)
    scheduler = theirs.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    whole, first, second = (Plateau(call, 0.4) for _ in range(3))
    expected, found = [], []
    for k, loss in enumerate(losses):
        scheduler.step(loss)
        whole.look(loss)
        expected.append(optimizer.param_groups[0]["lr"])
        assert whole[0] == expected[-1]
        if k == 5:
            second.restore(first.state())
        part = first if k < 5 else second
        part.look(loss)
        found.append(part[0])

    assert found == expected
    assert found[-1] < 0.2
