"""Data kept in panels give the same products, at every edge of a panel, and follow changes."""

from __future__ import annotations

import pytest
import torch

from bettyc.kernels import dispatch, native, panels
from bettyc.kernels.one_pass import Pass, one_pass, reference
from bettyc.kernels.rows import rows


@rows("sigmoid z", "sub %1 y", keep=("%2",), data=("column",))
def residual(z, y):
    s = torch.sigmoid(z) - y
    return s, s


@rows("mul z w", data=("column",))
def weighted(z, w):
    return w * z


@pytest.fixture(autouse=True)
def only_native():
    if native.library() is None:
        pytest.skip(native.reason())
    with dispatch.use("auto"):
        yield


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("d", [1, 5, 20, panels.COLUMNS])
@pytest.mark.parametrize("n", [64, 65, 128, 129, 255, 500, 4099])
def test_equal_the_reference(close, draw, dtype, n, d):
    x, v, y, ridge = (draw(*s).to(dtype) for s in ((n, d), (d,), (n,), (d,)))
    panels.keep(x)
    assert panels.panels(x).shape == (-(-n // 128), d, 128)
    got, kept = one_pass(x, v, residual, y, scale=0.5, shift=0.1, ridge=ridge)
    wide = [t.double() for t in (x, v, y, ridge)]
    want, s = reference(wide[0], wide[1], residual, wide[2:3], 0.5, 0.1, wide[3])
    bound = 1e-12 if dtype == torch.float64 else 1e-4
    close(kept, s, bound)
    close(got, want, bound * n**0.5)


def test_what_is_not_kept_or_not_small_has_none(draw):
    x = draw(100, 5)
    assert panels.panels(x) is None
    for other in (draw(100), draw(100, panels.COLUMNS + 1), draw(2, 3), torch.ones(99, 5).long()):
        panels.keep(other)
        assert panels.panels(other) is None


def test_a_change_of_the_data_is_seen(close, draw):
    x, v, w = draw(130, 7), draw(7), draw(130)
    panels.keep(x)
    made = Pass(x, v, weighted, [w])
    before = made.at(v)
    x.mul_(2)
    made.bind(x, [w])
    close(made.at(v), 4 * before, 1e-12)


def test_the_number_of_threads_changes_no_bit(draw):
    x, v, w = draw(9000, 60), draw(60), draw(9000)
    panels.keep(x)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            made = Pass(x, v, weighted, [w])
            assert made._struct.parts > 1
            found.append(made.at(v))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)
