"""Scalars, variables that nothing reads and variables without entries, from text to numbers, under
every strategy.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import bettyc
from bettyc.strategies import STRATEGIES

TEXT = """
dim empty = 0
level fit {
  var w : real = 0.3
  VARIABLE
  minimize (w - tune.t)^2
  optimizer = sgd(lr = 0.25)  steps = 60  start = reset  hypergrad = STRATEGY
}
level tune {
  var t : real = 0.3
  minimize (fit*.w - 0.8)^2
  optimizer = sgd(lr = 0.1)
}
run { steps = 2  precision = fp64 }
"""
VARIABLES = {
    "a scalar": "",
    "unused": "var idle : real[3] = ones",
    "without entries": "var idle : real[empty] = zeros",
}
# The hypergradient over a = 2 (t - 0.8), where the level is at its solution: 2 H^-1 with H = 2.
SHARES = {
    "auto": 1.0, "exact": 1.0, "cg(tol = 1e-12)": 1.0, "minres(tol = 1e-12)": 1.0,
    "gmres(tol = 1e-12)": 1.0, "unroll": 1.0, "unroll(recompute = true)": 1.0, "forward": 1.0,
    "fixed_point(tol = 1e-12)": 1.0, "neumann(terms = 3, lr = 0.25)": 0.875,
    "nystrom(rank = 4, damping = 0.01)": 2 / 2.01, "one_step": 0.5, "finite_diff": 0.5,
    "sama": 0.5, "unroll(truncate = 1)": 0.5, "single_loop": 0.0, "none": 0.0,
    "penalty(weight = 100, steps = 200)": None, "penalty(rule = bome)": None,
    "zeroth_order(samples = 4)": None,
}  # fmt: skip


def written(variable: str, strategy: str) -> str:
    text = TEXT.replace("VARIABLE", variable).replace("STRATEGY", strategy)
    own = "steps = 60  start = reset"  # bome takes no steps of the level's own
    return text.replace(own, "") if "bome" in strategy else text


@pytest.mark.parametrize("strategy", SHARES)
@pytest.mark.parametrize("which", VARIABLES)
def test_defined_answers(which: str, strategy: str) -> None:
    text = written(VARIABLES[which], strategy)
    run = bettyc.loads(text).compile().start(seed=0)
    found = run.hypergrad("tune")
    share = SHARES[strategy]

    assert found["t"].shape == ()
    assert torch.isfinite(found["t"])
    if share is not None:
        assert float(found["t"]) == pytest.approx(share * 2 * (0.3 - 0.8), rel=1e-6, abs=1e-12)
    elif strategy.startswith("penalty(w"):  # 1 / weight from the truth
        assert float(found["t"]) == pytest.approx(-1.0, rel=0.02)
    run.to_end()
    _finite(run["tune"].t, run["fit"].w)


def _finite(*values: Tensor) -> None:
    assert all(bool(torch.isfinite(value).all()) for value in values)


@pytest.mark.parametrize("strategy", SHARES)
def test_a_solution_that_the_judge_already_likes_has_no_hypergradient(strategy: str) -> None:
    """The right-hand side is zero, and every strategy's answer too."""
    text = written("", strategy).replace("= 0.3", "= 0.8")
    found = bettyc.loads(text).compile().start(seed=0).hypergrad("tune")

    assert abs(float(found["t"])) < 1e-12
    assert not any(report.severe for report in found.report)


ZERO_SUM = """
dim empty = 0
def game(w, t) = t * w - 0.5 * w^2 + 0.5 * t^2
level fit {
  var w : real = 0.3
  VARIABLE
  maximize game(w, tune.t)
  optimizer = sgd(lr = 0.25)  steps = 90  start = reset  hypergrad = danskin
}
level tune {
  var t : real = 0.3
  minimize game(fit*.w, t)
  optimizer = sgd(lr = 0.1)
}
run { steps = 2  precision = fp64 }
"""


@pytest.mark.parametrize("which", VARIABLES)
def test_defined_answers_of_danskin(which: str) -> None:
    """w* = t, and the derivative of t^2 is 2 t."""
    run = bettyc.loads(ZERO_SUM.replace("VARIABLE", VARIABLES[which])).compile().start(seed=0)

    assert float(run.hypergrad("tune")["t"]) == pytest.approx(0.6, rel=1e-6)
    run.to_end()
    _finite(run["tune"].t, run["fit"].w)


def test_every_strategy_stands_here() -> None:
    named = {text.partition("(")[0] for text in SHARES}

    assert set(STRATEGIES) - named == {"danskin", "score"}  # above, and in test_score.py
