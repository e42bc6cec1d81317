"""learned_optimizer.mlo against the same optimizer as a loop in torch, and autograd through it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import bettyc

EXAMPLES = Path(__file__).parent.parent / "examples"
STEPS = 5


def losses(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    logits = torch.einsum("prk,pk->pr", x, w)
    fit = nn.functional.binary_cross_entropy_with_logits(logits, y, reduction="none").mean(1)
    return fit + 0.01 * w.square().sum(1)


def unrolled(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The mean loss after STEPS steps of the learned optimizer."""
    w = torch.zeros_like(x[:, 0], requires_grad=True)
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for t in range(STEPS):
        (g,) = torch.autograd.grad(losses(w, x, y).sum(), w, create_graph=True)
        m = 0.9 * m + 0.1 * g
        v = 0.99 * v + 0.01 * g**2
        deviation = (v / (1 - 0.99 ** (t + 1)) + 1e-12).sqrt()
        mean = m / (1 - 0.9 ** (t + 1))
        when = torch.full_like(w, t / 20)
        out = net(torch.stack([g / deviation, mean / deviation, when], -1))
        w = w - out[..., 0] * (out[..., 1] - 2).exp()
    return losses(w, x, y).mean()


def test_the_learned_optimizer_is_the_loop_that_it_stands_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(32, 40, 10, generator=draw, dtype=torch.float64)
    y = (torch.rand(32, 40, generator=draw) < 0.5).double()
    program = bettyc.load(
        EXAMPLES / "learned_optimizer.mlo",
        profile="smoke",
        set={"run.precision": "fp64", "learner.steps": STEPS},
    )

    def problems(count: int, rows: int, features: int) -> dict[str, Tensor]:
        return {"x": x, "y": y}

    run = program.compile(externs={"problems": problems}).start()

    found = run.hypergrad("rule")

    net = run["rule"].net
    loss = unrolled(net, x, y)
    assert float(found.loss) == pytest.approx(loss.item(), rel=1e-9)
    expected = torch.autograd.grad(loss, list(net.parameters()))
    for (name, _), gradient in zip(net.named_parameters(), expected, strict=True):
        torch.testing.assert_close(found[f"net.{name}"], gradient, rtol=1e-6, atol=1e-9)
