"""Operators without a second derivative: products by differences of gradients, and a warning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from toys import classification, start

from bettyc.runtime.report import SolveError
from bettyc.runtime.run import Run

TEXT = """
mlo 0.1
dim n, d, C = 2
extern module net(width: int) : real[B, d] -> real[B, C] from "nowhere:net"
data all : { x: real[n, d], y: int<C>[n] } from memory()
split all into train = 0.6, val = 0.4 with (seed = 0)
level fit {
  module net = net(4)
  minimize mean(xent(net(train.x), train.y)) + exp(tune.log_wd) * sumsq(params(net))
  optimizer = adam(lr = 0.05)  steps = 4  start = reset  hypergrad = STRATEGY
}
level tune {
  var log_wd : real = 1
  minimize mean(xent(fit*.net(val.x), val.y))
  optimizer = sgd(lr = 0.1)
}
run { steps = 2  precision = fp64 }
"""


class Attention(nn.Module):
    """Rows as sequences of two words; attention written out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 3 * width), nn.Linear(2 * width, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1) @ v

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.a(x.unflatten(1, (2, 2)))[:, None].chunk(3, -1)
        return self.b(self.attend(q, k, v).flatten(1))


class Fused(Attention):
    """The same by torch's fused operator."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with nn.attention.sdpa_kernel(nn.attention.SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(q, k, v)


class _Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return g * (1 - y * y)


class Recurrent(nn.Module):
    """A recurrent network; with `once`, its cell has no second derivative, as cuDNN's."""

    once = False

    def __init__(self, width: int) -> None:
        super().__init__()
        self.i, self.h, self.b = nn.Linear(2, width), nn.Linear(width, width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        state: Any = 0.0
        for word in x.unflatten(1, (2, 2)).unbind(1):
            inner = self.i(word) + (self.h(state) if isinstance(state, Tensor) else 0)
            state = _Tanh.apply(inner) if self.once else torch.tanh(inner)
        return self.b(state)


class Once(Recurrent):
    once = True


PAIRS = {"attention": (Fused, Attention), "recurrent": (Once, Recurrent)}
STRATEGIES = [
    "auto", "unroll", "unroll(recompute = true)", "unroll(truncate = 2)", "exact",
    "cg(tol = 1e-9)", "minres(tol = 1e-9)", "gmres(tol = 1e-9)", "neumann(terms = 5, lr = 0.1)",
    "nystrom(rank = 5)", "one_step", "fixed_point(iters = 5)", "finite_diff", "sama", "single_loop",
    "penalty", "zeroth_order(samples = 2)", "none",
]  # fmt: skip
FIRST = {"finite_diff", "sama", "penalty", "zeroth_order(samples = 2)", "none"}


def begun(module: Any, strategy: str) -> Run:
    written = "auto" if strategy in ("exact", "cg(tol = 1e-9)") else strategy
    run = start(TEXT.replace("STRATEGY", written), {"all": classification()}, {"net": module})
    if strategy != written:  # refused for a network in a program; here the linear algebra counts
        from bettyc.strategies import CG, Exact

        options = Exact() if strategy == "exact" else CG(tol=1e-9)
        lowers = run._lowers

        def replaced(*given: Any) -> Any:
            from dataclasses import replace

            return {k: replace(v, strategy=options) for k, v in lowers(*given).items()}

        run._lowers = replaced  # type: ignore[method-assign]
    return run


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("pair", PAIRS)
def test_the_numbers_are_those_of_the_written_out_operator(pair: str, strategy: str) -> None:
    once, twice = (begun(module, strategy).hypergrad("tune") for module in PAIRS[pair])

    torch.testing.assert_close(once.flat, twice.flat, rtol=1e-5, atol=1e-9)
    differs = "differences of gradients" in once.report[0].note
    assert differs is (strategy not in FIRST)
    assert once.report[0].severe or not differs
    assert "differences" not in twice.report[0].note


def test_forward_names_what_is_in_the_way() -> None:
    with pytest.raises(SolveError, match=r"through level `fit`.*flash.*not implemented.*unroll"):
        begun(Fused, "forward").hypergrad("tune")


def test_total_curvature_names_what_is_in_the_way() -> None:
    text = TEXT.replace("STRATEGY", "one_step") + (
        "level judge { var t : real = 0  minimize tune*.log_wd^2 + t^2 + fit*.net(val.x)[0, 0]"
        "  optimizer = sgd(lr = 0.1) }"
    )
    text = text.replace(
        "minimize mean(xent(fit*.net(val.x), val.y))",
        "minimize mean(xent(fit*.net(val.x), val.y)) + (log_wd - judge.t)^2\n"
        "  curvature = total  hypergrad = one_step",
    ).replace("train = 0.6, val = 0.4", "train = 0.4, val = 0.3, meta = 0.3")
    text = text.replace("fit*.net(val.x)[0, 0]", "fit*.net(meta.x)[0, 0]")
    run = start(text, {"all": classification()}, {"net": Fused})
    with pytest.raises(SolveError, match=r"curvature = total.*third order.*curvature = direct"):
        run.hypergrad("judge", respond=False)


def test_the_operator_is_tried_once() -> None:
    run = begun(Fused, "unroll")
    assert run.stages["fit"].objective.once is None
    run.step()
    assert "flash" in str(run.stages["fit"].objective.once)
    plain = begun(Attention, "unroll")
    plain.step()
    assert plain.stages["fit"].objective.once == ""


def test_single_precision_keeps_three_digits() -> None:
    text = TEXT.replace("STRATEGY", "unroll").replace("fp64", "fp32")
    once, twice = (
        start(text, {"all": classification()}, {"net": m}).hypergrad("tune").flat
        for m in (Fused, Attention)
    )
    torch.testing.assert_close(once, twice, rtol=1e-3, atol=1e-6)


class Chosen(Attention):
    """The operator that torch chooses for the precision."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize(("precision", "rtol"), [("fp64", 1e-6), ("fp32", 2e-3), ("bf16", 1e-2)])
def test_auto_goes_through_attention_in_every_precision(precision: str, rtol: float) -> None:
    text = TEXT.replace("STRATEGY", "auto").replace("fp64", precision)
    once, twice = (
        start(text, {"all": classification()}, {"net": m}).hypergrad("tune")
        for m in (Chosen, Attention)
    )

    torch.testing.assert_close(once.flat, twice.flat, rtol=rtol, atol=1e-6)
    assert once.report[0].strategy == "unroll"
    assert "differences of gradients, as torch says" in once.report[0].note
