"""Meta-learning from text to numbers, against loops over tasks in plain torch and float64."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import mse_loss

import bettyc
from bettyc.runtime.run import Run

EXAMPLES = Path(__file__).parents[2] / "examples"


def started(name: str, **settings: object) -> Run:
    given = {"run.precision": "fp64", **{k.replace("__", "."): v for k, v in settings.items()}}
    return bettyc.load(EXAMPLES / f"{name}.mlo", set=given).compile().start()


def meta_gradient(run: Run, steps: int, lr: float, first_order: bool = False) -> dict[str, Tensor]:
    """MAML by hand: the mean over tasks of the query loss after `steps` of gradient descent."""
    net = run["meta"].net
    start = {n: p.detach().clone().requires_grad_() for n, p in net.named_parameters()}
    losses = []
    for task in run.tasks["adapt"].tasks:
        adapted = dict(start)
        for _ in range(steps):
            loss = mse_loss(functional_call(net, adapted, (task["support.x"],)), task["support.y"])
            found = torch.autograd.grad(loss, list(adapted.values()), create_graph=True)
            grads = [g.detach() if first_order else g for g in found]
            adapted = {n: p - lr * g for (n, p), g in zip(adapted.items(), grads, strict=True)}
        losses.append(mse_loss(functional_call(net, adapted, (task["query.x"],)), task["query.y"]))
    found = torch.autograd.grad(torch.stack(losses).mean(), list(start.values()))
    return dict(zip(start, found, strict=True))


def assert_same(found: object, expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        got = found[f"net.{name}"]  # type: ignore[index]
        assert (got - value).norm() <= 1e-12 * value.norm(), name


def test_maml_on_sine_waves() -> None:
    run = started("maml_sinusoid")
    run.step()  # away from the initial values
    found = run.hypergrad("meta")
    run.executor.respond("meta")

    assert_same(found, meta_gradient(run, steps=5, lr=0.01))


def test_first_order_maml_on_sine_waves() -> None:
    run = started("maml_sinusoid", adapt__hypergrad="unroll(first_order = true)")
    run.step()
    found = run.hypergrad("meta")
    run.executor.respond("meta")

    assert_same(found, meta_gradient(run, steps=5, lr=0.01, first_order=True))


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("maml_sinusoid", 5),
        ("maml_sinusoid_first_order", 5),
        ("maml_sinusoid_imaml", 16),
        ("anil_sinusoid", 5),
        ("reptile_sinusoid", 32),
    ],
)
def test_the_waves_are_judged_by_the_steps_of_the_program(
    name: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    judge = importlib.import_module("sinusoid_figures")
    for module in ("sinusoid_figures", "sinusoids", "figures"):
        monkeypatch.delitem(sys.modules, module)
    program, profile = judge.PROGRAMS[name]
    # the start hardly moves in the update, so that metrics speak of the start that was judged
    given = {"run.precision": "fp64", "meta.optimizer.lr": 1e-12, "run.eval": "every(1)"}
    if name == "maml_sinusoid_imaml":
        given["adapt.clip"] = 1.0  # every gradient is longer than that
    run = bettyc.load(EXAMPLES / f"{program}.mlo", profile=profile, set=given).compile().start()
    start = judge.start_of(name, run)
    metrics = run.step().metrics
    tasks = [
        {part: {c: task[f"{part}.{c}"] for c in "xy"} for part in ("support", "query")}
        for task in run.tasks["adapt"].tasks
    ]
    before, after = judge.judged(start, tasks)

    assert start.steps == steps
    assert len(tasks) == 16
    assert metrics["error_unadapted"] == pytest.approx(before, rel=1e-9)
    assert metrics["error"] == pytest.approx(after, rel=1e-9)
    assert abs(after - before) > 1e-4


def test_first_order_takes_no_gradient_again(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"adapt__hypergrad": "unroll(first_order = true)"}
    settings["adapt__optimizer"] = "sgd(lr = 0.01, momentum = 0.5)"
    run = started("maml_sinusoid", **settings)
    run.stages["adapt"]._keeps_gradients = False
    again = run.hypergrad("meta")
    run = started("maml_sinusoid", **settings)

    def refuse(*_: object) -> None:
        raise AssertionError("the objective is evaluated again")

    monkeypatch.setattr("bettyc.runtime.strategies.replay.value_of", refuse)
    found = run.hypergrad("meta")

    assert found.report[0].products == 0
    assert again.report[0].products == 5
    for name, value in found.items():
        assert torch.equal(value, again[name])
        assert value.norm() > 0


WAVES = """
dim S = 6, Q = 5
data tasks : { a: { x: real[S, 1], y: real[S, 1] }, b: { x: real[Q, 1], y: real[Q, 1] } }
  from memory()
def mse(p, y) = mean((p - y)^2)
"""
ANIL = """
level adapt foreach t in tasks(batch = 3) {
  module head = linear(4, 1)
  minimize mse(head(meta.body(t.a.x)), t.a.y)
  optimizer = sgd(lr = 0.1)
  steps     = 2
  start     = copy(meta.head)
  hypergrad = unroll
}
level meta {
  module body = mlp([1, 4, 4], act = tanh, out = tanh)
  module head = linear(4, 1)
  minimize mean(mse(k*.head(body(k.t.b.x)), k.t.b.y) for k in adapt)
  optimizer = sgd(lr = 0.1)
}
run { steps = 3  precision = fp64 }
"""
REPTILE = """
level adapt foreach t in tasks(batch = 3) {
  module net = mlp([1, 4, 1], act = tanh)
  minimize mse(net(t.a.x), t.a.y)
  optimizer = sgd(lr = 0.1)
  steps     = 4
  start     = copy(meta.net)
  hypergrad = none
}
level meta {
  module net = mlp([1, 4, 1], act = tanh)
  minimize 0.5 * mean(sumsq(params(net) - detach(params(k*.net))) for k in adapt)
  optimizer = sgd(lr = 0.5)
}
run { steps = 3  precision = fp64 }
"""


def waves() -> dict[str, list[dict[str, dict[str, Tensor]]]]:
    g = torch.Generator().manual_seed(4)

    def points(n: int) -> dict[str, Tensor]:
        x = torch.randn(n, 1, generator=g, dtype=torch.float64)
        return {"x": x, "y": torch.sin(2 * x + torch.rand((), generator=g))}

    return {"tasks": [{"a": points(6), "b": points(5)} for _ in range(9)]}


@pytest.mark.parametrize("way", ["vmap", "loop"])
def test_anil_adapts_the_head_alone(way: str) -> None:
    program = bettyc.loads(WAVES + ANIL, set={"adapt.replicas": way})
    run = program.compile(data=waves()).start()
    run.step()
    found = run.hypergrad("meta")
    run.executor.respond("meta")
    body, head = run["meta"].body, run["meta"].head
    losses = []
    for t in run.tasks["adapt"].tasks:
        w, b = head.weight, head.bias
        for _ in range(2):
            loss = mse_loss(body(t["a.x"]) @ w.T + b, t["a.y"])
            dw, db = torch.autograd.grad(loss, [w, b], create_graph=True)
            w, b = w - 0.1 * dw, b - 0.1 * db
        losses.append(mse_loss(body(t["b.x"]) @ w.T + b, t["b.y"]))
    torch.stack(losses).mean().backward()

    assert run["adapt"].head["weight"].shape == (3, 1, 4)
    for name, net in (("body", body), ("head", head)):
        for n, p in net.named_parameters():
            assert p.grad is not None
            got = found[f"{name}.{n}"]
            assert (got - p.grad).norm() <= 1e-12 * p.grad.norm(), (name, n)


def test_reptile_moves_towards_the_adapted_networks() -> None:
    run = bettyc.loads(WAVES + REPTILE).compile(data=waves()).start()
    before = {n: p.clone() for n, p in run["meta"].net.named_parameters()}
    run.step()

    for name, after in run["meta"].net.named_parameters():
        adapted = run["adapt"].net[name]
        torch.testing.assert_close(after, before[name] + 0.5 * (adapted.mean(0) - before[name]))
