"""What a solve of the runtime asks of torch: nothing in C, views alone on a GPU.

There is no GPU here. Launches of the Triton kernels are recorded instead of run, and the whole of a
hypergradient is computed once under Triton's interpreter, in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_one_pass import begun
from torch.utils._python_dispatch import TorchDispatchMode

from bettyc.kernels import cg, cg_update, dispatch, jit, native
from bettyc.kernels.one_pass import Pass
from bettyc.kernels.xt_phi_x import Product
from bettyc.runtime.passes import Curvature
from bettyc.runtime.strategies import cg as strategy

VIEWS = {"select", "slice", "view", "_unsafe_view", "alias", "as_strided"}


class Count(TorchDispatchMode):
    """Names of the torch operations called inside; `.item()` is `_local_scalar_dense`."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


class Reached(Exception):
    """The solve begins."""


def matvec_of(name, monkeypatch):
    """The product and the right-hand side that the runtime hands to conjugate gradient."""

    def stop(matvec, b, **options):
        raise Reached(matvec, b)

    monkeypatch.setattr(strategy.kernel, "cg", stop)
    with pytest.raises(Reached) as found:
        begun(name).hypergrad("tune")
    monkeypatch.undo()
    return found.value.args


@pytest.mark.parametrize("name", ["bce", "weighted squares", "weighted xent"])
def test_on_the_cpu_a_solve_is_one_call(name, monkeypatch):
    if native.library() is None:
        pytest.skip(native.reason())
    with dispatch.use("auto"):
        product, b = matvec_of(name, monkeypatch)
        assert isinstance(product, Curvature)
        with Count() as seen:
            x, info = cg.cg(product, b, tol=1e-10, certify=True)
        solve = cg_update.start(torch.zeros_like(b), b.clone(), 1e-10 * b.norm(), 500)
        done = cg._loop(lambda k: solve.advance(product, k), solve.state, 500)
    assert [n for n in seen.names if n not in VIEWS] == ["empty_like", "empty"]  # before it
    assert done == info.iterations
    assert info.products - done in (0, 1)  # one where rounding may have moved the residual
    assert torch.equal(x, solve.x)  # the same steps


@pytest.mark.parametrize("name", ["bce", "weighted squares", "weighted xent"])
def test_on_a_gpu_a_step_is_four_launches_and_no_operation(name, monkeypatch):
    """Two for the product, two for the vectors: no allocation, nothing read back."""
    with dispatch.use("interpret"), jit.record() as made:
        product, b = matvec_of(name, monkeypatch)
        solve = cg_update.start(torch.zeros_like(b), b.clone(), b.norm(), 9)
        solve.advance(product, 0)  # allocates the working memory of the product
        made.clear()
        with Count() as seen:
            for k in range(1, 5):
                solve.advance(product, k)
    assert isinstance(product._pass, Product)
    assert set(seen.names) <= VIEWS
    assert len(made) == 4 * 4


def test_counting_sees_what_it_should():
    """Allocation and reading back are noticed where they happen."""
    with Count() as seen:
        float(torch.zeros(3).sum())
    assert {"zeros", "_local_scalar_dense"} <= set(seen.names)


SCRIPT = """
import sys
sys.path[:0] = [{tests!r}, {shared!r}]
import torch
from test_one_pass import begun
from bettyc.kernels import dispatch, jit
names = []
run = jit.Kernel.__getitem__
jit.Kernel.__getitem__ = lambda self, grid: (names.append(self.name), run(self, grid))[1]
for name in ("bce", "weighted xent"):
    with dispatch.use("torch"):
        want = begun(name).hypergrad("tune")
    assert not names
    with dispatch.use("interpret"):
        got = begun(name).hypergrad("tune")
    for key, value in want.items():
        assert torch.allclose(got[key], value, rtol=1e-9, atol=1e-13), (name, key)
    assert "cg_update_kernel" in names and "finish_kernel" in names, names
    names.clear()
print("as torch")
"""


def test_a_hypergradient_under_the_interpreter():
    """`run.device = cuda` takes the same way: dispatch differs by the device alone."""
    pytest.importorskip("triton")
    here = Path(__file__).parent
    script = SCRIPT.format(tests=str(here), shared=str(here.parent))
    options = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **options}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "as torch", done.stdout + done.stderr[-3000:]


def test_a_pass_has_no_operation_of_torch(monkeypatch):
    if native.library() is None:
        pytest.skip(native.reason())
    with dispatch.use("auto"):
        product, b = matvec_of("bce", monkeypatch)
        assert isinstance(product._pass, Pass)
        out = torch.empty_like(b)
        with Count() as seen:
            product._pass.into(b, out)
            product._pass.descend(out, 0.1, 3)
    assert seen.names == ["empty_like"]
