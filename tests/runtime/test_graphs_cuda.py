"""The runs of test_graphs.py with CUDA's own graphs: `pytest -m gpu`, on a machine with a GPU."""

from __future__ import annotations

import pytest
import torch
from test_graphs import (
    BATCHES,
    CURVED,
    EVERYTHING,
    HYPERGRADS,
    NETWORK,
    OPTIMIZERS,
    SETTINGS,
    Dropped,
    Looking,
    ridge,
    same,
    trajectory,
)
from toys import classification, regression, start

from bettyc.runtime.graphs import Arguments, Cuda, Graphs, Work
from bettyc.runtime.randomness import masks

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def run(text, data=None, externs=None, word="on"):
    made = start(text, data, externs, set={"run.cuda_graphs": word}, device="cuda")
    return made, trajectory(made)


def both(text, data=None, externs=None):
    """Atomic additions and other workspaces round otherwise: a few digits less than on the CPU."""
    made, found = run(text, data, externs)
    same(found, run(text, data, externs, "off")[1], rtol=1e-7)
    return made


@pytest.mark.parametrize("name", HYPERGRADS)
def test_every_way_to_differentiate(name):
    more = "start = warm" if name == "single_loop" else "start = reset"
    made = both(ridge("sgd(lr = 0.1)", HYPERGRADS[name], more), {"all": regression()})
    assert set(made.captured.graphs.launches) == EVERYTHING
    assert made.captured.graphs.refused == {}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(name):
    made = both(ridge(OPTIMIZERS[name], "cg", "start = warm"), {"all": regression()})
    assert set(made.captured.graphs.launches) == EVERYTHING


@pytest.mark.parametrize("name", SETTINGS)
def test_batches_and_masks(name):
    made = both(BATCHES.replace("SETTINGS", SETTINGS[name]), {"all": classification()})
    assert set(made.captured.graphs.launches) == EVERYTHING


@pytest.mark.parametrize("strategy", ["cg(iters = 3, damping = 1)", "unroll", "finite_diff"])
def test_an_opaque_network_with_masks(strategy):
    text = NETWORK.replace("STRATEGY", strategy)
    made = both(text, {"all": classification()}, {"net": Dropped})
    assert set(made.captured.graphs.launches) == EVERYTHING


def test_negative_curvature():
    assert both(CURVED).captured.graphs.launches["adjoint of tune"] > 0


def test_a_recording_that_fails_leaves_the_device_usable():
    """The stream, the memory pool and the random numbers: all of them work afterwards."""
    text, data = NETWORK.replace("STRATEGY", "one_step"), {"all": classification()}
    with pytest.warns(RuntimeWarning, match="MLO0809"):
        found = run(text, data, {"net": Looking})[1]
    same(found, run(text, data, {"net": Looking}, "off")[1], rtol=1e-7)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert torch.rand(3, device="cuda").isfinite().all()
    torch.nn.functional.dropout(torch.ones(3, device="cuda"))
    both(text, data, {"net": Dropped})


def test_masks_follow_the_seeds_of_the_call():
    graphs = Graphs(Cuda(torch.device("cuda")))

    def masked(given):
        parts = []
        for seed in (11, 12, 11):
            with masks(seed + base, "cuda"):
                parts.append(torch.rand(3, device="cuda") * given["v"])
        return Work({"parts": torch.stack(parts)})

    for base in range(5):
        v = torch.full((3,), 1.0 + base, device="cuda")
        expected = masked({"v": v}).tensors["parts"]
        work = graphs.call("masked", masked, Arguments({"v": v}, seeds=[11 + base, 12 + base]))
        assert torch.equal(work.tensors["parts"], expected)
        assert torch.equal(expected[0], expected[2])
    assert graphs.launches == {"masked": 4}
