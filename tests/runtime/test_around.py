"""Formulas around networks that stay opaque: the derivatives of the whole objective by autograd."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toys import classification, start

from bettyc.failures import CallbackError
from bettyc.runtime.products import gradients, nearby

PROGRAM = """
mlo 0.1
dim n, d, C = 2
extern module net(width: int, outputs: int) : real[B, d] -> real[B, C] from "nowhere:net"
extern module head() : real[B, C] -> real[B, C] from "nowhere:head"
extern module weight() : real[B, 1] -> real[B, 1] from "nowhere:weight"
data all : { x: real[n, d], y: int<C>[n] } from memory()
split all into train = 0.6, val = 0.4 with (seed = 0)
level fit {
  module net = net(6, C)
  module head = head()
  var heat : real in positive = 1.3
  var shift : real[C] = gaussian
  let losses = xent(LOGITS, train.y)
  minimize mean(WEIGHTS * losses) + PENALTY
  optimizer = sgd(lr = 0.2)  steps = 3  hypergrad = STRATEGY  SETTINGS
}
level tune {
  module v = weight()
  var log_wd : real = -2
  minimize mean(xent(fit*.net(val.x) * fit*.heat, val.y)) + 0.01 * sumsq(params(v)) + log_wd^2
  optimizer = sgd(lr = 0.1)
}
run { steps = 2  precision = fp64 }
"""


class Net(nn.Module):
    """Opaque: it has a buffer."""

    def __init__(self, width: int = 6, outputs: int = 2, inputs: int = 4, last=None) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(inputs, width), nn.Linear(width, outputs)
        self.register_buffer("unused", torch.zeros(1))
        self.last = last or nn.Identity()

    def forward(self, x):
        return self.last(self.b(torch.tanh(self.a(x))))


class Normed(Net):
    def __init__(self, width: int, outputs: int) -> None:
        super().__init__(width, outputs)
        self.bn = nn.BatchNorm1d(width)

    def forward(self, x):
        return self.b(torch.tanh(self.bn(self.a(x))))


class Dropped(Net):
    def forward(self, x):
        return self.b(F.dropout(torch.tanh(self.a(x)), 0.5, self.training))


class Linear(Net):
    """Its second derivative is zero."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__(width, outputs)
        self.a = nn.Linear(4, 2)

    def forward(self, x):
        return self.a(x)


def head():
    return Net(3, 2, 2)


def weight():
    return Net(5, 1, 1, nn.Sigmoid())


DETACHED = "tune.v(detach(losses)[:, new])[:, 0]"
CASES = {
    "plain": ("net(train.x)", DETACHED, "0 * heat"),
    "own variables": ("net(train.x) * heat + shift", DETACHED, "exp(tune.log_wd) * sumsq(shift)"),
    "parameters": ("net(train.x)", DETACHED, "exp(tune.log_wd) * sumsq(params(net))"),
    "some of them": (
        "net(train.x)", "exp(tune.log_wd)", 'sumsq(params(net, except = "*bias") - 0.1) / 9'
    ),
    "one after another": ("head(net(train.x))", DETACHED, "0.1 * sumsq(shift)"),
    "used twice": ("head(net(train.x)) + 2 * net(train.x)", DETACHED, "0 * heat"),
    "through the upper one": (
        "net(train.x)", "tune.v(losses[:, new])[:, 0]", "0.01 * mean(square(net(train.x)))"
    ),
    "given a variable": ("net(train.x * heat)", DETACHED, "mean(net(train.x)) * tune.log_wd"),
    "given something held": ("head(detach(net(train.x)) + shift)", DETACHED, "0 * heat"),
}  # fmt: skip


def run(
    case="own variables",
    net=Net,
    strategy="cg(tol = 1e-13, damping = 2)",
    opt=1,
    settings="",
    declared=("data all", "data all"),
):
    torch.manual_seed(0)
    logits, weights, penalty = CASES[case]
    text = PROGRAM.replace(*declared).replace("LOGITS", logits).replace("WEIGHTS", weights)
    text = text.replace("PENALTY", penalty).replace("STRATEGY", strategy)
    text = text.replace("SETTINGS", settings)
    externs = {"net": net, "head": head, "weight": weight}
    return start(text, {"all": classification()}, externs, opt=opt)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("case", "net"),
    [*((case, Net) for case in CASES), *(("used twice", n) for n in (Normed, Dropped, Linear))],
)
def test_derivatives_are_those_of_autograd(case, net):
    found = run(case, net)
    stage = found.stages["fit"]
    objective, theta, frame = stage.objective, found.state.theta, stage.feed.next()
    assert objective.closed is None
    assert objective.around is not None
    levels = ["fit", "tune"]
    value, slopes = gradients(objective, theta, frame, levels)
    near = nearby(objective, theta, frame, levels)
    moved = theta["fit"] + 0.1 * torch.randn_like(theta["fit"])
    by_formula = near(moved)
    objective._around = None

    close((value, slopes), gradients(objective, theta, frame, levels))
    close(by_formula, nearby(objective, theta, frame, levels)(moved))


@pytest.mark.parametrize("net", [Normed, Dropped])
@pytest.mark.parametrize(
    "strategy",
    ["finite_diff(eps = 1e-3)", "neumann(terms = 3, lr = 0.05)", "minres", "unroll", "gmres"],
)
def test_runs_are_those_of_autograd(strategy, net):
    """Buffers of batch norm and masks of dropout included."""
    mine, plain = (run("own variables", net, strategy, opt) for opt in (1, 0))
    for _ in range(2):
        mine.step()
        plain.step()
    for name in ("fit", "tune"):
        torch.testing.assert_close(
            mine.state.theta[name], plain.state.theta[name], rtol=1e-6, atol=1e-9
        )
    for key, buffers in plain.state.buffers.items():
        for name, value in buffers.items():
            torch.testing.assert_close(mine.state.buffers[key][name], value)


@pytest.mark.parametrize("strategy", ["cg(tol = 1e-13, damping = 2)", "unroll", "finite_diff"])
def test_what_is_multiplied_by_zero_is_not_computed(strategy):
    """A term that a param switches off, and with it all that the level reads of `tune`."""
    CASES["off"] = "net(train.x) * heat", "1", "0.5 * off * sumsq(shift - tune.log_wd)"
    declared = "data all", "param off : real = 0.0\ndata all"
    try:
        mine, plain = (run("off", Dropped, strategy, opt, declared=declared) for opt in (1, 0))
    finally:
        del CASES["off"]
    assert "log_wd" not in mine.stages["fit"].objective.text
    assert "log_wd" in plain.stages["fit"].objective.text
    for each in (mine, plain):
        each.step()
    for name in ("fit", "tune"):
        close(mine.state.theta[name], plain.state.theta[name])


def test_frozen_parts():
    mine, plain = (run("parameters", opt=opt, settings='freeze = ["net.a.*"]') for opt in (1, 0))
    assert mine.stages["fit"].objective.around is not None
    for each in (mine, plain):
        each.step()
    close(mine.state.theta["tune"], plain.state.theta["tune"])


def test_in_c():
    mine, plain = (run("own variables", opt=opt) for opt in (2, 0))
    mine.stages["fit"].objective.around.closed._in_c = True
    assert close(mine.hypergrad("tune")["log_wd"], plain.hypergrad("tune")["log_wd"]) is None
    texts = mine.stages["fit"].objective.around.closed.texts
    assert any("compiled from C" in text for text in texts.values())


class Attention(Net):
    """torch differentiates the fused kernel once."""

    def forward(self, x):
        q = torch.tanh(self.a(x))[None, None]
        kernel = torch.nn.attention.SDPBackend.FLASH_ATTENTION
        with torch.nn.attention.sdpa_kernel(kernel):
            return self.b(F.scaled_dot_product_attention(q, q, q)[0, 0])


def test_a_network_that_is_differentiated_once():
    mine, plain = (run("plain", Attention, opt=opt) for opt in (1, 0))
    close(mine.hypergrad("tune")["log_wd"], plain.hypergrad("tune")["log_wd"])
    assert mine.stages["fit"].objective.once


def test_a_network_of_another_shape_says_so():
    class Wrong(Net):
        def forward(self, x):
            return super().forward(x)[:, :1]

    with pytest.raises(CallbackError, match=r"`fit.net` returned the shape \(36, 1\)"):
        run("some of them", Wrong).step()
