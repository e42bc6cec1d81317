"""All replicas of a `foreach` level at once: the same numbers as one after another, and a loop
where vmap cannot take the network.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from toys import start

from bettyc.failures import RunError
from bettyc.runtime import replicas
from bettyc.runtime.run import Run
from bettyc.runtime.strategies import cg

TEXT = """
mlo 0.1
dim S = 5, Q = 4
extern module made() : real[B, 3] -> real[B, 2] from "nowhere:made"
data tasks : { a: { x: real[S, 3], y: real[S, 2] }, b: { x: real[Q, 3], y: real[Q, 2] } }
  from memory()
def mse(p, y) = mean((p - y)^2)
level adapt foreach t in tasks(batch = 4) {
  module net = NETWORK
  minimize mse(net(t.a.x), t.a.y) PROX
  optimizer = OPTIMIZER
  steps     = 3
  start     = copy(meta.net)
  hypergrad = STRATEGY
}
level meta {
  module net = NETWORK
  minimize mean(mse(k*.net(k.t.b.x), k.t.b.y) for k in adapt)
  optimizer = sgd(lr = 0.1)
}
metric error = mean(mse(k.net(k.t.b.x), k.t.b.y) for k in adapt)
run { steps = 2  precision = fp64  eval = every(1) }
"""
MLP = "mlp([3, 8, 2], act = tanh)"


def tasks() -> dict[str, Any]:
    g = torch.Generator().manual_seed(3)

    def points(n: int) -> dict[str, torch.Tensor]:
        return {
            "x": torch.randn(n, 3, generator=g, dtype=torch.float64),
            "y": torch.randn(n, 2, generator=g, dtype=torch.float64),
        }

    return {"tasks": [{"a": points(5), "b": points(4)} for _ in range(9)]}


def run(
    way: str,
    strategy: str = "unroll",
    network: str = MLP,
    prox: str = "",
    made: Any = None,
    optimizer: str = "sgd(lr = 0.1)",
    opt: int = 1,
) -> Run:
    text = TEXT.replace("NETWORK", network).replace("STRATEGY", strategy).replace("PROX", prox)
    text = text.replace("OPTIMIZER", optimizer)
    externs = {"made": made or (lambda: nn.Linear(3, 2))}
    return start(text, tasks(), externs, set={"adapt.replicas": way}, opt=opt)


def moved(run: Run) -> tuple[list[float], torch.Tensor, torch.Tensor]:
    outputs = [value for out in run for value in (*out.loss.values(), *out.metrics.values())]
    theta = run.state.theta
    return outputs, theta["adapt"], theta["meta"]


def assert_close(first: Any, second: Any) -> None:
    torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-12)


NEAR = "+ sumsq(params(net) - params(meta.net))"
# some replicas have negative curvature
WEAKLY = "+ 0.01 * sumsq(params(net) - params(meta.net))"


@pytest.mark.parametrize(
    ("strategy", "prox", "optimizer"),
    [
        ("unroll", "", "sgd(lr = 0.1)"),
        ("unroll(recompute = true)", "", "adam(lr = 0.01)"),
        ("unroll", NEAR, "sgd(lr = 0.1, momentum = 0.9)"),
        ("cg(iters = 4, damping = 1.0)", NEAR, "sgd(lr = 0.1)"),
        ("cg(tol = 1e-12)", NEAR, "sgd(lr = 0.1)"),
        ("cg(iters = 4)", WEAKLY, "sgd(lr = 0.1)"),
        ("neumann(terms = 3, lr = 0.1)", NEAR, "sgd(lr = 0.1)"),
        ("none", "+ 0.1 * sumsq(params(net) - params(meta.net))", "sgd(lr = 0.1)"),
    ],
)
@pytest.mark.parametrize("opt", [0, 1])
def test_vmap_and_loop_agree_to_rounding(
    strategy: str, prox: str, optimizer: str, opt: int
) -> None:
    given: dict[str, Any] = {"strategy": strategy, "prox": prox, "optimizer": optimizer}
    looped, batched = run("loop", **given, opt=opt), run("vmap", **given, opt=opt)

    assert_close(moved(looped), moved(batched))
    assert (looped.replicas, batched.replicas) == ({"adapt": "loop"}, {"adapt": "vmap"})


@pytest.mark.parametrize(
    ("strategy", "prox", "optimizer"),
    [
        ("unroll", "", "sgd(lr = 0.1)"),
        ("unroll(recompute = true)", NEAR, "adam(lr = 0.01)"),
        ("unroll", NEAR, "sgd(lr = 0.1, momentum = 0.9)"),
        ("cg(tol = 1e-12)", NEAR, "sgd(lr = 0.1)"),
        ("sama", NEAR, "sgd(lr = 0.1)"),
    ],
)
def test_formulas_of_all_replicas_agree_with_autograd(
    strategy: str, prox: str, optimizer: str
) -> None:
    given: dict[str, Any] = {"strategy": strategy, "prox": prox, "optimizer": optimizer}
    autograd, formulas = (run("vmap", **given, opt=opt) for opt in (0, 1))

    tolerance = (
        {"rtol": 1e-5, "atol": 1e-7} if strategy == "sama" else {"rtol": 1e-9, "atol": 1e-11}
    )
    torch.testing.assert_close(moved(autograd), moved(formulas), **tolerance)
    assert formulas._parts.stages["adapt"].objective.closed_replicas is not None


VARIED = """
mlo 0.1
dim S = 4, C = 3
data tasks : { a: { x: real[S, 2], y: int<C>[S] }, b: { x: real[S, 2], y: int<C>[S] } }
  from memory()
level adapt foreach t in tasks(batch = 3) {
  var w : real[2, C] = zeros
  var scale : real in positive = 0.5
  var frozen : real[C] = fill(0.3)
  var bias : real[C] = zeros
  minimize mean(xent(scale * t.a.x @ w + bias + frozen, t.a.y)) + 0.5 * sum(exp(meta.log_wd) * w^2)
    + 0.1 * meta.shift * (sum(bias^2) + scale) + 0.5 * exp(meta.shift)
  optimizer = sgd(lr = 0.3)
  steps     = 2
  start     = reset
  hypergrad = STRATEGY
  freeze    = "frozen"
  replicas  = vmap
}
level meta {
  var log_wd : real[2, C] = zeros
  var shift  : real = 0.7
  minimize mean(mean(xent(k*.scale * k.t.b.x @ k*.w + k*.bias, k.t.b.y)) for k in adapt)
  optimizer = sgd(lr = 0.1)
}
run { steps = 2  precision = fp64 }
"""


@pytest.mark.parametrize("strategy", ["unroll", "cg(tol = 1e-13, damping = 0.5)"])
def test_scalars_domains_labels_and_frozen_variables_of_replicas(strategy: str) -> None:
    g = torch.Generator().manual_seed(0)

    def points() -> dict[str, torch.Tensor]:
        x = torch.randn(4, 2, generator=g, dtype=torch.float64)
        return {"x": x, "y": torch.randint(0, 3, (4,), generator=g)}

    data = {"tasks": [{"a": points(), "b": points()} for _ in range(5)]}
    runs = [start(VARIED.replace("STRATEGY", strategy), data, opt=opt) for opt in (0, 1)]
    found = [run.hypergrad("meta").flat for run in runs]

    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)
    for one in runs:
        one.step()
    torch.testing.assert_close(*(run.state.theta for run in runs), rtol=1e-9, atol=1e-11)
    assert runs[1]._parts.stages["adapt"].objective.closed_replicas is not None


def test_networks_from_python_agree_too() -> None:
    def made() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 6), nn.GroupNorm(2, 6), nn.Tanh(), nn.Linear(6, 2))

    looped, batched = (run(way, network="made()", made=made) for way in ("loop", "auto"))

    assert_close(moved(looped), moved(batched))
    assert batched.replicas == {"adapt": "vmap"}


def test_certificates_agree() -> None:
    given: dict[str, Any] = {"strategy": "cg(tol = 1e-9)", "prox": NEAR}
    (a,), (b,) = (run(way, **given).hypergrad("meta").report for way in ("loop", "vmap"))

    assert (a.converged, b.converged) == (True, True)
    assert a.iterations == b.iterations
    assert a.products <= b.products  # alone, a system far from rounding spends none on its residual
    assert b.relative_residual is not None
    assert b.relative_residual <= 1e-9
    # for replicas by formula the loop takes it from the Lanczos matrix, which is sharper
    assert a.min_ritz is not None
    assert b.min_ritz is not None
    assert b.min_ritz >= 2.0


@pytest.mark.parametrize("damping", [0.0, 0.7])
def test_the_certificate_of_few_steps_takes_no_product(
    damping: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"strategy": f"cg(iters = 2, damping = {damping})", "prox": NEAR}
    # the loop takes a product for it, as where rounding may matter
    monkeypatch.setattr(cg, "_without_rounding", lambda *_: None)
    looped = run("loop", **given, opt=0).hypergrad("meta").report[0]
    batched = run("vmap", **given).hypergrad("meta").report[0]

    assert (looped.products, batched.products) == (12, 8)
    assert batched.relative_residual == pytest.approx(looped.relative_residual, rel=1e-9)
    assert not batched.converged


def test_systems_of_negative_curvature_are_solved_alone() -> None:
    given: dict[str, Any] = {"strategy": "cg(iters = 4)", "prox": WEAKLY}
    looped, batched = (run(way, **given).hypergrad("meta") for way in ("loop", "vmap"))

    assert batched.report[0].severe
    assert batched.report[0].note == looped.report[0].note
    assert_close(looped.flat, batched.flat)


@pytest.mark.parametrize(
    "made",
    [
        lambda: nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)),
        lambda: nn.Sequential(nn.Linear(3, 6), nn.Dropout(0.5), nn.Linear(6, 2)),
    ],
    ids=["batch_norm", "dropout"],
)
def test_a_loop_where_vmap_cannot(made: Any) -> None:
    looped, chosen = (run(way, network="made()", made=made) for way in ("loop", "auto"))
    first, second = moved(looped), moved(chosen)

    assert chosen.replicas["adapt"].startswith("loop: vmap cannot take it: ")
    assert_close(first[0], second[0])
    # the look at vmap has changed nothing
    torch.testing.assert_close(first[1:], second[1:], rtol=0, atol=0)
    for key, buffers in looped.state.buffers.items():
        torch.testing.assert_close(buffers, chosen.state.buffers[key], rtol=0, atol=0)
    with pytest.raises(RunError, match="say `replicas = loop`"):
        run("vmap", network="made()", made=made).step()


def test_a_loop_where_operators_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "LARGE", 10)
    found = run("auto")
    found.step()

    assert found.replicas["adapt"].startswith("loop: its operators are large")


class Saved:
    """A tensor that autograd keeps; `most` of them at a time."""

    alive = most = 0

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x
        Saved.alive += 1
        Saved.most = max(Saved.most, Saved.alive)

    def __del__(self) -> None:
        Saved.alive -= 1


def test_a_loop_keeps_the_graph_of_one_replica_at_a_time() -> None:
    def most(batch: int) -> int:
        text = TEXT.replace("batch = 4", f"batch = {batch}").replace("PROX", NEAR)
        text = text.replace("NETWORK", "made()").replace("STRATEGY", "none")
        text = text.replace("OPTIMIZER", "sgd(lr = 0.1)")
        externs = {"made": lambda: nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2))}
        found = start(text, tasks(), externs, set={"adapt.replicas": "loop"})
        Saved.alive = Saved.most = 0
        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.x):
            found.step()
        return Saved.most

    assert most(2) == most(8) > 0


def test_the_loss_of_a_foreach_level_is_the_mean_over_replicas() -> None:
    found = run("loop", strategy="none", prox=NEAR, optimizer="sgd(lr = 1e-30)")
    out = found.step()
    net = found["meta"].net
    # meta has moved since: put it back to where the replicas are
    net.load_state_dict({n: v[0] for n, v in found["adapt"].net.items()})
    with torch.no_grad():
        losses = [mse_loss(net(t["a.x"]), t["a.y"]) for t in found.tasks["adapt"].tasks]

    assert out.loss["adapt"] == pytest.approx(float(torch.stack(losses).mean()), rel=1e-12)
