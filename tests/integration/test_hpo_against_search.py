"""examples/hpo_against_search.py: both sides fit the same models and choose by the same rows."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bettyc

pytest.importorskip("sklearn")
EXAMPLES = Path(__file__).parents[2] / "examples"
HELD = ("hpo_against_search", "figures", "polynomial")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import hpo_against_search

    with hpo_against_search.threadpool_limits(1):
        yield hpo_against_search
    for name in HELD:
        sys.modules.pop(name, None)


def solved(problem: Any, penalties: Any, parts: Any, log_penalty: Any) -> tuple[Any, Any]:
    """The level `fit` of the program with these penalties, in float64 and to a tight tolerance."""
    text = problem.program.replace("SHAPE", penalties.shape).replace("AXIS", penalties.axis)
    values = {"run.precision": "fp64"}
    if "lbfgs" in text:
        values["fit.optimizer.tol"] = 1e-9
    given = {name: parts[name] for name in ("train", "val")}
    run = bettyc.loads(text, set=values).compile(given).start()
    run["tune"].assign(
        penalty=run["tune"].penalty * 0 + run["tune"].penalty.new_tensor(log_penalty)
    )
    run.step()
    return run["fit"].w.numpy(), run["fit"].b.numpy()


@pytest.mark.parametrize("name", ["ridge", "logistic"])
@pytest.mark.parametrize("which", ["one", "per feature"])
def test_both_sides_fit_the_same_model(script: Any, name: str, which: str) -> None:
    problem = script.PROBLEMS[name]
    penalties, parts = problem.penalties[which], problem.parts(0)
    log_penalty = np.random.default_rng(0).uniform(-5, -2, penalties.size)
    given = log_penalty if which == "per feature" else float(log_penalty[0])

    w, b = problem.fit(parts["train"]["x"], parts["train"]["y"], log_penalty)
    found = solved(problem, penalties, parts, given)

    # scikit-learn's logistic regression stops at a gradient of 1e-4
    close = 1e-6 if name == "ridge" else 2e-2
    np.testing.assert_allclose(w, found[0], rtol=close, atol=close)
    if name == "ridge":
        np.testing.assert_allclose(b, found[1], rtol=close, atol=close)


def test_the_elastic_nets_differ_by_the_smoothing_only(script: Any) -> None:
    problem = script.PROBLEMS["elastic_net"]
    parts = problem.parts(0)
    log_penalty = np.array([-2.5, -3.5])

    exact = problem.fit(parts["train"]["x"], parts["train"]["y"], log_penalty)
    smooth = solved(problem, problem.penalties["two"], parts, list(log_penalty))

    np.testing.assert_allclose(exact[0], smooth[0], atol=0.03)
    assert abs(problem.loss(exact, parts["test"]) - problem.loss(smooth, parts["test"])) < 0.02


@pytest.mark.parametrize("name", ["ridge", "logistic", "elastic_net"])
def test_scikit_learn_chooses_by_the_same_rows(script: Any, name: str) -> None:
    problem = dataclasses.replace(script.PROBLEMS[name], low=-5.0)
    parts = problem.parts(0)

    found = script.cross_validated(problem, parts, 0.0)

    assert found.tried == 5
    assert found.loss == problem.loss(found.model, parts["val"])
    if name != "elastic_net":
        line = np.linspace(problem.low, script.HIGH, 5)
        fitted = (
            problem.fit(parts["train"]["x"], parts["train"]["y"], np.array([p])) for p in line
        )
        least = min(problem.loss(model, parts["val"]) for model in fitted)
        assert found.loss == pytest.approx(least, rel=1e-3)


def test_a_grid_gets_finer_and_repeats_no_point(script: Any) -> None:
    points = [tuple(p) for p, _ in zip(script.grid(2, -9.0), range(81), strict=False)]

    assert len(set(points)) == 81
    assert set(points[:9]) == {(a, b) for a in (-9.0, -3.0, 3.0) for b in (-9.0, -3.0, 3.0)}
    line = np.linspace(-9, 3, 9)
    assert set(points) == {(a, b) for a in line for b in line}


def test_the_penalties_found_are_those_of_the_model(script: Any) -> None:
    problem = script.PROBLEMS["ridge"]
    parts = problem.parts(0)

    found = script.hypergradient(problem, parts, problem.penalties["per feature"], 0.0)

    w, b = problem.fit(parts["train"]["x"], parts["train"]["y"], found.log_penalty)
    np.testing.assert_allclose(found.model[0], w, rtol=1e-3, atol=1e-5)
    w, b = problem.fit(*script.both(parts).values(), found.log_penalty)
    np.testing.assert_allclose(found.on_both[0], w, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.on_both[1], b, rtol=1e-3, atol=1e-5)
