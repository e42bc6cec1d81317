"""Conjugate gradient through a level that maximizes what is known to be concave, against dense
solves in float64.
"""

from __future__ import annotations

import numpy as np
import pytest

import bettyc
from bettyc.planner.text import text

TEXT = """
data train : { x: real[30, 5], y: int<2>[30] } from memory()

level fit {
  var w : real[5] = zeros
  maximize OBJECTIVE
  hypergrad = STRATEGY
}

level tune {
  var a : real[5] in DOMAIN = fill(0.7)
  minimize sumsq(fit*.w - 0.3)
  optimizer = sgd(lr = 0.1)
}

run { precision = fp64 }
"""
QUADRATIC = (
    "real(train.y) @ (train.x @ w) / 30 - 0.5 * mean((train.x @ w)^2) - 0.5 * sum(tune.a * w^2)"
)
LOGISTIC = "-mean(bce(train.x @ w, train.y)) - 0.5 * sum(tune.a * w^2)"
UNKNOWN = {
    "sum(w) - sum(tune.a * w^2)": "real",  # of either sign
    "-mean(bce(train.x @ w, train.y)) + 0.5 * sum(tune.a * w^2)": "positive",  # convex in w
    "sum(cos(w)) - sum(tune.a * w)": "positive",
}


def program(objective: str, strategy: str = "cg(tol = 1e-13)", domain: str = "positive") -> str:
    source = TEXT.replace("OBJECTIVE", objective).replace("STRATEGY", strategy)
    return source.replace("in DOMAIN ", "" if domain == "real" else f"in {domain} ")


def rows() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"x": rng.normal(size=(30, 5)), "y": rng.integers(0, 2, 30)}


def dense(logistic: bool) -> np.ndarray:
    """The hypergradient in log a: Newton's method, then one solve with the Hessian."""
    x, y = rows()["x"], rows()["y"]
    a, w = np.full(5, 0.7), np.zeros(5)
    for _ in range(30):
        p = 1 / (1 + np.exp(-x @ w)) if logistic else x @ w
        s = p * (1 - p) if logistic else np.ones(30)
        h = x.T @ (s[:, None] * x) / 30 + np.diag(a)
        w = w - np.linalg.solve(h, x.T @ (p - y) / 30 + a * w)
    return -a * w * np.linalg.solve(h, 2 * (w - 0.3))


@pytest.mark.parametrize("opt", [0, 1, 2])
@pytest.mark.parametrize("objective", [QUADRATIC, LOGISTIC])
def test_cg_on_a_concave_level_equals_the_dense_solve(objective: str, opt: int) -> None:
    plan = bettyc.loads(program(objective)).compile(data={"train": rows()}, opt=opt)
    found = plan.start(seed=0).hypergrad("tune")["a"].numpy()
    want = dense(objective == LOGISTIC)

    assert np.linalg.norm(found - want) < 1e-8 * np.linalg.norm(want)


def test_auto_takes_it_and_says_why() -> None:
    plan = bettyc.loads(program(LOGISTIC, "auto")).plan()
    level = plan.level("fit")
    reason = next(c for c in level.strategy_candidates if c.taken).reason

    assert level.strategy.name == "cg"
    assert "negative definite" in reason
    assert "class glm:bce + quadratic(diag), concave\n" in text(plan)


@pytest.mark.parametrize("objective", UNKNOWN)
def test_what_is_not_known_to_be_concave_is_refused(objective: str) -> None:
    settings = "cg  optimizer = sgd(lr = 0.1)"
    source = program(objective, settings, UNKNOWN[objective])
    found = [d for d in bettyc.loads(source).check().errors if d.code == "MLO0605"]

    assert len(found) == 1
    assert found[0].message.endswith("`fit` maximizes what is not known to be concave")
    assert not bettyc.loads(source.replace("cg ", "cg(damping = 1.0) ")).check().errors
