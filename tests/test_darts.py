"""The second order of darts.mlo against the equations of DARTS, written out in torch, in float64.

Liu, Simonyan, Yang. ICLR 2019, arXiv:1806.09055. The steps of the weights are torch.optim's; every
batch is the whole of its half of the data, so that no order of rows matters.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import bettyc
from bettyc.runtime.run import Run

EXAMPLES = Path(__file__).parent.parent / "examples"
ROWS, STEPS = 8, 3
RATE, MOMENTUM, DECAY = 0.025, 0.9, 3e-4
X = torch.randn(2 * ROWS, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(2 * ROWS) % 10
TRAIN, VAL = slice(ROWS), slice(ROWS, None)


def pictures(name: str, part: str) -> dict[str, Tensor]:
    return {"x": X, "y": Y}


def started(strategy: str) -> Run:
    """Before any step. The architecture stays where it is."""
    values: dict[str, int | float | str] = {
        "run.precision": "fp64", "run.steps": STEPS + 1, "batch": ROWS, "channels": 2,
        "weights.warmup": 0, "weights.lr_schedule": "constant(factor = 1)",
        "weights.optimizer": f"sgd(lr = {RATE}, momentum = {MOMENTUM}, weight_decay = {DECAY})",
        "weights.hypergrad": strategy, "arch.optimizer": "sgd(lr = 1e-300)",
    }  # fmt: skip
    program = bettyc.load(EXAMPLES / "darts.mlo", profile="smoke", set=values)
    return program.compile(externs={"pictures": pictures}).start()


@dataclass
class ByHand:
    """The search after STEPS steps of the weights."""

    net: nn.Module
    weights: list[Tensor]
    momenta: list[Tensor]
    arch: list[Tensor]

    def loss(self, weights: list[Tensor], rows: slice) -> Tensor:
        names = [name for name, _ in self.net.named_parameters()]
        mixtures = [torch.softmax(a, -1) for a in self.arch]
        named = dict(zip(names, weights, strict=True))
        logits = torch.func.functional_call(self.net, named, (X[rows], *mixtures))
        return nn.functional.cross_entropy(logits, Y[rows])

    def ahead(self, create_graph: bool) -> list[Tensor]:
        """One more step, as a function of the architecture."""
        slopes = torch.autograd.grad(
            self.loss(self.weights, TRAIN), self.weights, create_graph=create_graph
        )
        triples = zip(self.weights, self.momenta, slopes, strict=True)
        return [w - RATE * (MOMENTUM * m + g + DECAY * w) for w, m, g in triples]

    def exact(self) -> Tensor:
        """Equation 6: the gradient of L_val(w - xi grad L_train(w, a), a) in a."""
        return flat(torch.autograd.grad(self.loss(self.ahead(True), VAL), self.arch))

    def by_differences(self, eps: float) -> Tensor:
        """Equations 7 and 8, the products with the second derivative by a difference."""
        ahead = [w.detach().requires_grad_() for w in self.ahead(False)]
        slopes = torch.autograd.grad(self.loss(ahead, VAL), [*self.arch, *ahead])
        direct, down = slopes[:2], slopes[2:]
        step = eps / flat(down).norm()

        def moved(sign: int) -> Tensor:
            there = [w + sign * step * v for w, v in zip(self.weights, down, strict=True)]
            return flat(torch.autograd.grad(self.loss(there, TRAIN), self.arch))

        return flat(direct) - RATE * (moved(1) - moved(-1)) / (2 * step)


def flat(tensors: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


@pytest.fixture(scope="module")
def by_hand() -> ByHand:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        run = started("none")
    net = copy.deepcopy(run["weights"].net)
    arch = [getattr(run["arch"], k).detach().clone() for k in ("normal", "reduction")]
    weights = list(net.parameters())
    optimizer = torch.optim.SGD(weights, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    search = ByHand(net, weights, [], arch)
    for _ in range(STEPS):
        optimizer.zero_grad()
        search.loss(weights, TRAIN).backward()
        optimizer.step()
    search.momenta = [optimizer.state[w]["momentum_buffer"] for w in weights]
    search.arch = [a.requires_grad_() for a in arch]
    return search


def found(strategy: str, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    run = started(strategy)
    for _ in range(STEPS):
        run.step()
    gradients = run.hypergrad("arch")
    return flat([gradients["normal"], gradients["reduction"]])


@pytest.mark.parametrize("eps", [0.01, 1e-5])
def test_sama_of_sgd_is_the_second_order_of_darts(
    by_hand: ByHand, eps: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = by_hand.by_differences(eps)

    actual = found(f"sama(eps = {eps})", monkeypatch)

    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-9)


def test_unroll_is_the_derivative_that_the_difference_stands_for(
    by_hand: ByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = by_hand.exact()

    torch.testing.assert_close(found("unroll", monkeypatch), exact, rtol=1e-9, atol=1e-12)
    first = found("none", monkeypatch)
    assert (first - exact).norm() > 0.03 * exact.norm()  # not what is missing in the first order
    near = by_hand.by_differences(1e-6)  # too near for a kink of a ReLU or a maximum in between
    assert (near - exact).norm() < 1e-6 * exact.norm()
