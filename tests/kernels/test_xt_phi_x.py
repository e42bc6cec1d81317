"""X^T phi(X v): equals the sum of x_i^T J_i x_i in float64, for every phi, shape and way."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from bettyc.kernels import dispatch, xt_phi_x_triton
from bettyc.kernels.phi import Centred, Diagonal, GaussNewton, Softmax
from bettyc.kernels.xt_phi_x import Product, xt_phi_x

FLAT = [(0, 3), (1, 1), (3, 0), (7, 5), (33, 17), (64, 64), (257, 31), (130, 129)]
WIDE = [(0, 3, 2), (1, 1, 1), (7, 5, 3), (33, 17, 1), (65, 33, 10), (31, 64, 17), (9, 70, 2)]
BOUND = {torch.float64: 1e-13, torch.float32: 3e-6}


def make_phi(kind, draw, n, k, flat):
    if kind == "diagonal":
        return Diagonal(draw(n) if flat else draw(n, k))
    if kind == "gauss_newton":
        return GaussNewton(draw(n, k, k))
    if kind == "centred":
        return Centred(torch.softmax(draw(n, k), 1), draw(n, k))
    return Softmax(torch.softmax(draw(n, k), 1), draw(n) if kind == "weighted_softmax" else None)


def cast(phi, change):
    return type(phi)(*(None if t is None else change(t) for t in vars(phi).values()))


def jacobians(phi, n, k):
    """(n, k, k): the matrix of every row's phi, from its definition."""
    if isinstance(phi, Diagonal):
        return torch.diag_embed(phi.weights.reshape(n, k))
    if isinstance(phi, GaussNewton):
        return phi.blocks
    if isinstance(phi, Centred):
        return torch.diag_embed(phi.outer) - phi.outer[:, :, None] * phi.probs[:, None, :]
    j = torch.diag_embed(phi.probs) - phi.probs[:, :, None] * phi.probs[:, None, :]
    return j if phi.weights is None else phi.weights[:, None, None] * j


def expected(x, v, phi, scale, shift, ridge):
    """One row of X after the other."""
    columns = v if v.dim() == 2 else v[:, None]
    total = torch.zeros_like(columns)
    for row, j in zip(x, jacobians(phi, len(x), columns.shape[1]), strict=True):
        total += row[:, None] * (j @ (row @ columns))
    return scale * total.reshape(v.shape) + shift * v + ridge * v


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize(
    "kind", ["diagonal", "softmax", "weighted_softmax", "centred", "gauss_newton"]
)
@pytest.mark.parametrize("shape", FLAT + WIDE, ids=str)
def test_equals_the_sum_over_rows(way, device, guard, draw, close, shape, kind, dtype):
    n, d = shape[:2]
    k = shape[2] if len(shape) == 3 else 1
    x, v, ridge = draw(n, d), draw(d, *shape[2:]), draw(d, *shape[2:])
    phi = make_phi(kind, draw, n, k, len(shape) == 2)
    x, v, ridge = (t.to(dtype) for t in (x, v, ridge))
    phi = cast(phi, lambda t: t.to(dtype))
    want = expected(
        x.double(), v.double(), cast(phi, torch.Tensor.double), 0.3, 0.1, ridge.double()
    )

    out = guard(torch.full_like(v, float("nan")))
    got = xt_phi_x(
        guard(x), guard(v), cast(phi, guard), scale=0.3, shift=0.1, ridge=guard(ridge), out=out
    )

    assert got is out
    close(got, want, BOUND[dtype])


@pytest.mark.parametrize("kind", ["diagonal", "softmax", "centred", "gauss_newton"])
@pytest.mark.parametrize("deterministic", [True, False])
def test_two_phase_and_atomic_forms(way, guard, draw, close, monkeypatch, kind, deterministic):
    """The Triton form for matrices that are too wide for the other, and sums without an order."""
    monkeypatch.setattr(xt_phi_x_triton, "MAX_RESIDENT_MATRIX", 0)
    monkeypatch.setattr(xt_phi_x_triton, "MAX_RESIDENT_VECTOR", 0)
    for n, d, k in [(45, 67, 3), (32, 64, 16), (0, 5, 2), (100, 130, 1)]:
        x, v = draw(n, d), draw(d, k)
        phi = make_phi(kind, draw, n, k, False)
        got = xt_phi_x(guard(x), guard(v), cast(phi, guard), shift=0.5, deterministic=deterministic)
        close(got, expected(x, v, phi, 1.0, 0.5, 0.0 * v), 1e-13)


def test_atomic_resident_forms(way, guard, draw, close):
    for shape in [(45, 67), (45, 67, 3)]:
        x, v = draw(45, 67), draw(*shape[1:])
        phi = make_phi("diagonal", draw, 45, 3, len(shape) == 2)
        got = xt_phi_x(guard(x), guard(v), cast(phi, guard), deterministic=False)
        close(got, expected(x, v, phi, 1.0, 0.0, 0.0 * v), 1e-13)


def test_the_number_of_programs_changes_rounding_only(way, guard, draw, close, monkeypatch):
    x, v, w = draw(101, 13).float(), draw(13).float(), draw(101).float()
    want = expected(x.double(), v.double(), Diagonal(w.double()), 1.0, 0.0, 0.0 * v.double())
    for count in (1, 2, 7, 264):
        monkeypatch.setattr(xt_phi_x_triton, "PROGRAMS", count)
        phi = Diagonal(guard(w))
        got = xt_phi_x(guard(x), guard(v), phi)
        close(got, want, 3e-6)
        assert torch.equal(got, xt_phi_x(guard(x), guard(v), phi))


def test_rows_with_a_stride(way, guard, draw, close):
    """A slice of the columns of a larger matrix, as features beside a label have it."""
    whole, v, w = guard(draw(21, 9)), draw(5), draw(21)
    x = whole[:, 2:7]
    got = xt_phi_x(x, guard(v), Diagonal(guard(w)))
    close(got, expected(x.cpu(), v, Diagonal(w), 1.0, 0.0, 0.0 * v), 1e-13)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_inputs_are_summed_in_float32(way, guard, draw, close, dtype):
    """The rounding of X is part of the problem; nothing else is rounded to its precision."""
    for shape in [(300,), (300, 3)]:
        x, v = draw(200, 300).to(dtype), draw(*shape).float()
        phi = cast(make_phi("diagonal", draw, 200, 3, len(shape) == 1), torch.Tensor.float)
        got = xt_phi_x(guard(x), guard(v), cast(phi, guard))
        want = expected(
            x.double(), v.double(), cast(phi, torch.Tensor.double), 1.0, 0.0, 0 * v.double()
        )
        assert got.dtype == torch.float32
        close(got, want, 3e-6)


def test_product_keeps_its_memory(way, guard, draw, close):
    """Two calls write the same buffer, and each gives what a single call gives."""
    for shape in [(9,), (9, 3)]:
        x, v, phi = draw(70, 9), draw(*shape), make_phi("diagonal", draw, 70, 3, len(shape) == 1)
        args = guard(x), cast(phi, guard)
        product = Product(*args, guard(v), scale=0.5, shift=0.1)
        first = product(guard(v)).clone()
        again = product(guard(-v))
        close(first, expected(x, v, phi, 0.5, 0.1, 0.0 * v), 1e-13)
        assert torch.equal(again, -first)
        assert product(guard(v)) is again
        with pytest.raises(ValueError, match="`out`"):
            product(guard(draw(8)))


def test_threads_change_nothing(draw):
    """Parts of the rows are added in their order, whichever core took them."""
    x, v, w = draw(9000, 67).float(), draw(67).float(), draw(9000).float()
    with dispatch.use("auto"):
        torch.set_num_threads(1)
        one = xt_phi_x(x, v, Diagonal(w))
        for threads in (2, 3, 5, 2):
            torch.set_num_threads(threads)
            for _ in range(20):
                assert torch.equal(one, xt_phi_x(x, v, Diagonal(w)))


def test_callers_at_once(draw):
    """Python threads call side by side: ctypes lets go of the interpreter's lock."""
    x, w = draw(9000, 67).float(), draw(9000).float()
    vectors = [draw(67).float() for _ in range(8)]
    torch.set_num_threads(2)
    with dispatch.use("auto"), ThreadPoolExecutor(4) as threads:
        want = [xt_phi_x(x, v, Diagonal(w)) for v in vectors]
        for _ in range(5):
            got = list(threads.map(lambda v: xt_phi_x(x, v, Diagonal(w)), vectors))
            assert all(map(torch.equal, got, want))


# Python warns of forking with threads; what happens then is the question
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_computes_too(draw):
    """It has none of its parent's threads, and makes its own."""
    x, v, phi = draw(9000, 67).float(), draw(67).float(), Diagonal(draw(9000).float())
    torch.set_num_threads(2)
    with dispatch.use("auto"):
        want = xt_phi_x(x, v, phi)
        child = os.fork()
        if not child:
            os._exit(0 if torch.equal(xt_phi_x(x, v, phi), want) else 3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_operands_that_do_not_fit_are_refused(draw):
    x, v, w = draw(4, 3), draw(3), draw(4)
    with pytest.raises(ValueError, match=r"x is \(4, 3\) and v is \(2,\)"):
        xt_phi_x(x, v[:2].clone(), Diagonal(w))
    with pytest.raises(ValueError, match=r"`weights` has shape \(3,\), not \(4,\)"):
        xt_phi_x(x, v, Diagonal(w[:3].clone()))
    with pytest.raises(ValueError, match=r"`probs` has shape \(4, 2\), not \(4, 1\)"):
        xt_phi_x(x, v, Softmax(draw(4, 2)))
    with pytest.raises(ValueError, match="rows of `x` are not contiguous"):
        xt_phi_x(draw(3, 4).T, v, Diagonal(w))
    with pytest.raises(ValueError, match="`v` requires grad"):
        xt_phi_x(x, v.clone().requires_grad_(), Diagonal(w))
    with pytest.raises(ValueError, match="`x` requires grad"):
        xt_phi_x(x.clone().requires_grad_(), v, Diagonal(w))
    with pytest.raises(ValueError, match=r"`weights` is torch.float32, not torch.float64"):
        xt_phi_x(x, v, Diagonal(w.float()))
    with pytest.raises(ValueError, match="share memory"):
        xt_phi_x(x, v, Diagonal(w), out=v)
    with pytest.raises(ValueError, match="precision 'fp8'"):
        xt_phi_x(x, v, Diagonal(w), precision="fp8")
    with torch.no_grad():
        xt_phi_x(x, v.clone().requires_grad_(), Diagonal(w))
