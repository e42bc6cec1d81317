"""Random estimates are unbiased: within the confidence interval of many samples."""

import pytest
import torch
from hypergradients import after, differentiate
from problems import FRAME, normal, relative, spd, two_levels
from trajectories import Steps

from bettyc.runtime.adjoint import Lower, hypergradient
from bettyc.runtime.objective import Frame
from bettyc.runtime.strategies.score import score
from bettyc.strategies import Unroll, ZerothOrder


def test_zeroth_order_is_unbiased_for_a_linear_response():
    problem = two_levels(spd(4, 5, seed=3))
    steps = Steps(1, normal(4, seed=8), 0.7, [FRAME])
    end = after(problem, steps)
    exact = differentiate(end, Lower(Unroll(), trajectory=steps)).grad
    indirect = exact - problem.theta["up"]
    samples = 10_000
    found = differentiate(end, Lower(ZerothOrder(samples=samples), trajectory=steps)).grad
    # cov of d d^T q for a normal d is |q|^2 I + q q^T
    spread = ((indirect @ indirect + indirect.square()) / samples).sqrt()

    assert bool(((found - exact).abs() < 4 * spread).all())
    assert not torch.equal(found, exact)


def test_zeroth_order_draws_from_the_seed_of_the_frame():
    problem = two_levels(spd(4, 5, seed=3))
    steps = Steps(2, normal(4, seed=8), 0.7, [FRAME])
    lower = Lower(ZerothOrder(samples=4), trajectory=steps)
    one, two = differentiate(problem, lower).grad, differentiate(problem, lower).grad
    frames = {"low": Frame({}, seed=1), "up": FRAME}
    three = hypergradient(
        "up",
        objectives=problem.objectives,
        theta=problem.theta,
        frames=frames,
        lowers={"low": lower},
        pulls=problem.pulls,
    ).grad

    assert torch.equal(one, two)
    assert not torch.equal(one, three)


@pytest.mark.parametrize("baseline", ["none", "leave_one_out"])
def test_score_is_unbiased(baseline):
    # x ~ N(m, 1), r = x^2: d E[r] / dm = 2 m
    m = torch.tensor(0.7, dtype=torch.float64)
    groups, samples = 2000, 5
    noise = normal(groups, samples, seed=1)
    found = []
    for row in noise:
        mean = m.clone().requires_grad_()
        x = (m + row).detach()
        (g,) = torch.autograd.grad(score(-0.5 * (x - mean).square(), x.square(), baseline), [mean])
        found.append(g)
    found = torch.stack(found)
    interval = 4 * float(found.std()) / groups**0.5

    assert abs(float(found.mean()) - 1.4) < interval
    assert interval < 0.3


def test_leaving_one_out_lowers_the_variance():
    m = torch.tensor(0.7, dtype=torch.float64)
    spread = {}
    for baseline in ("none", "leave_one_out"):
        found = []
        for row in normal(500, 10, seed=2):
            mean = m.clone().requires_grad_()
            x = (m + row).detach()
            reward = x.square() + 10
            (g,) = torch.autograd.grad(score(-0.5 * (x - mean).square(), reward, baseline), [mean])
            found.append(g)
        spread[baseline] = float(torch.stack(found).std())

    assert spread["leave_one_out"] < spread["none"] / 2


def test_score_refuses_what_it_cannot_use():
    one = torch.zeros(1)
    with pytest.raises(ValueError, match="two samples"):
        score(one, one)
    with pytest.raises(ValueError, match="none, leave_one_out"):
        score(one, one, "mean")
    with pytest.raises(ValueError, match=r"\(1,\) and \(2,\)"):
        score(one, torch.zeros(2))


def test_zeroth_order_of_smoothed_response_is_first_order_in_sigma():
    problem = two_levels(spd(4, 5, seed=3))
    steps = Steps(3, normal(4, seed=8), 0.5, [FRAME])
    end = after(problem, steps)
    small, large = (
        differentiate(end, Lower(ZerothOrder(50, sigma), trajectory=steps)).grad
        for sigma in (1e-3, 1.0)
    )

    # the response is linear: sigma cancels
    assert relative(small, large) < 1e-9


def test_score_weighs_each_sample_by_its_advantage():
    log_prob = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    reward = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    (plain,) = torch.autograd.grad(score(log_prob, reward, "none"), [log_prob])
    (left_out,) = torch.autograd.grad(score(log_prob, reward), [log_prob])

    assert plain.tolist() == pytest.approx([1 / 3, 2 / 3, 2])
    assert left_out.tolist() == pytest.approx([-1, -0.5, 1.5])
