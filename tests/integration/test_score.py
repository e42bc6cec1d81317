"""`hypergrad = score(...)`, from text to numbers: through what a level samples with a variable of
the level above.

`fit` draws x_1 .. x_5 ~ N(m, 1) in each of its steps w <- w - mean(w - x) / 2 from w = 0, so
after two of them w* = mean(x of step 1) / 4 + mean(x of step 2) / 2 has the mean 3 m / 4 and a
variance that does not depend on m, and the derivative of E[(w* - 2)^2] is 3 / 2 (3 m / 4 - 2).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import bettyc
from bettyc.runtime.run import Run

TEXT = """
dim S = 5
extern source sampled(mean: real, count: int) : { x: real[S] } from "nowhere:sampled"

level fit {
  var w : real = 0
  draw b from sampled(mean = tune.m, count = S)
  let log_prob = sum(-0.5 * (b.x - tune.m)^2)
  minimize 0.5 * mean((w - b.x)^2) OBJECTIVE
  optimizer = sgd(lr = RATE)
  steps     = STEPS
  start     = reset
  hypergrad = score(log_prob = log_prob, samples = SAMPLES, baseline = BASELINE)
}

level tune {
  var m : real = 0.7
  VARIABLE
  SENSE SIGN(fit*.w - 2)^2
  optimizer = sgd(lr = 0.05)
}

run { steps = 150  precision = fp64 }
"""
PLAIN = {
    "OBJECTIVE": "",
    "RATE": "0.5",
    "STEPS": "2",
    "VARIABLE": "",
    "SENSE": "minimize",
    "SIGN": "",
}


def sampled(mean: Any, count: int) -> dict[str, torch.Tensor]:
    return {"x": mean + torch.randn(count, dtype=torch.float64)}


def written(samples: int, baseline: str, **changes: str) -> str:
    text = TEXT.replace("SAMPLES", str(samples)).replace("BASELINE", baseline)
    for word, value in {**PLAIN, **changes}.items():
        text = text.replace(word, value)
    return text


def begun(samples: int, baseline: str = "leave_one_out", seed: int = 0, **changes: str) -> Run:
    program = bettyc.loads(written(samples, baseline, **changes))
    return program.compile(externs={"sampled": sampled}).start(seed=seed)


def spread(m: float, baseline: bool, weights: torch.Tensor) -> float:
    """The standard error of the estimate from 10^4 samples, by samples of our own."""
    x = m + torch.randn(100_000, len(weights), 5, generator=torch.Generator().manual_seed(1))
    loss = (x.mean(2) @ weights - 2) ** 2
    weight = loss - loss.mean() if baseline else loss
    return float((weight * (x - m).sum((1, 2))).std()) / 100


@pytest.mark.parametrize(
    ("m", "baseline", "weights"), [(0.7, "none", [0.5]), (-1.3, "leave_one_out", [0.25, 0.5])]
)
def test_the_estimate_is_unbiased(m: float, baseline: str, weights: list[float]) -> None:
    """10^4 samples: within four standard errors."""
    run = begun(10_000, baseline, STEPS=str(len(weights)))
    run["tune"].assign(m=m)
    found = run.hypergrad("tune")
    expected = 2 * sum(weights) * (sum(weights) * m - 2)

    interval = 4 * spread(m, baseline == "leave_one_out", torch.tensor(weights))
    assert abs(float(found["m"]) - expected) < interval
    assert interval < 0.6 * abs(expected)
    assert float(found["m"]) != expected
    assert found.report[0].strategy == "score"


def test_what_the_steps_depend_on_is_differentiated_too() -> None:
    """The objective reads t, and so does the rate: w* - 2 moves with t along the updates."""
    changes = {
        "OBJECTIVE": "+ tune.t * w",
        "RATE": "0.5 + tune.t",
        "VARIABLE": "var t : real = 0",
    }
    run = begun(2, **changes)
    found = run.hypergrad("tune")["t"]

    other = begun(2, **changes)
    ends = {}
    for t in (1e-6, -1e-6):
        other["tune"].assign(t=t)
        other.executor.respond("tune")
        ends[t] = float((other["fit"].w - 2) ** 2)
        other = begun(2, **changes)
    slope = (ends[1e-6] - ends[-1e-6]) / 2e-6
    assert float(found) == pytest.approx(slope, rel=1e-6)


def test_a_level_that_maximizes_goes_up() -> None:
    down, up = (
        begun(10, **signs).hypergrad("tune")["m"]
        for signs in ({}, {"SENSE": "maximize", "SIGN": "-"})
    )

    assert torch.equal(down, -up)  # the gradient of its objective, which it goes along


def test_a_run_finds_the_mean_that_the_level_above_wants() -> None:
    run = begun(10)
    run.to_end()

    assert abs(float(run["tune"].m) - 8 / 3) < 0.5


def test_the_samples_of_another_update_are_other_ones_and_a_seed_repeats_them() -> None:
    found = []
    for seed in (0, 0, 1):
        run = begun(3, seed=seed)
        first = run.hypergrad("tune")["m"]
        run.step()
        found.append((float(first), float(run["tune"].m)))

    assert found[0] == found[1]
    assert found[0] != found[2]


@pytest.mark.parametrize("idle", ["var idle : real[3] = ones", "var idle : real[none] = zeros"])
def test_variables_that_nothing_reads_and_without_entries_change_nothing(idle: str) -> None:
    plain = begun(5).hypergrad("tune")["m"]
    text = written(5, "leave_one_out").replace("  var w", f"  {idle}\n  var w")
    plan = bettyc.loads("dim none = 0\n" + text).compile(externs={"sampled": sampled})

    torch.testing.assert_close(plan.start(seed=0).hypergrad("tune")["m"], plain)


def test_a_loss_that_does_not_move_gives_exactly_nothing() -> None:
    """Every sample has the loss of the others, so that leaving one out leaves nothing."""
    text = written(5, "leave_one_out").replace("(fit*.w - 2)^2", "min(fit*.w^2, 0)")
    plan = bettyc.loads(text).compile(externs={"sampled": sampled})

    assert float(plan.start(seed=0).hypergrad("tune")["m"]) == 0.0


def test_a_resumed_run_ends_in_the_same_bits(tmp_path: Any) -> None:
    whole = begun(3)
    for _ in range(4):
        whole.step()
    half = begun(3)
    for _ in range(2):
        half.step()
    half.save(tmp_path / "half")
    program = bettyc.loads(written(3, "leave_one_out"))
    resumed = program.compile(externs={"sampled": sampled}).resume(tmp_path / "half")
    for _ in range(2):
        resumed.step()

    assert torch.equal(whole["tune"].m, resumed["tune"].m)
    assert torch.equal(whole["fit"].w, resumed["fit"].w)


DRAW = "  draw b from sampled(mean = tune.m, count = S)\n"
WRONG = {
    "needs the log-probability": ("log_prob = log_prob, ", ""),
    "holds nothing that was drawn": ("log_prob = log_prob", "log_prob = tune.m"),
    "`b` is not drawn for it alone": ("(fit*.w - 2)^2", "(fit*.w - mean(b.x))^2"),
    "is not in its objective": ("0.5 * mean((w - b.x)^2)", "0.5 * (w - 1)^2"),
    "`tune.m` shapes what is drawn": ("-0.5 * (b.x - tune.m)^2", "-0.5 * (b.x - 0.7)^2 * tune.t"),
    "at least two samples": ("samples = 5", "samples = 1"),
}


@pytest.mark.parametrize("problem", WRONG)
def test_a_wrong_use_is_named(problem: str) -> None:
    text = written(5, "leave_one_out", VARIABLE="var t : real = 0", OBJECTIVE="+ tune.t * w")
    if problem.startswith("`b` is"):
        text = text.replace(DRAW, "").replace("level fit", DRAW + "level fit")
    found = bettyc.loads(text.replace(*WRONG[problem])).check().errors

    assert [d.code for d in found] == ["MLO0620"], found
    assert problem in found[0].message


MIDDLE = """
level mid {
  var v : real = 0
  minimize (v - fit*.w)^2 + tune.m * v
  optimizer = sgd(lr = 0.1)
}
"""


def test_a_level_between_that_reads_the_response_is_refused() -> None:
    text = written(5, "none").replace("(fit*.w - 2)^2", "(mid*.v - 2)^2") + MIDDLE
    found = bettyc.loads(text).check().errors

    assert [d.code for d in found] == ["MLO0620"]
    assert "through that of `mid`" in found[0].message


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("baseline = none", "baseline = mean"), "MLO0602"),
        (("samples = 5", "samples = 0"), "MLO0603"),
        (("log_prob = log_prob", "log_prob = b.x"), "MLO0404"),
        (("log_prob = log_prob", "log_probs = log_prob"), "MLO0602"),
        (("sgd(lr = 0.5)", "lbfgs"), "MLO0604"),
    ],
)
def test_other_mistakes_have_their_usual_codes(change: tuple[str, str], code: str) -> None:
    found = bettyc.loads(written(5, "none").replace(*change)).check().errors

    assert code in {d.code for d in found}, found
