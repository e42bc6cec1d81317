"""Strategies that differentiate the real optimizers: against autograd through torch.optim
itself.
"""

from dataclasses import asdict, dataclass

import pytest
import torch
from hypergradients import after, differentiate, unrolled
from problems import FRAME, logistic, normal, relative, spd, two_levels
from trajectories import Steps, momentum

from bettyc.optimizers import OPTIMIZERS
from bettyc.runtime.adjoint import Lower
from bettyc.runtime.optimizers import RULES
from bettyc.strategies import FixedPoint, Forward, Sama, Unroll

TORCH = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}
CHOICES = [
    ("sgd", {}),
    ("sgd", {"momentum": 0.9}),
    ("sgd", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("adam", {}),
    ("adam", {"weight_decay": 0.1, "amsgrad": True}),
    ("adamw", {"weight_decay": 0.1}),
    ("rmsprop", {"momentum": 0.5, "centered": True}),
    # With the default eps of 1e-10 the first derivative is lost to cancellation, in torch as here.
    ("adagrad", {"eps": 1e-5}),
]


ADAGRAD = {"lr_decay": 0.0, "weight_decay": 0.0, "initial_accumulator_value": 0.0, "eps": 1e-10}


@pytest.fixture
def double():
    """torch.optim counts its steps in the default dtype, and corrects the bias in it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def recorded(name, options, length, start, lr=0.05):
    """A trajectory of the runtime's own optimizer; lr may be a function of all variables."""
    settings = {**(asdict(OPTIMIZERS[name]()) if name in OPTIMIZERS else ADAGRAD), **options}
    rule = RULES[name]

    def update(theta, grad, state, rate):
        state = dict(state)
        count = int(state.pop("count"))
        theta, state = rule.update(theta, grad, state, count, {**settings, "lr": rate})
        return theta, {**state, "count": torch.tensor(count + 1)}

    state = {**rule.init(start, {**settings, "lr": 0.05}), "count": torch.tensor(0)}
    return Steps(length, start, lr, [FRAME], update, state)


@dataclass(frozen=True)
class LastStep:
    """torch.optim before its last step; `step(g)` takes it, differentiably, and can be called
    again.
    """

    optimizer: torch.optim.Optimizer
    before: torch.Tensor
    state: dict

    def step(self, g):
        moved = self.before.clone()
        moved.grad = g
        self.optimizer.state.clear()
        self.optimizer.state[moved] = {
            k: v.clone() if torch.is_tensor(v) else v for k, v in self.state.items()
        }
        self.optimizer.param_groups[0]["params"] = [moved]
        self.optimizer.step()
        return moved


def torch_steps(name, options, start, gradient, count, lr):
    w = start.clone()
    optimizer = TORCH[name]([w], lr=lr, **options)
    for _ in range(count - 1):
        w.grad = gradient(w)
        optimizer.step()
    optimizer.defaults["differentiable"] = optimizer.param_groups[0]["differentiable"] = True
    optimizer.param_groups[0]["foreach"] = False
    return LastStep(optimizer, w.clone(), dict(optimizer.state[w]))


@pytest.mark.parametrize(("name", "options"), CHOICES)
@pytest.mark.parametrize("count", [1, 2, 10, 100, 1000])
def test_sama_equals_autograd_through_the_last_torch_step(double, count, name, options):
    problem = two_levels(spd(4, 5, seed=2))
    h, b_x, b = (problem.extra[n] for n in ("h", "b_x", "b"))
    x, start = problem.theta["up"], normal(4, seed=11)
    shift = b_x @ x + b

    def gradient(w):
        return h @ w + shift

    # Around the solution rmsprop divides rounding by rounding, which no two processors do alike: a
    # thousand steps are small ones, and end before it.
    lr = 0.05 if count < 1000 else 0.001
    last = torch_steps(name, options, start, gradient, count, lr)
    g = gradient(last.before).requires_grad_()
    moved = last.step(g.detach() if name == "sgd" else g)
    steps = recorded(name, options, count, start, lr)
    end = after(problem, steps)
    assert relative(end.theta["low"], moved.detach()) < 1e-7
    a = end.theta["low"] - (problem.theta["low"] - problem.extra["a"])
    if name == "sgd":
        # torch detaches the first momentum buffer; a difference is exact, the step being linear.
        at = g.detach()
        u = torch.stack([(last.step(at + e) - last.step(at - e)) @ a / 2 for e in torch.eye(4)])
    else:
        (u,) = torch.autograd.grad(moved, [g], a)
    indirect = differentiate(end, Lower(Sama(), trajectory=steps)).grad - x

    assert relative(indirect, b_x.T @ u) < 1e-6


@pytest.mark.parametrize(("name", "options"), CHOICES)
@pytest.mark.parametrize("of_lr", [False, True])
def test_unroll_and_forward_equal_autograd_through_the_steps(of_lr, name, options):
    problem = logistic()
    lr = (lambda t: 0.1 * torch.sigmoid(t["tune"][0])) if of_lr else 0.05
    steps = recorded(name, options, 8, torch.full((5,), 0.3, dtype=torch.float64), lr)
    end = after(problem, steps)
    x = problem.theta["tune"].clone().requires_grad_()
    (expected,) = torch.autograd.grad(unrolled(problem, steps, x), [x])

    for strategy in (Unroll(), Unroll(recompute=True), Forward()):
        found = differentiate(end, Lower(strategy, trajectory=steps))
        assert relative(found.grad, expected) < 1e-10


def test_the_learning_rate_alone_is_differentiated():
    # The objective does not read the upper variable: only the steps depend on it.
    problem = two_levels(spd(3, 3, seed=4), uppers=1)
    low = problem.objectives["low"]
    fixed = problem.theta["up"]
    alone = type(low)("low", ("low",), lambda t: low.function({**t, "up": fixed}))
    problem = type(problem)(
        {**problem.objectives, "low": alone},
        problem.theta,
        problem.order,
        problem.pulls,
        None,
        problem.extra,
    )
    steps = Steps(5, normal(3, seed=1), lambda t: torch.sigmoid(t["up"]), [FRAME])
    x = problem.theta["up"].clone().requires_grad_()
    (expected,) = torch.autograd.grad(unrolled(problem, steps, x), [x])
    for strategy in (Unroll(), Unroll(recompute=True), Forward()):
        found = differentiate(after(problem, steps), Lower(strategy, trajectory=steps))
        assert relative(found.grad, expected) < 1e-12


def test_fixed_point_with_momentum_reaches_the_implicit_gradient():
    problem = two_levels(spd(4, 5, seed=2))
    steps = recorded("sgd", {"momentum": 0.8}, 1000, torch.zeros(4, dtype=torch.float64), 0.3)
    found = differentiate(
        after(problem, steps), Lower(FixedPoint(iters=1000, tol=1e-12), trajectory=steps)
    )

    assert found.reports[0].converged
    assert relative(found.grad, problem.answer) < 1e-8


def test_fixed_point_iterates_variables_and_state_together():
    problem = two_levels(spd(4, 5, seed=2))
    h, b_x = problem.extra["h"], problem.extra["b_x"]
    lr, mu, eye = 0.3, 0.5, torch.eye(4, dtype=torch.float64)
    steps = Steps(
        2, normal(4, seed=1), lr, [FRAME], momentum, {"speed": torch.zeros(4, dtype=torch.float64)}
    )
    end = after(problem, steps)
    a = end.theta["low"] - (problem.theta["low"] - problem.extra["a"])
    jacobian = torch.cat(
        [torch.cat([eye - lr * h, -lr * mu * eye], 1), torch.cat([h, mu * eye], 1)]
    )
    upper = torch.cat([-lr * b_x, b_x])
    start = torch.cat([a, torch.zeros_like(a)])
    w = sum(torch.linalg.matrix_power(jacobian.T, k) @ start for k in range(4))

    found = differentiate(end, Lower(FixedPoint(iters=3, tol=0.0), trajectory=steps))
    assert relative(found.grad, problem.theta["up"] + upper.T @ w) < 1e-10


@pytest.mark.parametrize("strategy", [Unroll(), Forward()])
def test_a_copied_start_and_momentum_are_differentiated(strategy):
    problem = logistic()
    steps = Steps(
        4,
        lambda t: 0.5 * t["tune"] + 1,
        lambda t: 0.3 * torch.sigmoid(t["tune"][0]),
        [FRAME],
        momentum,
        {"speed": torch.zeros(5, dtype=torch.float64)},
    )
    x = problem.theta["tune"].clone().requires_grad_()
    (expected,) = torch.autograd.grad(unrolled(problem, steps, x), [x])

    found = differentiate(after(problem, steps), Lower(strategy, trajectory=steps))
    assert relative(found.grad, expected) < 1e-10


def test_unroll_to_convergence_reaches_the_implicit_gradient():
    problem = two_levels(spd(4, 20, seed=2))
    steps = Steps(800, torch.zeros(4, dtype=torch.float64), 1.0, [FRAME])
    for strategy in (Unroll(recompute=True), Forward(), Unroll(truncate=400)):
        found = differentiate(after(problem, steps), Lower(strategy, trajectory=steps))
        assert relative(found.grad, problem.answer) < 1e-8
