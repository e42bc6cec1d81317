"""Modules of the user's that torch treats specially: compiled ones, and fused attention."""

from __future__ import annotations

import pytest
import torch
from test_modules import Normed, Plain, train
from torch import nn
from torch.nn import functional as F

SGD = "optimizer = sgd(lr = 0.2, momentum = 0.9)  steps = 4  hypergrad = finite_diff(eps = 0.01)"
# traces with TorchDynamo, and runs what it has traced without a C++ compiler
compiled = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def wrapped(module: type[nn.Module]):
    def build(width: int) -> nn.Module:
        return torch.compile(module(width), backend="eager")

    return build


@compiled
@pytest.mark.parametrize("module", [Plain, Normed])
def test_a_compiled_module_has_the_bits_of_the_plain_one(module):
    plain, run = train(module, SGD, opt=0), train(wrapped(module), SGD, opt=0)
    for each in (plain, run):
        each.to_end()
    expected = plain["fit"].net.state_dict()
    found = run["fit"].net.state_dict()

    for name, value in expected.items():
        assert torch.equal(found[f"_orig_mod.{name}"], value), name
    torch.testing.assert_close(run["tune"].log_wd, plain["tune"].log_wd)


@compiled
def test_parameters_of_a_compiled_module_have_the_names_of_the_plain_one():
    run = train(wrapped(Plain), SGD + '  freeze = "a.*"')
    before = run["fit"].values()
    run.to_end()
    after = run["fit"].values()

    assert set(before) == {"net.a.weight", "net.a.bias", "net.b.weight", "net.b.bias"}
    assert torch.equal(before["net.a.weight"], after["net.a.weight"])
    assert not torch.equal(before["net.b.weight"], after["net.b.weight"])


class Attention(nn.Module):
    """The 4 features as 2 tokens of 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(2, 3 * width), nn.Linear(width, 2)

    def forward(self, x):
        q, k, v = self.qkv(x.view(-1, 2, 2)).chunk(3, -1)
        found = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])
        return self.out(found[:, 0].mean(1))


@pytest.mark.parametrize("strategy", ["finite_diff(eps = 0.01)", "none"])
def test_fused_attention_trains_with_strategies_that_take_first_derivatives(strategy):
    run = train(Attention, f"optimizer = sgd(lr = 0.2)  steps = 4  hypergrad = {strategy}")
    twin = run["fit"].net.train()
    columns = run.sources["train"].whole()
    optimizer = torch.optim.SGD(twin.parameters(), 0.2, foreach=False)
    weight = torch.exp(run["tune"].log_wd)
    run.step()
    for _ in range(4):
        optimizer.zero_grad()
        loss = torch.mean(F.cross_entropy(twin(columns["x"]), columns["y"], reduction="none"))
        flat = torch.cat([p.reshape(-1) for p in twin.parameters()])
        (loss + weight * torch.sum(torch.square(flat))).backward()
        optimizer.step()

    for a, b in zip(run["fit"].net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_attention_by_the_plain_kernel_has_second_derivatives():
    from torch.nn.attention import SDPBackend, sdpa_kernel

    class Plainly(Attention):
        def forward(self, x):
            with sdpa_kernel(SDPBackend.MATH):
                return super().forward(x)

    settings = "optimizer = sgd(lr = 0.2)  steps = 3  hypergrad = unroll"
    found = float(train(Plainly, settings).hypergrad("tune")["log_wd"])
    losses = []
    for shift in (1e-5, -1e-5):
        run = train(Plainly, settings)
        run["tune"].assign(log_wd=run["tune"].log_wd + shift)
        losses.append(float(run.hypergrad("tune").loss))

    assert found == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-5)
