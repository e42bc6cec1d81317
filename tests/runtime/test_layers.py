"""Levels with networks of the language: formulas against autograd, for every activation, strategy
and optimizer; the module that comes out; what is detached.
"""

from __future__ import annotations

import pytest
import torch
from toys import start

from bettyc.elaborate.networks import ACTIVATIONS
from bettyc.runtime.products import Products, gradients, products

PROGRAM = """
mlo 0.1
dim n, m, d = 3, C = 4
data train : { x: real[n, d], y: int<C>[n] } from memory()
data meta  : { x: real[m, d], y: int<C>[m] } from memory()
level student {
  module net = NET
  let losses = xent(net(train.x), train.y)
  minimize mean(weigher.v(INPUT[:, new])[:, 0] * losses) + 0.1 * sumsq(params(net))
  optimizer = OPTIMIZER
  steps = 3
  hypergrad = STRATEGY
}
level weigher {
  module v = mlp([1, 5, 1], act = tanh, out = sigmoid)
  minimize mean(xent(student*.net(meta.x), meta.y))
  optimizer = adam(lr = 0.05)
}
run { steps = 3  precision = fp64 }
"""
NETWORKS = [f"mlp([d, 5, 6, C], act = {act})" for act in ACTIVATIONS]
NETWORKS += ["mlp([d, 4, C], bias = false, act = elu)", "linear(d, C)", "mlp([d, C])"]
STRATEGIES = [
    "one_step", "finite_diff(eps = 0.0001)", "unroll", "cg(iters = 5, damping = 1.0)", "minres",
    "neumann(terms = 5, lr = 0.1)", "forward", "sama",
]  # fmt: skip
OPTIMIZERS = ["sgd(lr = 0.1)", "sgd(lr = 0.1, momentum = 0.9)", "adam(lr = 0.01)", "rmsprop"]


def data(seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return {
        name: {
            "x": torch.randn(rows, 3, generator=g, dtype=torch.float64),
            "y": torch.randint(0, 4, (rows,), generator=g),
        }
        for name, rows in (("train", 9), ("meta", 7))
    }


def run(
    net: str = "mlp([d, 5, C])", strategy: str = "one_step", optimizer: str = "sgd(lr = 0.1)",
    given: str = "detach(losses)", opt: int = 1,
):  # fmt: skip
    text = PROGRAM.replace("NET", net).replace("STRATEGY", strategy)
    text = text.replace("OPTIMIZER", optimizer).replace("INPUT", given)
    if optimizer == "rmsprop":
        text = text.replace("= rmsprop", "= rmsprop(lr = 0.01)")
    return start(text, data(), seed=3, opt=opt)


@pytest.mark.parametrize("given", ["losses", "detach(losses)"])
@pytest.mark.parametrize("net", NETWORKS)
def test_first_and_second_derivatives_equal_those_of_autograd(net, given):
    found = run(net, given=given)
    objective, theta = found.stages["student"].objective, found.state.theta
    frame = found.stages["student"].feed.next()
    assert objective.closed is not None
    formulas = products(objective, theta, frame, ["weigher"])
    by_formula = gradients(objective, theta, frame, ["student", "weigher"])
    kept, objective._closed = objective.closed, None
    autograd = Products(objective, theta, frame, ["weigher"])
    expected = gradients(objective, theta, frame, ["student", "weigher"])
    objective._closed = kept

    torch.testing.assert_close(by_formula, expected, rtol=1e-11, atol=1e-13)
    for _ in range(3):
        v = torch.randn(formulas.size, dtype=torch.float64)
        torch.testing.assert_close(formulas.hvp(v), autograd.hvp(v), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(formulas.cross(v), autograd.cross(v), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_formulas_and_autograd_give_one_trajectory(strategy, optimizer):
    runs = [run(strategy=strategy, optimizer=optimizer, opt=opt) for opt in (0, 1)]
    for one in runs:
        one.to_end()
    for level in ("student", "weigher"):
        plain, fast = (one.state.theta[level] for one in runs)
        # a difference quotient multiplies rounding by 1 / eps
        tolerance = 1e-6 if strategy.startswith(("finite_diff", "sama")) else 1e-9
        torch.testing.assert_close(fast, plain, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("opt", [0, 1])
@pytest.mark.parametrize("given", ["losses", "detach(losses)"])
def test_finite_differences_leave_alone_what_is_detached(given, opt):
    """They approximate the cross term of one step, which autograd takes with detach in its way."""
    exact = run("mlp([d, 5, C], act = tanh)", "one_step", given=given, opt=0).hypergrad("weigher")
    found = run(
        "mlp([d, 5, C], act = tanh)", "finite_diff(eps = 0.0001)", given=given, opt=opt
    ).hypergrad("weigher")
    for name, value in exact.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("net", NETWORKS)
def test_a_network_of_the_language_comes_out_as_a_module(net):
    found = run(net)
    found.step()
    before = torch.get_rng_state()
    module = found["student"].net
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(module, torch.nn.Module)
    values = found["student"].values()
    assert {f"net.{n}" for n in module.state_dict()} == set(values)
    for name, value in module.state_dict().items():
        assert torch.equal(value, values[f"net.{name}"])
    # its output is that of the formula: the mean over the meta rows is the weigher's objective
    rows = data()["meta"]
    loss = torch.nn.functional.cross_entropy(module(rows["x"]), rows["y"])
    stage = found.stages["weigher"]
    expected = stage.objective(found.state.theta, stage.feed.next())
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-12, atol=0)


def test_gradients_of_layers_are_written_into_one_buffer():
    found = run()
    found.step()
    closed = found.stages["student"].objective.closed
    assert closed is not None
    (written,) = closed._gradients.values()
    assert "out=out_student_net_0_weight" in written.text
    assert ".cat(" not in written.text
    frame = found.stages["student"].feed.next()
    first = closed.gradients(found.state.theta, frame, ["student"])[1]["student"]
    second = closed.gradients(found.state.theta, frame, ["student"])[1]["student"]
    assert first.data_ptr() != second.data_ptr()
    assert torch.equal(first, second)
