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
