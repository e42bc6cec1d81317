"""Activation checkpointing: the same bits, dropout and BatchNorm included, and less memory."""

from __future__ import annotations

import pytest
import torch
from test_modules import Dropped, Normed, Plain, train
from torch import nn
from toys import classification, start

from bettyc.failures import InputError

SGD = "optimizer = sgd(lr = 0.2, momentum = 0.9)  steps = 4"


class Deep(nn.Module):
    """Blocks with masks and statistics, as `recompute` is for."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(4, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Dropout(0.3)
            )
            for _ in range(4)
        )
        self.last = nn.Linear(width, 2)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


def bits(run) -> dict[str, torch.Tensor]:
    return {**run["fit"].net.state_dict(), "log_wd": run["tune"].log_wd}


@pytest.mark.parametrize("module", [Plain, Normed, Dropped, Deep])
@pytest.mark.parametrize("pattern", ["true", '"blocks.*"', '["blocks.1", "last", "a", "bn"]'])
@pytest.mark.parametrize(
    "strategy", ["finite_diff(eps = 0.01)", "unroll", "cg(iters = 3, damping = 5.0)"]
)
def test_the_bits_are_the_same(module, pattern, strategy):
    """In training, and in derivatives of derivatives."""
    if module is not Deep and "blocks" in pattern:
        pattern = '["a", "b"]'
    settings = f"{SGD}  hypergrad = {strategy}"
    plain = train(module, settings, opt=0)
    settings += f"  recompute = {PATTERNS(module, pattern)}"
    less = train(module, settings, opt=0)
    assert less.stages["fit"].linked.networks["fit.net"].forgetful
    for run in (plain, less):
        run.step()

    expected = bits(plain)
    for name, value in bits(less).items():
        if name == "log_wd":  # sums over uses of a variable may be added in another order
            torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-12)
        else:
            assert torch.equal(value, expected[name]), name


def PATTERNS(module, pattern: str) -> str:
    if module is Deep and pattern.startswith("["):
        return '["blocks.1", "last"]'
    return '["a", "b"]' if pattern.startswith("[") else pattern


def test_the_user_s_module_is_as_before():
    module = Deep(6)
    run = train(lambda width: module, f"{SGD}  recompute = true")
    run.step()

    assert not any("forward" in vars(m) for m in module.modules())


class Kept:
    """Bytes that autograd keeps between forward and backward, parts of other tensors once."""

    def __init__(self) -> None:
        self.storages: dict[int, int] = {}

    def __enter__(self) -> Kept:
        def pack(tensor):
            storage = tensor.untyped_storage()
            self.storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        self.hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.hooks.__exit__(*error)

    @property
    def bytes(self) -> int:
        return sum(self.storages.values())


TALL = """
mlo 0.1
dim n, d, C = 2
extern module net(width: int) : real[B, d] -> real[B, C] from "nowhere:net"
data all : { x: real[n, d], y: int<C>[n] } from memory()
level fit {
  module net = net(8)
  minimize mean(xent(net(all.x), all.y))
  optimizer = sgd(lr = 0.1)
  SETTING
}
run { steps = 1 }
"""


def test_fewer_bytes_are_kept():
    """With many rows the activations are nearly everything: at most two per block stay."""
    kept = []
    for setting in ("", 'recompute = "blocks.*"'):
        run = start(
            TALL.replace("SETTING", setting), {"all": classification(5000)}, {"net": Deep}, opt=0
        )
        stage = run.stages["fit"]
        theta = {"fit": run.state.theta["fit"].detach().requires_grad_()}
        with Kept() as memory:
            stage.objective(theta, stage.feed.next()).backward()
        kept.append(memory.bytes)

    assert kept[1] < 0.55 * kept[0]


def test_a_pattern_that_names_nothing():
    with pytest.raises(InputError, match="`block` matches nothing") as raised:
        train(Deep, f'{SGD}  recompute = "block"')

    assert raised.value.diagnostics[0].code == "MLO0618"
    assert "blocks.0" in raised.value.diagnostics[0].notes[0].text
