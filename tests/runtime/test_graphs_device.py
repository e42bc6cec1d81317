"""What is recorded touches one device: nothing is read on the host, or copied to it or from it.

The device is torch's `meta`, on which every operator runs and nothing has a value.
"""

from __future__ import annotations

import pytest
import torch
from test_graphs import (
    BATCHES,
    HYPERGRADS,
    NETWORK,
    OPTIMIZERS,
    SETTINGS,
    TASKS,
    Dropped,
    Emulated,
    ridge,
    tasks,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from toys import classification, regression, start

from bettyc.kernels import capture, checks, dispatch
from bettyc.runtime import graphs
from bettyc.runtime.graphs import Arguments

META = torch.device("meta")


class Done(Exception):
    """A recorded function has run."""


class OneDevice(TorchDispatchMode):
    """Numbers of the host may be operands, as single values; all else has to be on the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        places = {t.device.type for t in (*(t for t in given if t.ndim), *made)}
        crossed = func._schema.name in ("aten::_to_copy", "aten::copy_") and given
        if crossed:
            places |= {t.device.type for t in given}
        assert places <= {"meta"}, f"{func} on {places}"
        return out


class OnMeta:
    """In the place of `Graphs`: runs a function on the device, once."""

    def __init__(self):
        self.refused = {}
        self.operators = 0

    def call(self, name, function, arguments: Arguments):
        given = {n: x.to(META) for n, x in arguments.tensors.items()}
        given["scalars"] = torch.empty(len(arguments.scalars), dtype=torch.float64, device=META)
        with capture.recording(), OneDevice():
            work = function(given)
        assert {x.device.type for x in work.tensors.values()} == {"meta"}
        raise Done


def stays(run, lower="fit", upper="tune"):
    """Steps of the level and the hypergradient above it, after an update of all."""
    run.step()
    captured, below = run.captured, run.stages[lower]
    captured.steps(below, below.plan.steps)  # what a hypergradient goes back through
    for stage in run.stages.values():
        for key, column in list(stage.feed.columns.items()):
            stage.feed.columns[key] = column.to(META)
        stage.feed.frame = None
        held = run.state.buffers[stage.name]
        run.state.buffers[stage.name] = {n: x.to(META) for n, x in held.items()}
    captured.graphs = OnMeta()
    above = run.stages[upper]
    assert captured.takes(below)
    assert not captured.why_not(upper, "adjoint")
    with pytest.raises(Done):
        above.gradient(above.feed.next())
    with pytest.raises(Done):
        captured.steps(below, below.plan.steps)


@pytest.fixture(autouse=True)
def on_meta(monkeypatch):
    monkeypatch.setitem(graphs.ENGINES, "cpu", Emulated)
    monkeypatch.setattr(checks, "apart", lambda *args, **named: None)  # nothing there has a place
    with dispatch.use("torch"):
        yield


def begun(text, data, externs=None, **changes):
    return start(text, data, externs, set={**changes, "run.cuda_graphs": "on"})


@pytest.mark.parametrize("name", HYPERGRADS)
def test_ways_to_differentiate(name):
    stays(begun(ridge("sgd(lr = 0.1)", HYPERGRADS[name], "start = warm"), {"all": regression()}))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name):
    text = ridge(OPTIMIZERS[name], "cg", "lr_schedule = cosine  clip = 1")
    stays(begun(text, {"all": regression()}))


@pytest.mark.parametrize("name", SETTINGS)
def test_batches_and_masks(name):
    stays(begun(BATCHES.replace("SETTINGS", SETTINGS[name]), {"all": classification()}))


@pytest.mark.parametrize("strategy", ["cg(iters = 3, damping = 1)", "unroll", "finite_diff"])
def test_networks(strategy):
    text = NETWORK.replace("STRATEGY", strategy)
    stays(begun(text, {"all": classification()}, {"net": Dropped}))


PLACES = """
mlo 0.1
dim C = 2
level fit {
  var w : real[3, 4] = gaussian
  minimize sum((w[:, C + 1] - tune.a)^2) + sum(w[C]^2) + sum(w^2)
  optimizer = sgd(lr = 0.1)
  steps     = 3
  hypergrad = cg
}
level tune {
  var a : real[3] = zeros
  minimize sum((fit*.w[:, C + 1] - 1)^2)
  optimizer = sgd(lr = 0.1)
}
run { steps = 3  precision = fp64 }
"""


def test_a_dim_as_a_place_in_a_tensor():
    """It is a number in the text: as a tensor without axes the device would be waited for."""
    stays(begun(PLACES, None))


def test_replicas():
    text = TASKS.replace("STRATEGY", "unroll").replace("OPTIMIZER", "adam(lr = 0.05)")
    stays(begun(text, tasks(), **{"adapt.replicas": "vmap"}), "adapt", "meta")
