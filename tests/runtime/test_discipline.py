"""Dropout and BatchNorm under every strategy: a derivative leaves no trace but its result."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rows import ROWS
from torch import Tensor, nn
from torch.nn import functional as F
from toys import classification, start

from bettyc.runtime.adjoint import Lower, hypergradient
from bettyc.runtime.run import Run
from bettyc.strategies import Danskin, Exact, Frozen, Unroll

TEXT = """
mlo 0.1
dim n, d, C = 2
extern module net(width: int) : real[B, d] -> real[B, C] from "nowhere:net"
data all : { x: real[n, d], y: int<C>[n] } from memory()
split all into train = 0.6, val = 0.4 with (seed = 0)
level fit {
  module net = net(5)
  minimize mean(xent(net(train.x), train.y)) + exp(tune.log_wd) * sumsq(params(net))
  optimizer = sgd(lr = 0.2)  steps = 3  start = reset  hypergrad = STRATEGY
}
level tune {
  var log_wd : real = -3
  module own = net(4)
  minimize mean(xent(fit*.net(val.x) + own(val.x), val.y))
  optimizer = sgd(lr = 0.1)
}
run { steps = 1  precision = PRECISION }
"""


class Both(nn.Module):
    """A network with running statistics and random masks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.bn, self.b = nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.dropout(torch.tanh(self.bn(self.a(x))), 0.4, self.training))


def begun(precision: str, strategy: str = "unroll") -> Run:
    own = "steps = 3  start = reset"  # bome takes no steps of the level's own
    text = (
        (TEXT.replace(own, "") if "bome" in strategy else TEXT)
        .replace("STRATEGY", strategy)
        .replace("PRECISION", precision)
    )
    return start(text, {"all": classification()}, {"net": Both})


def everything(run: Run) -> dict[str, Tensor]:
    """Variables, buffers, and the modules that evaluations go through."""
    found = dict(run.state.theta)
    for key, buffers in run.state.buffers.items():
        found |= {f"{key}/{name}": x for name, x in buffers.items()}
    for key, network in run.stages["fit"].linked.networks.items():
        found |= {f"{key}!{name}": x for name, x in network.module.state_dict().items()}
    return {name: x.clone() for name, x in found.items()}


def differentiated(run: Run, strategy: Any) -> Tensor:
    """The hypergradient of `tune` where the run stands, without the run's own safety net."""
    frames = {name: stage.feed.current() for name, stage in run.stages.items()}
    lower = Lower(strategy, lr=0.2, trajectory=run.stages["fit"].trajectory)
    return hypergradient(
        "tune",
        objectives={name: stage.objective for name, stage in run.stages.items()},
        theta=run.state.theta,
        frames=frames,
        lowers={"fit": lower},
        pulls=run.plan.sweep("tune"),
    ).grad


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ROWS)
def test_a_derivative_leaves_no_trace(name: str, precision: str) -> None:
    run = begun(precision)
    run.executor.respond("tune")
    before, generator = everything(run), torch.get_rng_state()
    first = differentiated(run, ROWS[name][0])
    between = everything(run)
    second = differentiated(run, ROWS[name][0])
    after = everything(run)

    assert any(key.endswith("running_mean") for key in before)
    for key, value in before.items():
        assert torch.equal(value, between[key]), key
        assert torch.equal(value, after[key]), key
    assert torch.equal(generator, torch.get_rng_state())
    assert torch.isfinite(first).all()
    assert torch.equal(first, second)  # the same batch, masks and statistics


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_masks_and_statistics_are_those_of_the_frame(precision: str) -> None:
    """Another frame, another derivative: the equality above is not for want of dropout."""
    run = begun(precision)
    run.executor.respond("tune")
    found = differentiated(run, Frozen())
    run.stages["tune"].feed.frame = None
    run.state.updates["tune"] += 1

    assert not torch.equal(found, differentiated(run, Frozen()))


WRITTEN = [
    "unroll", "forward", "fixed_point", "sama", "finite_diff", "one_step", "none",
    "cg(iters = 3, damping = 1)", "minres(iters = 3)", "gmres(iters = 3)", "nystrom(rank = 3)",
    "neumann(terms = 3, lr = 0.1)", "single_loop", "penalty", "penalty(rule = bome)",
    "zeroth_order(samples = 2)",
]  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_update_moves_statistics_once_whatever_the_strategy(precision: str) -> None:
    """The update of `tune` counts as one evaluation of its own network, at the response."""
    found = {}
    for strategy in WRITTEN:
        run = begun(precision, strategy)
        run.step()
        found[strategy] = dict(run.state.buffers["tune.own"])
    expected = found.pop("none")

    assert int(expected["bn.num_batches_tracked"]) == 1
    assert not torch.equal(expected["bn.running_mean"], torch.zeros(4))
    for strategy, buffers in found.items():
        for name, value in expected.items():
            assert torch.equal(buffers[name], value), (strategy, name)


def test_the_strategies_that_programs_cannot_ask_for_here_are_known() -> None:
    named = {text.partition("(")[0] for text in WRITTEN}

    assert set(ROWS) - named == {
        "exact",  # needs a quadratic
        "danskin",  # opposite objectives
        "score",  # a source that samples
    }
    assert isinstance(ROWS["exact"][0], Exact)
    assert isinstance(ROWS["danskin"][0], Danskin)
    assert isinstance(ROWS["unroll"][0], Unroll)
