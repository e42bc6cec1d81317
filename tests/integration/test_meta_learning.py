"""Meta-learning from text to numbers, against loops over tasks in plain torch and float64."""

from __future__ import annotations

from pathlib import Path

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
