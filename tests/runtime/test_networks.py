"""The built-in networks that torch.nn makes: types before the run, torch's own bits in it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toys import start

import bettyc
from bettyc.api import MloError

PROGRAM = """
mlo 0.1
dim n, C = 3
data all : { x: TYPE, y: int<C>[n] } from memory()
split all into train = 0.6, val = 0.4 with (seed = 0)
level fit {
  module net = NETWORK
  minimize mean(xent(net(train.x), train.y)) + exp(tune.log_wd) * sumsq(params(net))
  optimizer = sgd(lr = 0.1, momentum = 0.9)
  steps = 3
  SETTINGS
}
level tune {
  var log_wd : real = -4
  minimize mean(xent(fit*.net(val.x), val.y))
  optimizer = sgd(lr = 0.1)
}
metric acc = accuracy(fit.net(val.x), val.y)
run { steps = 2  precision = fp64 }
"""
IMAGES = "real[n, 2, 8, 8]"
TOKENS = "real[n, 5, 4]"
NETWORKS = {
    "conv([2, 4, 6], C)": IMAGES,
    "conv([2, 4], C, kernel = 5, pool = 1, act = tanh, norm = group)": IMAGES,
    "conv([2, 4, 6], outputs = C, norm = batch, dropout = 0.2)": IMAGES,
    "resnet(2, C, blocks = [1, 1], width = 4)": IMAGES,
    "resnet(2, C, blocks = [2, 1], width = 8, norm = group, act = silu)": IMAGES,
    "resnet(2, C, blocks = [1], width = 4, norm = none)": IMAGES,
    "transformer(4, 8, 2, 2, C)": TOKENS,
    "transformer(4, width = 8, heads = 2, layers = 1, outputs = C, feedforward = 12,"
    " act = gelu, dropout = 0.1, norm_first = true)": TOKENS,
}


def text(network: str, settings: str = "", type_: str | None = None) -> str:
    found = PROGRAM.replace("NETWORK", network).replace("SETTINGS", settings)
    return found.replace("TYPE", type_ or NETWORKS[network])


def data(type_: str, n: int = 20) -> dict[str, dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(2)
    shape = (n, 2, 8, 8) if type_ == IMAGES else (n, 5, 4)
    x = torch.randn(shape, generator=g, dtype=torch.float64)
    return {"all": {"x": x, "y": torch.arange(n) % 3}}


@pytest.mark.parametrize("network", NETWORKS)
def test_steps_have_the_bits_of_torch(network):
    run = start(text(network, "hypergrad = one_step"), data(NETWORKS[network]), opt=0)
    twin = run["fit"].net.train()
    columns = run.sources["train"].whole()
    optimizer = torch.optim.SGD(twin.parameters(), 0.1, 0.9, foreach=False)
    weight = torch.exp(torch.tensor(-4.0, dtype=torch.float64))
    stage = run.stages["fit"]
    for _ in range(3):
        seed = stage.feed.next().seed
        stage.step()
        optimizer.zero_grad()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            logits = twin(columns["x"])
        loss = torch.mean(F.cross_entropy(logits, columns["y"], reduction="none"))
        flat = torch.cat([p.reshape(-1) for p in twin.parameters()])
        (loss + weight * torch.sum(torch.square(flat))).backward()
        optimizer.step()

    assert float(loss.detach()) > 0
    for (name, a), b in zip(
        run["fit"].net.state_dict().items(), twin.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("network", NETWORKS)
def test_second_derivatives_against_differences(network):
    settings = "hypergrad = unroll  start = reset"
    run = start(text(network, settings), data(NETWORKS[network]))
    found = float(run.hypergrad("tune")["log_wd"])
    losses = []
    for shift in (1e-4, -1e-4):
        run = start(text(network, settings), data(NETWORKS[network]))
        run["tune"].assign(log_wd=run["tune"].log_wd + shift)
        losses.append(float(run.hypergrad("tune").loss))

    assert found == pytest.approx((losses[0] - losses[1]) / 2e-4, rel=1e-4)


def test_architectures_are_torch_s():
    """Parameters by torch's names, so that state of a torch module can be loaded."""
    kinds = {
        "conv([2, 4, 6], C)": nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
        ).double(),
        "transformer(4, 8, 2, 2, C)": None,
    }  # fmt: skip
    conv, _ = kinds
    run = start(text(conv), data(IMAGES))
    kinds[conv].load_state_dict(run["fit"].net.state_dict())
    x = data(IMAGES)["all"]["x"]

    assert torch.equal(kinds[conv](x), run["fit"].net(x))
    names = set(start(text("transformer(4, 8, 2, 2, C)"), data(TOKENS))["fit"].net.state_dict())
    layer = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 32, batch_first=True), 2)
    assert {f"encoder.{name}" for name in layer.state_dict()} < names


def test_layers_of_a_transformer_start_differently_and_follow_the_seed():
    network = "transformer(4, 8, 2, 2, C)"
    nets = [start(text(network), data(TOKENS), seed=s)["fit"].net for s in (0, 0, 1)]
    first, second = (nets[0].encoder.layers[k].linear1.weight for k in (0, 1))

    assert not torch.equal(first, second)
    assert torch.equal(first, nets[1].encoder.layers[0].linear1.weight)
    assert not torch.equal(first, nets[2].encoder.layers[0].linear1.weight)


def test_freeze_groups_and_recompute_name_their_parts():
    settings = 'freeze = "input.*"  groups = [group("*.norm?.*", lr = 0.01)]  recompute = true'
    run = start(text("transformer(4, 8, 2, 2, C)", settings), data(TOKENS))
    before = run["fit"].net
    run.step()

    assert torch.equal(before.input.weight, run["fit"].net.input.weight)
    assert not torch.equal(before.output.weight, run["fit"].net.output.weight)


@pytest.mark.parametrize(
    ("network", "type_", "code", "words"),
    [
        ("conv([3, 4], C)", IMAGES, "MLO0404", "expected `real[train.n, 3, H, W]`"),
        ("conv([2, 4, 4, 4, 4], C)", IMAGES, "MLO0404", "images of at least 16 x 16"),
        ("conv([2, 4], 5)", IMAGES, "MLO0405", "5"),
        ("conv([2, 4], C)", TOKENS, "MLO0404", "input of"),
        ("conv([2], C)", IMAGES, "MLO0603", "at least 2 sizes"),
        ("conv([2, 4], C, kernel = 4)", IMAGES, "MLO0603", "odd"),
        ("conv([2, 4], C, norm = layer)", IMAGES, "MLO0602", "layer"),
        ("conv([2, 4], C, dropout = 1)", IMAGES, "MLO0603", "in [0, 1)"),
        ("conv([2, 4])", IMAGES, "MLO0209", "outputs"),
        ("resnet(2, C, width = 0)", IMAGES, "MLO0603", "at least 1"),
        ("resnet(2, C, depth = 3)", IMAGES, "MLO0210", "depth"),
        ("transformer(4, 8, 3, 1, C)", TOKENS, "MLO0603", "a divisor of `width`"),
        ("transformer(4, 8, 2, 1, C, norm_first = 1)", TOKENS, "MLO0603", "`true` or `false`"),
        ("transformr(4, 8, 2, 1, C)", TOKENS, "MLO0208", "transformr"),
    ],
)
def test_mistakes_are_found_before_anything_runs(network, type_, code, words):
    found = bettyc.loads(text(network, "", type_)).check()
    with pytest.raises(MloError) as raised:
        found.raise_if_errors()
    shown = str(raised.value)

    assert code in [d.code for d in raised.value.diagnostics]
    assert words in shown


def test_a_transformer_without_outputs_keeps_positions():
    network = "transformer(4, 8, 2, 1)"
    program = text(network, "", TOKENS)
    for use in ("net(train.x)", "fit*.net(val.x)", "fit.net(val.x)"):
        program = program.replace(f"({use}", f"(mean({use}, axis = 1)[:, :3]")
    run = start(program, data(TOKENS))

    assert run.step().loss["fit"] > 0
