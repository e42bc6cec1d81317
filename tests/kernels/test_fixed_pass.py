"""Passes compiled for their program: the bits of the interpreted ones, for every instruction."""

from __future__ import annotations

import pytest
import torch

from bettyc.kernels import dispatch, fixed_pass, native, panels
from bettyc.kernels.one_pass import Pass
from bettyc.kernels.rows import INSTRUCTIONS, Rows, parse

UNARY = ("neg", "not", "exp", "expm1", "abs", "square", "sign", "sigmoid", "tanh", "relu", "sin",
         "cos", "erf")  # fmt: skip
ROOTS = ("log", "log1p", "sqrt")
BINARY = ("add", "sub", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "maximum",
          "minimum")  # fmt: skip
LINES = (
    "abs z", "add %1 0.5",
    *(f"{op} z" for op in UNARY), *(f"{op} %2" for op in ROOTS), "pow %2 y",
    *(f"{op} z {kind}" for op, kind in zip(BINARY, "yslw" * 4, strict=False)),
    "where %1 z y",
)  # fmt: skip
NAMES = ["z", "y", "s", "l", "w"]
KINDS = ("column", "scalar", "labels", "matrix")


@pytest.fixture(autouse=True)
def only_native():
    if native.library() is None:
        pytest.skip(native.reason())
    with dispatch.use("auto"):
        yield


def made(x, v, data, lines, keep, result="last"):
    rows = Rows(lambda *_: None, parse(lines, NAMES, KINDS, result, keep))
    return Pass(x, v, rows, data)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_instruction_keeps_its_value(draw, dtype):
    used = {line.split()[0] for line in LINES}
    assert used == {*INSTRUCTIONS} - fixed_pass.OTHER
    x, v, y, w = draw(150, 6).to(dtype), draw(6).to(dtype), draw(150).to(dtype), draw(150).to(dtype)
    data = [y, torch.tensor(0.25, dtype=dtype), torch.arange(150) % 3, w]
    panels.keep(x)
    keep = [f"%{k}" for k in range(3, len(LINES) + 1)]
    one, other = (made(x, v, data, LINES, keep) for _ in range(2))
    other.fix()
    assert other._fixed is not None
    for got, want in zip(other.at(v), one.at(v), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6, equal_nan=True)


def test_steps_keep_their_bits_and_data_without_panels_are_interpreted(draw):
    x, y = draw(500, 20), draw(500).sign().relu()
    data = [y, torch.tensor(0.0).double(), torch.zeros(500).long(), y]
    panels.keep(x)
    fixed, plain = (made(x, draw(20), data, ("sigmoid z", "sub %1 y"), ()) for _ in range(2))
    fixed.fix()
    one, other = torch.zeros(20).double(), torch.zeros(20).double()
    before = torch.empty_like(one)
    fixed.descend(one, 0.01, 30, before)
    plain.descend(other, 0.01, 30)
    assert torch.equal(one, other)
    plain.descend(before, 0.01, 1)
    assert torch.equal(before, one)
    fixed.bind(x.clone(), data)
    torch.testing.assert_close(fixed.at(one), plain.at(one))


def test_what_cannot_be_compiled_is_interpreted(draw, monkeypatch):
    def broken(ahead):
        raise OSError("disk full")

    monkeypatch.setattr(native, "written", broken)
    fixed_pass.functions.cache_clear()
    x, v, y = draw(70, 3), draw(3), draw(70)
    panels.keep(x)
    product = made(x, v, [y, y[0], torch.zeros(70).long(), y], ("mul z y",), ())
    want = product.at(v)
    with pytest.warns(RuntimeWarning, match="disk full"):
        product.fix()
    assert torch.equal(product.at(v), want)
    blocks = parse(("blocks z a",), ["z", "a"], ("blocks",))
    assert fixed_pass.source(blocks, 3, torch.float64) is None
