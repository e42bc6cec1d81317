"""Gradients through sampling, from text to numbers: the score function written into the objective.

x ~ N(m, 1), reward x^2: the derivative of the expected reward in m is 2 m.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import bettyc
from bettyc.runtime.run import Run

TEXT = """
dim S = 10000
extern source sampled(mean: real, count: int) : { x: real[S], reward: real[S] }
  from "nowhere:sampled"
draw b from sampled(mean = play.m, count = S)

level judge {
  var c : real = 0
  draw other from sampled(mean = play.m, count = S)
  minimize mean((other.reward - c)^2)
  optimizer = sgd(lr = 0.5)
  hypergrad = none
}

level play {
  var m : real = 0.7
  let log_prob = -0.5 * (b.x - m)^2
  SENSE mean(detach(b.reward - BASELINE) * log_prob)
  optimizer = sgd(lr = 0.1)
}

run { steps = 60  precision = fp64 }
"""


def sampled(mean: Any, count: int) -> dict[str, torch.Tensor]:
    x = mean + torch.randn(count, dtype=torch.float64)
    return {"x": x, "reward": x**2}


def begun(baseline: str, sense: str = "minimize") -> Run:
    text = TEXT.replace("BASELINE", baseline).replace("SENSE", sense)
    return bettyc.loads(text).compile(externs={"sampled": sampled}).start(seed=0)


def spread(run: Run, m: float, baseline: float) -> float:
    """The standard error of the estimate, from the samples that it was made of."""
    frame = run.stages["play"].feed.next()
    x, reward = (frame.columns["b", name] for name in ("x", "reward"))
    assert len(x) == 10_000
    return float(((reward - baseline) * (x - m)).std()) / len(x) ** 0.5


@pytest.mark.parametrize("baseline", ["0", "judge*.c"])
@pytest.mark.parametrize("m", [0.7, -1.3])
def test_the_score_function_is_unbiased(m: float, baseline: str) -> None:
    run = begun(baseline)
    run["play"].assign(m=m)
    found = float(run.hypergrad("play")["m"])
    base = 0.0 if baseline == "0" else 1 + m**2

    interval = 4 * spread(run, m, base)
    assert abs(found - 2 * m) < interval
    assert interval < 0.3
    assert found != 2 * m


def test_a_learned_baseline_lowers_the_variance() -> None:
    plain, learned = begun("0"), begun("judge*.c")

    assert spread(learned, 0.7, 1.49) < 0.8 * spread(plain, 0.7, 0)


def test_a_run_follows_the_expected_reward() -> None:
    """m falls by 0.1 * 2 m per update; samples are drawn with the m of the moment."""
    run = begun("judge*.c")
    run.to_end()

    assert abs(float(run["play"].m)) < 0.05


PLAYED = """
extern source play(policy: moduleSIZE) : { x: real[n, 3], y: real[n, 2] } from "nowhere:play"
level fit {
  module net = mlp([3, 4, 2], act = tanh)
  draw b from play(policy = fit.netGIVEN)
  minimize mean((net(b.x) - 1)^2)
  optimizer = sgd(lr = 0.1)
}
run { steps = 3  precision = fp64 }
"""


def test_a_source_is_given_a_built_in_network_as_it_is() -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def play(policy: torch.nn.Module, n: int) -> dict[str, torch.Tensor]:
        x = torch.linspace(-1, 1, 3 * n, dtype=torch.float64).view(n, 3)
        seen.append({"x": x, "y": policy(x), **policy.state_dict()})
        return {k: seen[-1][k] for k in "xy"}

    text = PLAYED.replace("SIZE", ", n: int").replace("GIVEN", ", n = 5")
    run = bettyc.loads(text).compile(externs={"play": play}).start(seed=0)
    for k in range(3):
        net = run["fit"].net
        run.step()
        assert len(seen) == k + 1
        assert seen[k]["y"].shape == (5, 2)
        torch.testing.assert_close(seen[k]["y"], net(seen[k]["x"]).detach())
        for name, value in net.state_dict().items():
            assert torch.equal(seen[k][name], value)


def test_a_size_that_only_a_drawn_source_knows() -> None:
    text = PLAYED.replace("SIZE", "").replace("GIVEN", "")
    program = bettyc.loads(text)
    with pytest.raises(bettyc.MloError) as caught:
        program.compile(externs={"play": sampled})

    (found,) = caught.value.diagnostics
    assert found.code == "MLO0411"
    assert text[found.span.start : found.span.end] == "b"  # the draw
    assert "dim `n`" in found.message
    assert "n = 10" in str(found.notes)
