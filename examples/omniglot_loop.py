"""MAML, first-order MAML and iMAML on Omniglot as loops over tasks in plain torch, and the nearest
drawing by pixels: what maml_omniglot.mlo is compared with. One task at a time, from the same start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from omniglot import Task, conv4
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Settings:
    """Of one algorithm, as in the program: `steps` of gradient descent at the rate `lr` on the loss
    plus near/2 |w - start|^2; the rate of Adam; conjugate gradient steps and damping (iMAML).
    """

    way: str
    lr: float = 0.4
    steps: int = 2
    near: float = 0.0
    meta_lr: float = 3e-3
    iters: int = 0
    damping: float = 0.0


SETTINGS = {
    "maml": Settings("maml"),
    "first_order": Settings("first_order"),
    "imaml": Settings("imaml", steps=3, near=0.5, iters=2, damping=1.0),
}


@cache
def network(ways: int) -> nn.Module:
    return conv4(ways, 48)


def logits(w: Weights, x: Tensor) -> Tensor:
    *_, bias = w.values()
    return functional_call(network(len(bias)), w, (x,))


def loss(w: Weights, part: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(logits(w, part["x"]), part["y"])


def adapted(start: Weights, task: Task, given: Settings, graph: bool = False) -> Weights:
    """The weights after the steps on the drawings to adapt to; `graph`: as a function of start."""
    if not graph:
        start = {name: p.detach().requires_grad_() for name, p in start.items()}
    w = start
    for _ in range(given.steps):
        grads = torch.autograd.grad(loss(w, task["support"]), list(w.values()), create_graph=graph)
        pairs = zip(w.items(), grads, strict=True)
        if given.near:
            w = {n: p - given.lr * (g + given.near * (p - start[n])) for (n, p), g in pairs}
        else:
            w = {n: p - given.lr * g for (n, p), g in pairs}
        if not graph:
            w = {n: p.detach().requires_grad_() for n, p in w.items()}
    return w


def meta_gradient(start: Weights, task: Task, given: Settings) -> list[Tensor]:
    """Of the loss on the queries of one task, in the start."""
    w = adapted(start, task, given, graph=given.way == "maml")
    values = list(start.values()) if given.way == "maml" else list(w.values())
    found = list(torch.autograd.grad(loss(w, task["query"]), values))
    return implicit(w, task, found, given) if given.way == "imaml" else found


def implicit(w: Weights, task: Task, a: list[Tensor], given: Settings) -> list[Tensor]:
    """near (H + (near + damping) I)^-1 a by conjugate gradient, H of the loss at the adapted
    weights: Rajeswaran et al. 2019, with damping.
    """
    values = list(w.values())
    grads = torch.autograd.grad(loss(w, task["support"]), values, create_graph=True)
    shift = given.near + given.damping

    def product(v: list[Tensor]) -> list[Tensor]:
        h = torch.autograd.grad(grads, values, v, retain_graph=True)
        return [x + shift * y for x, y in zip(h, v, strict=True)]

    u, r, p = [torch.zeros_like(x) for x in a], a, a
    square = _dot(r, r)
    for _ in range(given.iters):
        q = product(p)
        alpha = square / _dot(p, q)
        u = _plus(u, alpha, p)
        r = _plus(r, -alpha, q)
        before, square = square, _dot(r, r)
        p = _plus(r, square / before, p)
    return [given.near * x for x in u]


def _dot(x: list[Tensor], y: list[Tensor]) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(x, y, strict=True)]).sum()


def _plus(x: list[Tensor], scale: Tensor, y: list[Tensor]) -> list[Tensor]:
    return [a + scale * b for a, b in zip(x, y, strict=True)]


class Loop:
    """Training by hand. start: where it begins; steps: of the cosine schedule."""

    def __init__(self, start: Weights, given: Settings, steps: int) -> None:
        self.start = {name: w.clone().requires_grad_() for name, w in start.items()}
        self.given = given
        self._optimizer = torch.optim.Adam(self.start.values(), lr=given.meta_lr)
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, steps)

    def step(self, tasks: Sequence[Task]) -> None:
        """One update from the mean over the tasks."""
        total = [torch.zeros_like(w) for w in self.start.values()]
        for task in tasks:
            for sum_, g in zip(total, meta_gradient(self.start, task, self.given), strict=True):
                sum_ += g / len(tasks)
        for w, g in zip(self.start.values(), total, strict=True):
            w.grad = g
        self._optimizer.step()
        self._schedule.step()


def judged(start: Weights, tasks: Sequence[Task], given: Settings) -> list[float]:
    """Accuracy on the queries of each task after adaptation."""
    found = []
    for task in tasks:
        w = adapted(start, task, given)
        with torch.no_grad():
            found.append(accuracy(logits(w, task["query"]["x"]).argmax(1), task))
    return found


def nearest(tasks: Sequence[Task]) -> list[float]:
    """The same where a query gets the label of the nearest drawing, by pixels."""
    found = []
    for task in tasks:
        x, near = task["query"]["x"].flatten(1), task["support"]["x"].flatten(1)
        found.append(accuracy(task["support"]["y"][torch.cdist(x, near).argmin(1)], task))
    return found


def accuracy(labels: Tensor, task: Task) -> float:
    return float((labels == task["query"]["y"]).float().mean())
