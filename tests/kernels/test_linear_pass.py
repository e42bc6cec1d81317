"""On a GPU a linear function of rows goes the way of xt_phi_x.py: the same product, its kernels."""

from __future__ import annotations

import pytest
import torch

from bettyc.kernels import dispatch, jit, linear_pass
from bettyc.kernels.one_pass import one_pass, reference
from bettyc.kernels.phi import Centred, Diagonal
from bettyc.kernels.rows import parse, rows


@rows("mul z w", data=("matrix",))
def weighted(z, w):
    return z * w


@rows("mul w z", data=("column",))
def by_row(z, w):
    return w.reshape(-1, 1) * z


@rows("mul p z", "sum %1", "sub z %2", "mul q %3", data=("matrix", "matrix"))
def softmax(z, p, q):
    return q * (z - (p * z).sum(1, keepdim=True))


def operands(draw, rows, n=45, d=7, k=3):
    data = {weighted: [draw(n, k)], by_row: [draw(n)], softmax: [draw(n, k), draw(n, k)]}[rows]
    return draw(n, d), draw(d, k), data


@pytest.mark.parametrize("function", [weighted, by_row, softmax], ids=lambda r: r.name)
def test_equals_the_two_products(way, device, guard, draw, close, function):
    x, v, data = operands(draw, function)
    ridge = draw(7, 3)
    want = reference(x, v, function, data, 0.3, 0.1, ridge)
    placed = [guard(t) for t in data]
    found = one_pass(
        guard(x), guard(v), function, *placed, scale=0.3, shift=0.1, ridge=guard(ridge)
    )
    close(found, want, 1e-12)
    one = one_pass(guard(x), guard(v), function, *placed, ridge=guard(ridge[0, 0]))
    close(one, reference(x, v, function, data, ridge=ridge[0, 0]), 1e-12)


def test_interpret_launches_kernels(way, draw):
    if way != "interpret":
        pytest.skip("what Triton is asked for")
    for function, count in ((weighted, 2), (by_row, 2), (softmax, 2)):
        x, v, data = operands(draw, function)
        with jit.record() as made:
            one_pass(x, v, function, *data)
        assert [m.kernel.name for m in made] == ["resident_matrix_kernel", "finish_kernel"]
        assert len(made) == count


@pytest.mark.parametrize(
    ("lines", "kinds", "found"),
    [
        (["mul z w"], ["matrix"], Diagonal),
        (["mul w z"], ["column"], Diagonal),
        (["mul z w"], ["row"], None),
        (["add z w"], ["matrix"], None),
        (["mul z 2.0"], ["matrix"], None),
        (["mul z z"], ["matrix"], None),
        (["mul w w"], ["matrix"], None),
        (["mul z w", "sum %1", "sub z %2", "mul %3 w"], ["matrix"], Centred),
        (["mul z w", "sum %1", "sub %1 %2", "mul %3 w"], ["matrix"], None),
        (["mul z w", "sum z", "sub z %2", "mul %3 w"], ["matrix"], None),
        (["mul z w", "sum %1", "sub z %2", "mul %2 w"], ["matrix"], None),
        (["mul z w", "sum %1", "sub z %2", "mul %3 w"], ["column"], None),
    ],
)
def test_which_programs_are_known(draw, lines, kinds, found):
    size = {"matrix": (5, 3), "column": (5,), "row": (3,)}[kinds[0]]
    phi = linear_pass.of(parse(lines, ["z", "w"], kinds), [draw(*size)], (5, 3))
    assert phi is None if found is None else isinstance(phi, found)
    kept = parse(lines, ["z", "w"], kinds, keep=("z",))
    assert linear_pass.of(kept, [draw(*size)], (5, 3)) is None


def test_other_operands_are_left_to_torch(way, draw, close, device):
    x, v, data = (t if isinstance(t, list) else t.to(device) for t in operands(draw, weighted))
    data = [t.to(device) for t in data]
    want = reference(x, v, weighted, data).cpu()
    turned = one_pass(x, v.mT.contiguous(), weighted, *data, turned=True)
    close(turned.mT, want, 1e-12)
    strided = x.mT.contiguous().mT
    close(one_pass(strided, v, weighted, *data), want, 1e-12)


def test_a_kernel_that_does_not_compile(draw, close, monkeypatch):
    """One warning, and the two products in torch."""
    from triton.compiler.errors import CompilationError

    from bettyc.kernels import xt_phi_x

    def failing(*args):
        raise CompilationError("", None, "out of registers")

    monkeypatch.setitem(xt_phi_x.WAYS, "triton", failing)
    monkeypatch.setattr(dispatch, "_broken", {})
    monkeypatch.setattr(dispatch, "_ways", {})
    choose = dispatch.choose
    cuda = torch.device("cuda")
    monkeypatch.setattr(dispatch, "choose", lambda op, device, dtype: choose(op, cuda, dtype))
    x, v, data = operands(draw, weighted)
    want = reference(x, v, weighted, data)

    def several():
        for _ in range(3):
            close(one_pass(x, v, weighted, *data), want, 1e-12)

    with dispatch.use("auto"), pytest.warns(RuntimeWarning, match="xt_phi_x did not compile") as w:
        several()
    assert len(w) == 1
