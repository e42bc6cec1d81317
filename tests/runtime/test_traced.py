"""Networks from Python that the compiler sees through: the same derivatives as torch's own, and
everything that must stay one opaque call.
"""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from toys import classification, start

from bettyc.runtime.network_steps import LAYERS

PROGRAM = """
mlo 0.1
dim n, d, C = 2
extern module net() : real[B, d] -> real[B, C] from "nowhere:net"
data all : { x: real[n, d], y: int<C>[n] } from memory()
split all into train = 0.6, val = 0.4 with (seed = 0)
level fit {
  module net = net()
  minimize mean(xent(net(train.x), train.y) * exp(tune.w)) + 0.1 * PENALTY
  optimizer = sgd(lr = 0.2)  steps = 3  SETTINGS
  hypergrad = cg(tol = 1e-12, damping = 1)
}
level tune {
  var w : real = 0.3
  minimize mean(xent(fit*.net(val.x), val.y))
  optimizer = sgd(lr = 0.1)
}
run { steps = 2  precision = fp64 }
"""


def train(module, opt, penalty="sumsq(params(net))", settings=""):
    torch.manual_seed(0)
    text = PROGRAM.replace("PENALTY", penalty).replace("SETTINGS", settings)
    return start(text, {"all": classification()}, {"net": module}, opt=opt)


def sees_through(run) -> bool:
    return run.stages["fit"].objective.closed is not None


def agree(module, opt=1, **options):
    """Against every derivative by autograd, through the module itself."""
    mine, plain = train(module, opt, **options), train(module, 0, **options)
    assert not sees_through(plain)
    for _ in range(2):
        a, b = mine.hypergrad("tune"), plain.hypergrad("tune")
        torch.testing.assert_close(a["w"], b["w"], rtol=1e-9, atol=1e-12)
        assert float(b["w"].abs()) > 1e-6
        mine.step()
        plain.step()
    for name in ("fit", "tune"):
        torch.testing.assert_close(
            mine.state.theta[name], plain.state.theta[name], rtol=1e-10, atol=1e-12
        )
    return mine


def layers(*between):
    return lambda: nn.Sequential(nn.Linear(4, 6), *between, nn.Linear(6, 2))


class Own(nn.Module):
    """Operators, methods and functions in a forward of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2, bias=False)
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.factor = 2.0
        self.sizes = [6]

    def forward(self, x):
        h = torch.tanh(self.a(x)) * self.scale + 0.5
        h = h + F.silu(self.factor * h - h.sigmoid()) / 3
        h = torch.flatten(h.unsqueeze(1), 1).view(-1, self.sizes[0])
        return -F.linear(h.reshape(h.shape[0], -1), self.b.weight, None)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.c.weight = self.a.weight
        self.b = nn.Linear(4, 2)

    def forward(self, x):
        return self.b(torch.tanh(self.c(torch.tanh(self.a(x)))))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.b((x @ self.a.weight.t()).relu() + x)


SEEN = {
    **{
        type(layer).__name__: layers(layer)
        for layer in (
            nn.Tanh(), nn.Sigmoid(), nn.SiLU(), nn.GELU(), nn.ELU(0.5), nn.Softplus(),
            nn.Softmax(1), nn.LogSoftmax(-1), nn.LeakyReLU(0.2), nn.ReLU(), nn.ReLU(inplace=True),
            nn.Identity(), nn.Dropout(0.0), nn.Flatten(),
        )
    },
    "nested": layers(nn.Sequential(nn.Tanh(), nn.Linear(6, 6)), nn.Sequential()),
    "own": Own,
    "tied": Tied,
    "residual": Residual,
}  # fmt: skip


@pytest.mark.parametrize("name", SEEN)
def test_derivatives_are_those_of_the_module(name):
    assert sees_through(agree(SEEN[name]))


@pytest.mark.parametrize("name", ["own", "Tanh"])
def test_in_c_too(name):
    assert sees_through(agree(SEEN[name], opt=2))


@pytest.mark.parametrize(
    "options",
    [
        {"penalty": 'sumsq(params(net, except = "*bias"))'},
        {"settings": 'freeze = ["net.0.*"]'},
        {"penalty": "mean(square(detach(net(train.x)) - net(train.x) + 1))"},
    ],
)
def test_parts_of_a_network(options):
    assert sees_through(agree(layers(nn.Tanh()), **options))


class Counting(Residual):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


class Remembering(Residual):
    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(1)
        return super().forward(x)


class Keeping(Residual):
    def forward(self, x):
        self.hidden = self.a(x)
        return self.b(self.hidden)


class Drawing(Residual):
    def forward(self, x):
        return super().forward(x) * (1 + 1e-3 * random.random())


class DrawingTensors(Residual):
    def forward(self, x):
        return super().forward(x) * (1 + 1e-3 * torch.rand(()).item())


class Branching(Residual):
    def forward(self, x):
        return super().forward(x) * (1 if x.sum() > 0 else 2)


class Constant(Residual):
    def __init__(self) -> None:
        super().__init__()
        self.table = torch.ones(2, dtype=torch.float64)

    def forward(self, x):
        return super().forward(x) * self.table


class Convolved(Residual):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x):
        return super().forward(self.conv(x[:, None])[:, 0])


class Overwriting(Residual):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        h = self.a(x)
        return self.b(self.act(h) + h)


class Optional(Residual):
    def forward(self, x, mask=None):
        return super().forward(x) if mask is None else x


def hooked():
    net = Residual()
    net.a.register_forward_hook(lambda module, inputs, output: 2 * output)
    net.register_forward_hook(lambda module, inputs, output: 2 * output)
    return net


def overridden():
    net = layers(nn.Tanh())()
    net[1].forward = torch.sin
    return net


def buffered():
    net = Residual()
    net.register_buffer("mean", torch.zeros(4))
    return net


OPAQUE = {
    "dropout": layers(nn.Dropout(0.5)),
    "batch norm": layers(nn.BatchNorm1d(6)),
    "approximate gelu": layers(nn.GELU("tanh")),
    "parametrized": lambda: parametrizations.weight_norm(nn.Linear(4, 2)),
    "counting": Counting, "remembering": Remembering, "keeping": Keeping, "drawing": Drawing,
    "drawing tensors": DrawingTensors, "branching": Branching, "constant": Constant,
    "convolved": Convolved, "overwriting": Overwriting, "optional": Optional, "hooked": hooked,
    "overridden": overridden, "buffered": buffered,
}  # fmt: skip


@pytest.mark.parametrize("name", OPAQUE)
def test_what_is_no_formula_stays_opaque(name):
    run = train(OPAQUE[name], 1)
    assert not sees_through(run)
    run.step()
    assert torch.isfinite(run.state.theta["fit"]).all()


@pytest.mark.parametrize("net", [Counting, Remembering, Keeping])
def test_following_a_network_leaves_no_trace(net):
    module = train(net, 1).stages["fit"].linked.networks["fit.net"].module
    assert vars(module).keys() == vars(net()).keys()
    assert not getattr(module, "calls", 0)
    assert not getattr(module, "seen", [])


def test_operators_that_give_something_else_are_not_taken(monkeypatch):
    monkeypatch.setitem(LAYERS, nn.Tanh, LAYERS[nn.Sigmoid])
    assert not sees_through(train(layers(nn.Tanh()), 1))


def test_averages_stay_opaque():
    text = PROGRAM.replace("PENALTY", "mean(square(net(train.x) - ema(net, decay = 0.9)(train.x)))")
    text = text.replace("SETTINGS", "")
    run = start(text, {"all": classification()}, {"net": layers(nn.Tanh())}, opt=1)
    assert not sees_through(run)
    run.step()


def test_a_network_that_is_changed_is_called_again():
    mine, plain = train(Own, 1), train(Own, 0)
    for run in (mine, plain):
        run.step()
        run.stages["fit"].linked.networks["fit.net"].module.factor = 5.0
        run.step()
    assert not sees_through(mine)
    torch.testing.assert_close(
        mine.state.theta["fit"], plain.state.theta["fit"], rtol=1e-10, atol=0
    )
    unchanged = train(Own, 0)
    unchanged.step()
    unchanged.step()
    assert not torch.equal(unchanged.state.theta["fit"], plain.state.theta["fit"])


TASKS = """
mlo 0.1
dim S = 6, d = 3
extern module net() : real[B, d] -> real[B, 1] from "nowhere:net"
data tasks : { a: { x: real[S, d], y: real[S] }, b: { x: real[S, d], y: real[S] } } from memory()
level adapt foreach t in tasks(batch = 4) {
  module net = net()
  minimize mean((net(t.a.x)[:, 0] - t.a.y)^2) + sumsq(params(net) - params(meta.net))
  optimizer = sgd(lr = 0.05)  steps = 3  start = copy(meta.net)
  hypergrad = STRATEGY
}
level meta {
  module net = net()
  minimize mean(mean((k*.net(k.t.b.x)[:, 0] - k.t.b.y)^2) for k in adapt)
  optimizer = sgd(lr = 0.1)
}
run { steps = 2  precision = fp64 }
"""


@pytest.mark.parametrize("strategy", ["unroll", "cg(tol = 1e-12)"])
def test_in_every_task(strategy):
    g = torch.Generator().manual_seed(5)

    def one():
        return {"x": torch.randn(6, 3, generator=g, dtype=torch.float64),
                "y": torch.randn(6, generator=g, dtype=torch.float64)}  # fmt: skip

    data = [{"a": one(), "b": one()} for _ in range(8)]
    found = []
    for opt in (1, 0):
        torch.manual_seed(0)
        net = lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))  # noqa: E731
        run = start(TASKS.replace("STRATEGY", strategy), {"tasks": data}, {"net": net}, opt=opt)
        assert (run.stages["adapt"].objective.closed is not None) == bool(opt)
        run.step()
        run.step()
        found.append(run.state.theta["meta"])
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)
