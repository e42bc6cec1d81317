"""Meta-learning, per meta-step: replicas by vmap, by a loop, and a loop over tasks in plain torch.

    python benchmarks/tasks.py [maml imaml conv4 widths] [--repeats 7] [--threads 1]

maml    sine waves, an MLP of two layers of 40, 16 tasks, 5 steps, differentiated through the steps
imaml   the same near the shared start, 5 steps of conjugate gradient
conv4   images of 28 x 28, four convolutions of 64 channels, 8 tasks, 5 steps, cg(5)
widths  maml at growing widths: vmap and loop beside the flops per operator by which `auto` chooses

Contenders take turns in one process, medians over the repeats; their hypergradients are compared
first. Peak memory is that of a process of its own, above what it had with torch and nothing else.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from measure import resident
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import bettyc

PAUSE = 0.1  # seconds before a turn
TEXT = """
dim S = {shots}, Q = {queries}
{extern}
data tasks : {{ a: {{ x: {x}, y: {y} }}, b: {{ x: {xq}, y: {yq} }} }} from memory()
level adapt foreach t in tasks(batch = {batch}) {{
  module net = {network}
  minimize {loss_a} {near}
  optimizer = sgd(lr = {lr})
  steps     = 5
  start     = copy(meta.net)
  hypergrad = {strategy}
  replicas  = {way}
}}
level meta {{
  module net = {network}
  minimize mean({loss_b} for k in adapt)
  optimizer = adam(lr = 1e-3)
}}
run {{ steps = 100000  eval = every(100000) }}
"""
NEAR = "+ 0.5 * LAM * sumsq(params(net) - params(meta.net))"


@dataclass(frozen=True)
class Work:
    """One problem. lam: of the proximal term; 0 is MAML through the steps."""

    batch: int
    shots: int
    queries: int
    lr: float
    lam: float = 0.0
    width: int = 40
    images: bool = False

    def program(self, way: str) -> str:
        shape = "1, 28, 28" if self.images else "1"
        label = "int<5>[{}]" if self.images else "real[{}, 1]"
        loss = "mean(xent({0}, {1}))" if self.images else "mean(({0} - {1})^2)"
        return TEXT.format(
            shots=self.shots,
            queries=self.queries,
            extern='extern module conv4() : real[B, 1, 28, 28] -> real[B, 5] from "here:conv4"'
            if self.images
            else "",
            x=f"real[S, {shape}]",
            y=label.format("S"),
            xq=f"real[Q, {shape}]",
            yq=label.format("Q"),
            batch=self.batch,
            network="conv4()" if self.images else f"mlp([1, {self.width}, {self.width}, 1])",
            loss_a=loss.format("net(t.a.x)", "t.a.y"),
            loss_b=loss.format("k*.net(k.t.b.x)", "k.t.b.y"),
            near=NEAR.replace("LAM", str(self.lam)) if self.lam else "",
            lr=self.lr,
            strategy="cg(iters = 5, tol = 1e-12, damping = 1.0)" if self.lam else "unroll",
            way=way,
        )

    def network(self) -> nn.Module:
        if self.images:
            return conv4()
        w = self.width
        return nn.Sequential(
            nn.Linear(1, w), nn.ReLU(), nn.Linear(w, w), nn.ReLU(), nn.Linear(w, 1)
        )

    def tasks(self, count: int = 64) -> list[dict[str, dict[str, Tensor]]]:
        g = torch.Generator().manual_seed(0)

        def points(n: int) -> dict[str, Tensor]:
            if self.images:
                x = torch.rand(n, 1, 28, 28, generator=g)
                return {"x": x, "y": torch.arange(n) % 5}
            x = 10 * torch.rand(n, 1, generator=g) - 5
            phase = math.pi * torch.rand((), generator=g)
            return {"x": x, "y": 3 * torch.sin(x + phase)}

        return [{"a": points(self.shots), "b": points(self.queries)} for _ in range(count)]

    def loss(self, prediction: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(prediction, y) if self.images else F.mse_loss(prediction, y)


def conv4() -> nn.Module:
    layers: list[nn.Module] = []
    for before in (1, 64, 64, 64):
        layers += [
            nn.Conv2d(before, 64, 3, padding=1), nn.GroupNorm(8, 64), nn.ReLU(), nn.MaxPool2d(2)
        ]  # fmt: skip
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 5))


WORKS = {
    "maml": Work(16, 10, 10, 0.01),
    "imaml": Work(16, 10, 10, 0.01, lam=10.0),
    # the proximal term is large: the Hessian of an untrained network has eigenvalues below -100,
    # where conjugate gradient stands for nothing, and bettyc says so
    "conv4": Work(8, 5, 15, 0.002, lam=200.0, images=True),
}


class Ours:
    """bettyc with replicas by `way`."""

    def __init__(self, work: Work, way: str) -> None:
        program = bettyc.loads(work.program(way))
        self.run = program.compile(data={"tasks": work.tasks()}, externs={"conv4": conv4}).start()
        self.way = way

    def step(self) -> None:
        self.run.step()

    def hypergradient(self) -> Tensor:
        return self.run.hypergrad("meta").flat


class Plain:
    """A loop over tasks as written by hand, on the tasks of a run of bettyc and from its start."""

    def __init__(self, work: Work, like: Ours | None = None) -> None:
        self.work = work
        self.net = work.network()
        if like is not None:
            self.net.load_state_dict(like.run["meta"].net.state_dict())
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-3)
        self.pool = work.tasks()
        self.order = torch.Generator().manual_seed(0)

    def step(self) -> None:
        chosen = torch.randperm(len(self.pool), generator=self.order)[: self.work.batch]
        self.optimizer.zero_grad()
        for i in chosen.tolist():
            for p, g in zip(self.net.parameters(), self.gradient(self.pool[i]), strict=True):
                g = g / self.work.batch
                p.grad = g if p.grad is None else p.grad + g
        self.optimizer.step()

    def of(self, tasks: Any) -> Tensor:
        """The hypergradient on the tasks of a run."""
        total = []
        for t in tasks:
            task = {part: {k: t[f"{part}.{k}"] for k in ("x", "y")} for part in ("a", "b")}
            total.append(torch.cat([g.reshape(-1) for g in self.gradient(task)]))
        return torch.stack(total).mean(0)

    def gradient(self, task: dict[str, dict[str, Tensor]]) -> list[Tensor]:
        """d query loss of the adapted network / d start, of one task."""
        work, names = self.work, [n for n, _ in self.net.named_parameters()]
        start = list(self.net.parameters())
        near = [p.detach() for p in start]
        unrolled = not work.lam
        w = start if unrolled else [p.clone().requires_grad_() for p in near]

        def loss(w: list[Tensor], part: str) -> Tensor:
            found = functional_call(self.net, dict(zip(names, w, strict=True)), task[part]["x"])
            return work.loss(found, task[part]["y"])

        def inner(w: list[Tensor]) -> Tensor:
            value = loss(w, "a")
            if work.lam:
                value = value + 0.5 * work.lam * sum(
                    (p - q).square().sum() for p, q in zip(w, near, strict=True)
                )
            return value

        for _ in range(5):
            g = torch.autograd.grad(inner(w), w, create_graph=unrolled)
            w = [p - work.lr * d for p, d in zip(w, g, strict=True)]
            if not unrolled:
                w = [p.detach().requires_grad_() for p in w]
        outer = loss(w, "b")
        if unrolled:
            return list(torch.autograd.grad(outer, start))
        a = torch.cat([g.reshape(-1) for g in torch.autograd.grad(outer, w)])
        g = torch.cat([d.reshape(-1) for d in torch.autograd.grad(inner(w), w, create_graph=True)])
        u = conjugate_gradient(lambda v: product(g, w, v) + v, a, 5)
        parts = (work.lam * u).split([p.numel() for p in w])
        return [part.view_as(p) for part, p in zip(parts, w, strict=True)]


def product(g: Tensor, w: list[Tensor], v: Tensor) -> Tensor:
    return torch.cat([x.reshape(-1) for x in torch.autograd.grad(g, w, v, retain_graph=True)])


def conjugate_gradient(matvec: Callable[[Tensor], Tensor], b: Tensor, steps: int) -> Tensor:
    x, r = torch.zeros_like(b), b.clone()
    p, rr = r.clone(), r @ r
    for _ in range(steps):
        q = matvec(p)
        alpha = rr / (p @ q)
        x, r = x + alpha * p, r - alpha * q
        now = r @ r
        p, rr = r + (now / rr) * p, now
    return x


def contenders(work: Work) -> dict[str, Any]:
    ours = {way: Ours(work, way) for way in ("vmap", "loop")}
    plain = Plain(work, ours["loop"])
    expected = None
    for way, one in ours.items():
        found = one.hypergradient()
        if expected is None:
            kept = one.run.tasks["adapt"]
            one.run.executor.respond("meta")
            expected = plain.of(kept.tasks)
        error = float((found - expected).norm() / expected.norm())
        if error > 1e-3:
            raise SystemExit(f"the hypergradient by {way} differs by {error:.1e}")
    return {"plain torch loop": plain, "bettyc loop": ours["loop"], "bettyc vmap": ours["vmap"]}


def chosen(work: Work) -> str:
    """What `auto` takes, and why."""
    auto = Ours(work, "auto")
    auto.step()
    return str(auto.run.replicas["adapt"])


def turns(found: dict[str, Any], repeats: int) -> dict[str, float]:
    """Median seconds of a meta-step of each, one after the other in every round. A turn begins
    with a step that is not timed: the caches are full of what the others did.
    """
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(repeats):
        for name, one in found.items():
            time.sleep(PAUSE)
            one.step()
            began = time.perf_counter()
            one.step()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def memory(work: str, name: str, threads: int) -> float:
    """MiB at the peak of three meta-steps, above a process that has torch, imports included."""
    command = [sys.executable, __file__, work, "--alone", name, "--threads", str(threads)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def alone(work: Work, name: str) -> None:
    before = resident()
    ours = name.startswith("bettyc")
    one: Any = Ours(work, name.removeprefix("bettyc ")) if ours else Plain(work)
    for _ in range(3):
        one.step()
    print(resident() - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("works", nargs="*", default=["maml", "imaml"])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.alone:
        return alone(WORKS[given.works[0]], given.alone)
    for name in given.works:
        if name == "widths":
            widths(given.repeats)
            continue
        found = turns(contenders(WORKS[name]), given.repeats)
        best = min(found.values())
        print(f"{name:6} auto: {chosen(WORKS[name])}", flush=True)
        for who, seconds in found.items():
            mib = f"  {memory(name, who, given.threads):6.0f} MiB" if given.memory else ""
            print(
                f"{name:6} {who:18} {seconds * 1e3:9.2f} ms  {seconds / best:6.2f}{mib}", flush=True
            )
    return None


def widths(repeats: int) -> None:
    """Where vmap and a loop meet, beside what `auto` goes by and what it chooses."""
    for width in (40, 128, 256, 512):
        for points in (10, 100):
            work = Work(16, points, points, 0.001, width=width)
            found = turns({way: Ours(work, way) for way in ("vmap", "loop")}, repeats)
            auto = Ours(work, "auto").run
            auto.step()
            looked = auto._parts.linked.replicas["adapt"]
            ratio = found["loop"] / found["vmap"]
            print(
                f"width {width:4} points {points:4}: loop / vmap {ratio:5.2f}"
                f"  {max(looked.each.values()) / 1e6:6.2f} Mflop per operator"
                f"  auto: {looked.taken.partition(':')[0]}",
                flush=True,
            )


if __name__ == "__main__":
    main()
