"""Runs whose work is recorded and launched again are the runs without: the same variables, losses
and reports after every update. CUDA graphs are stood in for by `tests/emulated_graphs.py`.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from emulated_graphs import Emulated
from torch import nn
from toys import RIDGE, classification, regression, start

import bettyc.api as bettyc
from bettyc.kernels import dispatch
from bettyc.runtime import graphs
from bettyc.runtime.hooks import Hooks

STEPS = 7
HYPERGRADS = {
    "cg": "cg(tol = 1e-10)",
    "cg warm": "cg(iters = 3, warm = true, damping = 0.1)",
    "neumann": "neumann(lr = 0.1, terms = 5)",
    "finite_diff": "finite_diff",
    "one_step": "one_step",
    "single_loop": "single_loop(rule = ma_soba)",
    "unroll": "unroll",
    "recompute": "unroll(recompute = true)",
    "first order": "unroll(first_order = true)",
    "none": "none",
}
OPTIMIZERS = {
    "sgd": "sgd(lr = 0.1)",
    "momentum": "sgd(lr = 0.05, momentum = 0.9, nesterov = true)",
    "adam": "adam(lr = 0.05, weight_decay = 0.01)",
    "adamw": "adamw(lr = 0.05, weight_decay = 0.1, amsgrad = true)",
    "rmsprop": "rmsprop(lr = 0.01, momentum = 0.5, centered = true)",
    "adagrad": "adagrad(lr = 0.1, lr_decay = 0.1)",
    "sign_sgd": "sign_sgd(lr = 0.01)",
}


@pytest.fixture(autouse=True)
def emulated(monkeypatch):
    """Graphs on the CPU, of torch's operators alone: what runs in C is not seen."""
    monkeypatch.setitem(graphs.ENGINES, "cpu", Emulated)
    with dispatch.use("torch"):
        yield


def trajectory(run, count=None):
    """After every update: all variables, the losses and norms, and what the solves report."""
    found = []
    for out in islice(run, count):
        theta = {name: value.clone() for name, value in run.state.theta.items()}
        reports = [
            (r.iterations, r.note, r.converged, *map(number, (r.relative_residual, r.min_ritz)))
            for r in out.reports
        ]
        found.append((theta, dict(out.loss), dict(out.grad_norm), reports))
    return found


def number(x):
    return float("nan") if x is None else x


def same(found, expected, rtol=1e-9):
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine[:3], theirs[:3], rtol=rtol, atol=1e-12)
        for a, b in zip(mine[3], theirs[3], strict=True):
            assert a[:3] == b[:3]
            # the smallest Ritz value is known to few digits while a solve goes on
            assert a[3:] == pytest.approx(b[3:], rel=1e-4, abs=1e-9, nan_ok=True)


def both(text, data=None, launched=None, **options):
    """The run with graphs, after it was compared with the one without."""
    changes = options.pop("set", {})
    runs = [
        start(text, data, set={**changes, "run.cuda_graphs": word}, **options)
        for word in ("off", "on")
    ]
    expected, found = map(trajectory, runs)
    same(found, expected)
    if launched is not None:
        assert set(runs[1].captured.graphs.launches) == launched
    return runs[1]


def ridge(optimizer, hypergrad, more="start = reset"):
    text = f"optimizer = {optimizer}\n  hypergrad = {hypergrad}\n  steps = 5\n  {more}"
    return RIDGE.replace("OPTIMIZER", text).replace("steps = 4", f"steps = {STEPS}")


EVERYTHING = {"steps of fit", "adjoint of tune"}


@pytest.mark.parametrize("name", HYPERGRADS)
def test_every_way_to_differentiate(name):
    more = "start = warm" if name == "single_loop" else "start = reset"
    run = both(ridge("sgd(lr = 0.1)", HYPERGRADS[name], more), {"all": regression()}, EVERYTHING)
    assert run.cuda_graphs == dict.fromkeys([*EVERYTHING, "update of tune"], "recorded")


@pytest.mark.parametrize(("hypergrad", "start"), [("cg", "warm"), ("unroll", "reset")])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(name, start, hypergrad):
    """Its state is made by the first update, and its options change with their number."""
    if name == "sign_sgd":
        hypergrad = "cg"  # it is not differentiable
    text = ridge(OPTIMIZERS[name], hypergrad, f"start = {start}")
    both(text, {"all": regression()}, EVERYTHING)


@pytest.mark.parametrize("schedule", ["cosine", "step(every = 3, gamma = 0.5)", "plateau"])
@pytest.mark.parametrize("optimizer", ["sgd(lr = 0.3)", "adam(lr = 0.1)"])
def test_learning_rates_that_change(optimizer, schedule):
    """Of both levels; those of the lower one are scales of its unrolled steps too."""
    text = ridge(optimizer, "unroll", f"lr_schedule = {schedule}")
    text = text.replace(
        "optimizer = sgd(lr = 0.1)\n}",
        f"optimizer = adam(lr = 0.1)\n  lr_schedule = {schedule}\n}}",
    )
    both(text, {"all": regression()}, EVERYTHING)


BATCHES = """
mlo 0.1
dim n, d, C = 2
data all : { x: real[n, d], y: int<C>[n] } from memory()
split all into train = 0.6, val = 0.4 with (seed = 0)
level fit {
  var W : real[d, C] = gaussian(std = 0.1)
  draw b from train(batch = 8, shuffle = true)
  let loss = dropout(xent(b.x @ W, b.y), p = 0.2)
  minimize mean(sigmoid(tune.score[b.index]) * loss) + 0.01 * sumsq(W)
  SETTINGS
}
level tune {
  var score : real[36] = zeros
  draw v from val(batch = 7, shuffle = true)
  minimize mean(xent(v.x @ fit*.W, v.y))
  optimizer = adam(lr = 0.1)
}
run { steps = 9  precision = fp64 }
"""
SETTINGS = {
    "cg": "optimizer = sgd(lr = 0.5, momentum = 0.9)  steps = 5"
    "  hypergrad = cg(iters = 3, damping = 0.1, warm = true)",
    "unroll": "optimizer = adam(lr = 0.1)  steps = 4  hypergrad = unroll",
    "finite_diff": "optimizer = sgd(lr = 0.5)  steps = 3  lr_schedule = cosine  clip = 0.1"
    "  hypergrad = finite_diff(eps = 0.01)",
    "reset": "optimizer = rmsprop(lr = 0.1)  steps = 3  start = reset  clip_value = 0.05"
    "  hypergrad = unroll(recompute = true)",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_batches_and_masks(name):
    """Every update draws its batch, and a mask of its own; what one derivative sees is the same."""
    text = BATCHES.replace("SETTINGS", SETTINGS[name])
    both(text, {"all": classification()}, EVERYTHING)


@pytest.mark.parametrize("name", ["cg", "unroll"])
def test_a_checkpoint_in_the_middle(name, tmp_path):
    """Written by a run with graphs, taken up by one that has recorded nothing yet."""
    text = BATCHES.replace("SETTINGS", SETTINGS[name])
    data = {"all": classification()}
    expected = trajectory(start(text, data))
    changes = {"run.cuda_graphs": "on"}
    first = start(text, data, set=changes)
    begun = trajectory(first, 5)
    path = first.save(tmp_path / "middle.ckpt")
    same(begun + trajectory(first), expected)
    again = start(text, data, set=changes)
    again.load(path)
    same(trajectory(again), expected[5:])
    assert set(again.captured.graphs.launches) == EVERYTHING


def test_a_hypergradient_asked_for_leaves_the_run_as_it_was():
    text, data = BATCHES.replace("SETTINGS", SETTINGS["unroll"]), {"all": classification()}
    run = start(text, data, set={"run.cuda_graphs": "on"})
    begun = trajectory(run, 5)
    asked = run.hypergrad("tune")
    same(begun + trajectory(run), trajectory(start(text, data)))
    plain = start(text, data)
    trajectory(plain, 5)
    torch.testing.assert_close(asked.flat, plain.hypergrad("tune").flat, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("change", ["overwritten", "replaced", "another shape"])
def test_data_that_change(change):
    """Overwritten where they lie, they are read anew; elsewhere or of another shape, the work is
    recorded anew.
    """
    text = ridge("adam(lr = 0.05)", "cg(tol = 1e-10)")

    def run(word):
        made = start(text, {"all": regression()}, set={"run.cuda_graphs": word})
        begun = trajectory(made, 4)
        for stage in made.stages.values():
            for key, column in list(stage.feed.columns.items()):
                if change == "overwritten":
                    column.mul_(1.5)
                    continue
                other = column * 1.5 if change == "replaced" else column[:-3].clone()
                stage.feed.columns[key] = other
                stage.feed.frame = None
        return made, begun + trajectory(made)

    expected, (made, found) = run("off")[1], run("on")
    same(found, expected)
    recordings = len(made.captured.graphs.engine.recordings)
    assert recordings == (2 if change == "overwritten" else 4)
    assert made.captured.graphs.refused == {}


def test_variables_and_options_that_somebody_assigns():
    text = ridge("sgd(lr = 0.1, momentum = 0.5)", "cg", "start = warm")

    def run(word):
        made = start(text, {"all": regression()}, set={"run.cuda_graphs": word})
        found = trajectory(made, 4)
        made.stages["fit"].assign({"w": torch.full((5,), 0.5)})
        found += trajectory(made, 1)
        made.stages["fit"].options.fixed["lr"] = 0.02
        return found + trajectory(made)

    same(run("on"), run("off"))


CURVED = """
mlo 0.1
level fit {
  var w : real[3] = fill(0.3)
  minimize 0.25 * sum(w^4) - 0.5 * sum(tune.a * w^2) + 0.1 * sum(w)
  optimizer = sgd(lr = 0.3)
  steps     = 1
  hypergrad = cg(damping = 1e-3)
}
level tune {
  var a : real[3] = fill(1)
  minimize sum((fit*.w - 1)^2)
  optimizer = sgd(lr = 0.01)
}
run { steps = 20  precision = fp64 }
"""


def test_a_solve_that_meets_negative_curvature_is_taken_again():
    """By minres, with its note, as without graphs."""
    run = start(CURVED, set={"run.cuda_graphs": "on"})
    found = trajectory(run)
    same(found, trajectory(start(CURVED)))
    bent = ["minres" in report[1] for *_, reports in found for report in reports]
    assert any(bent)
    assert not all(bent)
    assert run.captured.graphs.launches["adjoint of tune"] > 0


TASKS = """
mlo 0.1
dim S = 5, Q = 4
data tasks : { a: { x: real[S, 3], y: real[S, 2] }, b: { x: real[Q, 3], y: real[Q, 2] } }
  from memory()
def mse(p, y) = mean((p - y)^2)
level adapt foreach t in tasks(batch = 4) {
  module net = mlp([3, 8, 2], act = tanh)
  minimize mse(net(t.a.x), t.a.y)
  optimizer = OPTIMIZER
  steps     = 3
  start     = copy(meta.net)
  hypergrad = STRATEGY
}
level meta {
  module net = mlp([3, 8, 2], act = tanh)
  minimize mean(mse(k*.net(k.t.b.x), k.t.b.y) for k in adapt)
  optimizer = sgd(lr = 0.1)
}
run { steps = 6  precision = fp64 }
"""


def tasks():
    g = torch.Generator().manual_seed(3)

    def points(n):
        return {
            "x": torch.randn(n, 3, generator=g, dtype=torch.float64),
            "y": torch.randn(n, 2, generator=g, dtype=torch.float64),
        }

    return {"tasks": [{"a": points(5), "b": points(4)} for _ in range(6)]}


@pytest.mark.parametrize("strategy", ["unroll", "unroll(first_order = true)"])
def test_replicas(strategy):
    """Tasks change with every update; all of them are updated, and unrolled, in one graph."""
    text = TASKS.replace("STRATEGY", strategy).replace("OPTIMIZER", "adam(lr = 0.05)")
    run = both(text, tasks(), {"steps of adapt", "adjoint of meta"}, set={"adapt.replicas": "vmap"})
    assert not run.captured.graphs.refused


NETWORK = """
mlo 0.1
dim n, d, C = 2
extern module net(width: int) : real[B, d] -> real[B, C] from "nowhere:net"
data all : { x: real[n, d], y: int<C>[n] } from memory()
split all into train = 0.6, val = 0.4 with (seed = 0)
level fit {
  module net = net(6)
  draw b from train(batch = 8, shuffle = true)
  minimize mean(xent(net(b.x), b.y)) + exp(tune.log_wd) * sumsq(params(net))
  optimizer = adam(lr = 0.02)
  steps     = 4
  hypergrad = STRATEGY
}
level tune {
  var log_wd : real = -3
  minimize mean(xent(fit*.net(val.x), val.y))
  optimizer = sgd(lr = 0.1)
}
run { steps = 8  precision = fp64 }
"""


class Dropped(nn.Module):
    """Opaque, with masks, and with a plain attribute that `forward` reads."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Linear(4, width), nn.Linear(width, 2)
        self.slope = 1.0

    def forward(self, x):
        h = nn.functional.dropout(torch.tanh(self.slope * self.a(x)), 0.3, self.training)
        return self.b(h)


class Shifted(Dropped):
    """With a tensor that is neither parameter nor buffer."""

    def __init__(self, width):
        super().__init__(width)
        self.shift = torch.zeros(4, dtype=torch.float64)

    def forward(self, x):
        return super().forward(x + self.shift)


class Normed(Dropped):
    def __init__(self, width):
        super().__init__(width)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x):
        return self.b(torch.tanh(self.norm(self.a(x))))


class Looking(Dropped):
    """Looks at its input on the host."""

    def forward(self, x):
        return super().forward(x if float(x.sum()) > 1e9 else 2 * x)


class Counting(Dropped):
    """Behaves otherwise at every call, in a way that no attribute of its own shows."""

    calls: ClassVar[list[int]] = []

    def forward(self, x):
        self.calls.append(1)
        return super().forward(x + 0.1 * len(self.calls))


def network(module, strategy, word, change=None):
    """A run with such a network, `change`d after four updates."""
    text, data = NETWORK.replace("STRATEGY", strategy), {"all": classification()}
    made = start(text, data, {"net": module}, set={"run.cuda_graphs": word})
    begun = trajectory(made, 4)
    if change is not None:
        change(made.stages["fit"].linked.networks["fit.net"].module)
    return made, begun + trajectory(made)


@pytest.mark.parametrize("strategy", ["cg(iters = 3, damping = 1)", "unroll", "finite_diff"])
def test_an_opaque_network_with_masks(strategy):
    run, found = network(Dropped, strategy, "on")
    same(found, network(Dropped, strategy, "off")[1])
    assert set(run.captured.graphs.launches) == EVERYTHING
    taken = [[s for s in t.steps if s[0] == "seed"] for t in run.captured.graphs.engine.recordings]
    assert all(taken)


def steeper(net):
    net.slope = 3.0


def shifted(net):
    net.shift = torch.ones_like(net.shift)


@pytest.mark.parametrize("change", [steeper, shifted])
def test_an_attribute_that_changes_is_seen(change):
    run, found = network(Shifted, "one_step", "on", change)
    expected = network(Shifted, "one_step", "off", change)[1]
    same(found, expected)
    assert expected[-1][1] != network(Shifted, "one_step", "off")[1][-1][1]
    assert not run.captured.graphs.refused


def test_buffers_and_hooks_are_not_recorded():
    run, found = network(Normed, "cg(iters = 3, damping = 1)", "on")
    same(found, network(Normed, "cg(iters = 3, damping = 1)", "off")[1])
    assert "buffers" in run.cuda_graphs["steps of fit"]
    run, found = network(Dropped, "none", "on", lambda net: net.register_forward_hook(print))
    assert run.cuda_graphs["steps of fit"] == "`fit.net` has hooks"


def test_a_network_that_looks_at_values_runs_without_a_graph():
    """One warning for each part, and nothing of the attempt is left."""
    with pytest.warns(RuntimeWarning, match="MLO0809") as seen:
        run, found = network(Looking, "one_step", "on")
    same(found, network(Looking, "one_step", "off")[1])
    assert len(seen) == 2
    assert run.captured.graphs.launches == {}
    assert all("waits for the device" in why for why in run.captured.graphs.refused.values())


def test_a_launch_that_differs_from_a_plain_evaluation_is_not_used():
    """Hidden state of Python is baked into a recording; the comparison finds it."""
    Counting.calls.clear()
    with pytest.warns(RuntimeWarning, match="than its plain evaluation"):
        run, _ = network(Counting, "none", "on")
    assert "steps of fit" in run.captured.graphs.refused


def test_hooks_that_see_every_update():
    """Updates are not recorded then; hypergradients are."""
    seen = []
    text = ridge("sgd(lr = 0.1)", "cg")

    class Seeing(Hooks):
        def on_update(self, event):
            seen.append(event.level)

    run = start(text, {"all": regression()}, set={"run.cuda_graphs": "on"}, hooks=Seeing())
    same(trajectory(run), trajectory(start(text, {"all": regression()})))
    assert set(run.captured.graphs.launches) == {"adjoint of tune"}
    assert len(seen) == 6 * STEPS


EXAMPLES = Path(__file__).parents[2] / "examples"
slow = pytest.mark.slow


@pytest.mark.parametrize(
    "name",
    [
        "logistic_hpo",
        "maml_sinusoid",
        "meta_weight_net",
        "gan",
        pytest.param("adversarial", marks=slow),
        pytest.param("distillation", marks=slow),
        pytest.param("hyper_cleaning", marks=slow),
        pytest.param("learned_lr", marks=slow),
        pytest.param("learning_to_reweight", marks=slow),
    ],
)
def test_examples(name):
    """Whole programs, of which graphs take what they can."""

    def run(word):
        changes = {"run.steps": 6, "run.precision": "fp64", "run.cuda_graphs": word}
        program = bettyc.load(EXAMPLES / f"{name}.mlo", set=changes, profile="smoke")
        made = program.compile().start(seed=0)
        return made, trajectory(made)

    made, found = run("on")
    same(found, run("off")[1], rtol=1e-8)
    expected = {work for work, why in made.cuda_graphs.items() if why == "recorded"}
    assert set(made.captured.graphs.launches) == {w for w in expected if "update" not in w}
    assert expected
