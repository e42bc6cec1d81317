"""Inside a solve nothing is allocated, nothing is read back, and each step is a fixed number of
launches.
"""

from __future__ import annotations

import os
from typing import ClassVar

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bettyc.kernels import capture, cg_batched, cg_single, cg_update, dispatch, jit
from bettyc.kernels.cg import _loop, cg
from bettyc.kernels.phi import Diagonal
from bettyc.kernels.xt_phi_x import Product


class Count(TorchDispatchMode):
    """Names of the torch operations called inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


VIEWS = {"select", "slice", "view", "_unsafe_view", "alias", "as_strided"}


@pytest.mark.parametrize("module", [cg_update, cg_single], ids=["classic", "single"])
def test_a_step_of_the_kernels_is_four_launches_and_no_operation(draw, module):
    """Two for the product, two for the vectors; torch is asked for views only."""
    x, v, w = draw(64, 20), draw(20), draw(64)
    with dispatch.use("interpret"), jit.record() as made:
        product = Product(x, Diagonal(w), v)
        solve = module.start(
            torch.zeros_like(v), v.clone(), torch.zeros((), dtype=torch.float64), 9
        )
        solve.advance(product, 0)  # allocates the working memory of the product
        made.clear()
        with Count() as seen:
            for k in range(1, 5):
                solve.advance(product, k)
    assert len(made) == 4 * 4
    assert set(seen.names) <= VIEWS


def test_a_batched_step_is_one_launch(draw):
    b = draw(3, 20)
    with dispatch.use("interpret"), jit.record() as made:
        solve = cg_batched.start(
            torch.zeros_like(b), b.clone(), torch.zeros(3, dtype=torch.float64)
        )
        with Count() as seen:
            cg_batched.step(solve, b)
    assert [m.kernel.name for m in made] == ["cg_batched_kernel"]
    assert set(seen.names) <= VIEWS


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="not about Triton")
def test_the_native_step_asks_torch_for_nothing(draw):
    if dispatch.choose("cg_update", torch.device("cpu"), torch.float64).way != "native":
        pytest.skip("no CPU kernels")
    x, v, w = draw(64, 20), draw(20), draw(64)
    product = Product(x, Diagonal(w), v, shift=1.0)
    solve = cg_update.start(torch.zeros_like(v), v.clone(), torch.zeros((), dtype=torch.float64), 9)
    solve.advance(product, 0)
    with Count() as seen:
        for k in range(1, 5):
            solve.advance(product, k)
    assert seen.names == []


@pytest.mark.parametrize("method", ["classic", "single"])
def test_a_solve_that_is_recorded_waits_for_nothing(draw, method):
    """All of its steps are queued, whatever they find: four launches each, and no look."""
    x, v, w = draw(64, 20), draw(20), draw(64)
    with dispatch.use("interpret"), jit.record() as made:
        product = Product(x, Diagonal(w), v)
        with Count() as seen, capture.recording():
            cg(product, v, tol=1e-6, max_iters=40, method=method)
    assert len([m for m in made if "sum_squares" not in m.kernel.name]) == 4 * 40
    assert not {"_local_scalar_dense", "_to_copy_cpu", "nonzero"} & set(seen.names)


class FakeEvent:
    """A CUDA event whose wait shows how far the device has come: to the step that it was recorded
    at.
    """

    log: ClassVar[list[str]] = []

    def record(self) -> None:
        self.log.append("record")

    def synchronize(self) -> None:
        self.log.append("wait")


def run_ahead(monkeypatch, steps, stop_at):
    """The loop of a GPU with its events replaced; how many steps were queued, and the waits."""
    FakeEvent.log = []
    state = torch.zeros(2, 4, dtype=torch.float64)
    zeros = torch.zeros
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch, "zeros", lambda *a, pin_memory=False, **k: zeros(*a, **k))
    taken = []

    def step(k):
        taken.append(k)
        state[(k + 1) % 2, 2] = float(k + 1 >= stop_at)

    from bettyc.kernels.cg import _run_ahead

    done = _run_ahead(step, state, steps)
    assert done == len(taken)
    return done, FakeEvent.log.count("wait")


def test_few_steps_are_queued_without_a_look(monkeypatch):
    assert run_ahead(monkeypatch, 16, 3) == (16, 0)


def test_many_steps_end_within_two_looks_of_convergence(monkeypatch):
    assert run_ahead(monkeypatch, 1000, 40) == (64, 3)
    assert run_ahead(monkeypatch, 50, 1000) == (50, 2)


def test_the_cpu_loop_ends_at_once(draw):
    b = draw(6)
    calls = []

    def matvec(p):
        calls.append(0)
        return 3 * p

    cg(matvec, b, tol=1e-10)
    assert len(calls) == 1
    assert _loop(lambda k: 0, torch.zeros(2, 4), 5) == 5
