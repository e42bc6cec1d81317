"""Hypergradients of whole programs against closed forms, dense solves and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from toys import classification, parts, regression, ridge, start


def closed_form(run) -> tuple[Tensor, Tensor]:
    """Solution and hypergradient of ridge regression with one log weight decay per coordinate."""
    log_wd = run["tune"].log_wd
    train, val = parts(run, "train"), parts(run, "val")
    n = len(train["y"])
    h = train["x"].T @ train["x"] / n + torch.diag(log_wd.exp())
    w = torch.linalg.solve(h, train["x"].T @ train["y"] / n)
    a = 2 * val["x"].T @ (val["x"] @ w - val["y"]) / len(val["y"])
    return w, -torch.linalg.solve(h, a) * log_wd.exp() * w


@pytest.mark.parametrize(
    "optimizer",
    [
        "hypergrad = exact",
        "hypergrad = cg(tol = 1e-12)",
        "optimizer = newton(tol = 1e-12)  hypergrad = cg(tol = 1e-12)",
        "optimizer = lbfgs(tol = 1e-11)  hypergrad = exact",
        "optimizer = sgd(lr = 0.3)  stop = grad_norm < 1e-12  hypergrad = exact",
    ],
)
def test_ridge_agrees_with_the_closed_form(optimizer):
    run = ridge(optimizer)
    found = run.hypergrad("tune")
    _, expected = closed_form(run)

    assert (found["log_wd"] - expected).norm() <= 1e-8 * expected.norm()


def test_a_run_follows_the_closed_form():
    """Four steps of gradient descent on the closed-form hypergradient, by hand and by the run."""
    run = ridge("hypergrad = exact")
    by_hand = run["tune"].log_wd
    for _ in range(4):
        run["tune"].assign(log_wd=by_hand)
        by_hand = by_hand - 0.1 * closed_form(run)[1]
    run = ridge("hypergrad = exact")
    run.to_end()

    torch.testing.assert_close(run["tune"].log_wd, by_hand, rtol=1e-9, atol=0)


def test_hypergrad_leaves_the_run_as_it_was():
    run, other = (
        ridge("optimizer = sgd(lr = 0.1)  steps = 7"),
        ridge("optimizer = sgd(lr = 0.1)  steps = 7"),
    )
    run.step()
    other.step()
    run.hypergrad("tune")
    run.hypergrad("tune", respond=False)
    run.to_end()
    other.to_end()

    assert torch.equal(run["tune"].log_wd, other["tune"].log_wd)
    assert torch.equal(run["fit"].w, other["fit"].w)


def test_without_responding_the_lower_level_stays():
    run = ridge("hypergrad = exact")
    found = run.hypergrad("tune", respond=False)

    # at w = 0 the cross term exp(log_wd) * w vanishes
    assert torch.equal(found["log_wd"], torch.zeros_like(found["log_wd"]))


@pytest.mark.parametrize("optimizer", ["sgd(lr = 0.1, momentum = 0.9)", "adam(lr = 0.05)"])
@pytest.mark.parametrize("begin", ["reset", "warm"])
def test_unroll_is_the_derivative_of_the_steps(optimizer, begin):
    """Against central differences of a rerun inner loop."""
    text = f"optimizer = {optimizer}  steps = 6  start = {begin}  hypergrad = unroll"
    found = ridge(text).hypergrad("tune")["log_wd"]

    def loss(log_wd: Tensor) -> float:
        run = ridge(text)
        run["tune"].assign(log_wd=log_wd)
        return float(run.hypergrad("tune").loss)

    here = ridge(text)["tune"].log_wd
    expected = torch.empty_like(here)
    for i in range(len(here)):
        e = torch.zeros_like(here)
        e[i] = 1e-5
        expected[i] = (loss(here + e) - loss(here - e)) / 2e-5

    assert (found - expected).norm() <= 1e-7 * expected.norm()


LOGISTIC = """
mlo 0.1
dim n, d
data all : { x: real[n, d], y: int<2>[n] } from memory()
split all into train = 0.5, val = 0.5 with (seed = 0)
def nll(w, s) = mean(bce(s.x @ w, s.y))
level fit {
  var w : real[d] = zeros
  minimize nll(w, train) + 0.5 * sum(tune.wd * w^2)
  optimizer = newton(tol = 1e-13)
  hypergrad = cg(tol = 1e-12)
}
level tune {
  var wd : real[d] in positive = fill(0.3)
  minimize nll(fit*.w, val)
  optimizer = sgd(lr = 0.1)
}
run { steps = 2  precision = fp64 }
"""


def test_logistic_agrees_with_differences_of_the_solved_problem():
    data = {"all": classification()}
    run = start(LOGISTIC, data)
    found = run.hypergrad("tune")["wd"]
    here = run["tune"].wd

    def loss(wd: Tensor) -> float:
        run["tune"].assign(wd=wd)
        return float(run.hypergrad("tune").loss)

    expected = torch.empty_like(here)
    for i in range(len(here)):
        factor = torch.ones_like(here)
        factor[i] = math.exp(1e-4)
        expected[i] = (loss(here * factor) - loss(here / factor)) / 2e-4

    # with respect to the free variable, the logarithm of wd
    assert (found - expected).norm() <= 1e-5 * expected.norm()


RATE = """
mlo 0.1
dim n, d
data all : { x: real[n, d], y: real[n] } from memory()
split all into train = 0.5, val = 0.5 with (seed = 0)
level fit {
  var w : real[d] = zeros
  minimize 0.5 * mean((train.x @ w - train.y)^2)
  optimizer = sgd(lr = exp(tune.log_lr))
  steps = 5
  start = reset
  hypergrad = unroll
}
level tune {
  var log_lr : real = -3
  minimize mean((val.x @ fit*.w - val.y)^2)
  optimizer = sgd(lr = 0.1)
}
run { steps = 3  precision = fp64 }
"""


def test_a_learning_rate_that_is_a_variable():
    data = {"all": regression()}
    found = float(start(RATE, data).hypergrad("tune")["log_lr"])
    losses = []
    for shift in (1e-5, -1e-5):
        run = start(RATE, data)
        run["tune"].assign(log_lr=run["tune"].log_lr + shift)
        losses.append(float(run.hypergrad("tune").loss))

    assert found == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-7)
    assert found != 0


def test_unrolling_begins_at_the_last_update_of_the_level_above():
    text = "optimizer = sgd(lr = 0.1)  steps = 6  start = warm  hypergrad = unroll"
    run = ridge(text)
    run.step()
    w = run["fit"].w
    run.step()

    assert run.stages["fit"].trajectory.length == 6
    assert torch.equal(run.stages["fit"].trajectory.begin({})[0], w)


@pytest.mark.parametrize(
    ("strategy", "kept"),
    [("sama", 1), ("fixed_point", 1), ("unroll(truncate = 3)", 3), ("unroll", 40)],
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_trajectory_keeps_no_more_steps_than_are_replayed(strategy, kept, accumulate):
    text = (
        f"optimizer = adam(lr = 0.05)  steps = 40  accumulate = {accumulate}"
        f"  hypergrad = {strategy}"
    )
    run, whole = ridge(text), ridge(text)
    run.executor.respond("tune")
    path = whole.stages["fit"].trajectory
    if strategy != "unroll(truncate = 3)":
        path.keep = 0  # as a strategy would see it that keeps everything
    whole.executor.respond("tune")

    assert len(run.stages["fit"].trajectory.records) == kept * accumulate
    if strategy != "unroll(truncate = 3)":
        assert len(path.records) == 40 * accumulate
    found, expected = run.hypergrad("tune", respond=False), whole.hypergrad("tune", respond=False)
    torch.testing.assert_close(found["log_wd"], expected["log_wd"], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("strategy", ["sama", "unroll(truncate = 1)"])
@pytest.mark.parametrize("optimizer", ["sgd(lr = 0.1)", "adam(lr = 0.05)"])
def test_one_update_of_accumulated_gradients_is_differentiated_whole(optimizer, strategy):
    """Of a full batch, three gradients are one: what one update without `accumulate` gives."""
    text = f"optimizer = {optimizer}  steps = 5  hypergrad = {strategy}"
    found, expected = (ridge(t) for t in (text + "  accumulate = 3", text))
    found, expected = (run.hypergrad("tune")["log_wd"] for run in (found, expected))

    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


def test_the_fixed_point_of_accumulated_gradients_is_the_solution():
    text = (
        "optimizer = sgd(lr = 0.3, momentum = 0.5)  steps = 400  accumulate = 2"
        "  hypergrad = fixed_point(iters = 400, tol = 1e-12)"
    )
    run = ridge(text)
    found = run.hypergrad("tune")["log_wd"]
    _, expected = closed_form(run)

    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-10)
