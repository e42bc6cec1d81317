"""Runs whose work is recorded and launched again are the runs without: the same variables, losses
and reports after every update. CUDA graphs are stood in for by `tests/emulated_graphs.py`.
"""

from __future__ import annotations

import pytest
import torch
from emulated_graphs import Emulated
from toys import RIDGE, regression, start

from bettyc.kernels import dispatch
from bettyc.runtime import graphs

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


def trajectory(run):
    """After every update: all variables, the losses and norms, and what the solves report."""
    found = []
    for out in run:
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
            assert a[3:] == pytest.approx(b[3:], rel=1e-6, abs=1e-9, nan_ok=True)


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
    assert run.cuda_graphs == dict.fromkeys(EVERYTHING, "recorded")


@pytest.mark.parametrize("hypergrad", ["cg", "unroll"])
@pytest.mark.parametrize("start", ["warm", "reset"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(name, start, hypergrad):
    if name == "sign_sgd" and hypergrad == "unroll":
        pytest.skip("not differentiable")
    text = ridge(OPTIMIZERS[name], hypergrad, f"start = {start}")
    both(text, {"all": regression()}, EVERYTHING)
