"""Meta-Weight-Net on digits, every library at every strategy it has: time per iteration, peak
memory, accuracy.

    python benchmarks/weights.py [finite_diff cg neumann unroll] [--repeats 7] [--threads 2]

One iteration: a step of the student mlp(64, 256, 256, 10) on a batch of 100 whose losses a weight
net 1-100-1 weighs, then a step of the weight net through it. All contenders start from the same
variables and see the same batches. Before anything is timed their first steps of the weight net are
compared with those of plain torch at the same strategy; where they differ the run ends. bettyc with
the student in its language, as a module from Python, and as one that the compiler cannot see
through.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from measure import machine, resident, spread, take_turns
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

LR, UPPER_LR, BATCH, EPS = 0.1, 1e-3, 100, 0.01
DAMPING, TERMS = 1.0, 6  # Betty's 5 iterations are 6 terms
SAME, NEAR = 2e-2, 0.5  # relative difference of the first upper gradients, float32
STRATEGIES = ("finite_diff", "cg", "neumann", "unroll")


class Data(NamedTuple):
    """train, 40 % of its labels wrong; meta; test. Batches are taken in order, over and over."""

    train: tuple[Tensor, Tensor]
    meta: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    def batches(self, part: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
        return list(zip(*(column.split(BATCH) for column in part), strict=True))


def digits(seed: int = 0) -> Data:
    from sklearn.datasets import load_digits

    found = load_digits()
    g = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(found.target), generator=g)
    x = (torch.as_tensor(found.data, dtype=torch.float32) / 16)[order]
    y = torch.as_tensor(found.target)[order]
    wrong = torch.rand(1000, generator=g) < 0.4
    noisy = torch.where(wrong, torch.randint(0, 10, (1000,), generator=g), y[:1000])
    return Data((x[:1000], noisy), (x[1000:1400], y[1000:1400]), (x[1400:], y[1400:]))


def student() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )


def weigher() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(1, 100), nn.ReLU(), nn.Linear(100, 1), nn.Sigmoid())


def weighted(losses: Tensor, weights: Callable[[Tensor], Tensor]) -> Tensor:
    return (weights(losses.detach()[:, None])[:, 0] * losses).mean()


class Contender:
    """Plain torch at one strategy, and what all share. `gradient` is the first upper gradient."""

    def __init__(self, data: Data, strategy: str) -> None:
        self.data, self.strategy, self.k = data, strategy, 0
        self.parts = [data.batches(data.train), data.batches(data.meta)]
        self.net, self.v = student(), weigher()
        self.below, self.above = [*self.net.parameters()], [*self.v.parameters()]
        self.gradient: Tensor | None = None

    @functools.cached_property
    def upper(self) -> torch.optim.Optimizer:
        """Made by those who use it: it imports torch._dynamo, 150 MiB."""
        return torch.optim.Adam(self.above, lr=UPPER_LR)

    def next(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A batch below and one above."""
        found = [part[self.k % len(part)] for part in self.parts]
        self.k += 1
        return (*found[0], *found[1])

    def lower(self, x: Tensor, y: Tensor) -> Tensor:
        return weighted(cross_entropy(self.net(x), y, reduction="none"), self.v)

    def round(self) -> None:
        x, y, mx, my = self.next()
        grads = torch.autograd.grad(self.lower(x, y), self.below)
        with torch.no_grad():
            for p, g in zip(self.below, grads, strict=True):
                p.sub_(g, alpha=LR)
        a = torch.autograd.grad(cross_entropy(self.net(mx), my), self.below)
        self.move([-c for c in getattr(self, self.strategy)(a, x, y)])

    def move(self, grads: list[Tensor]) -> None:
        if self.gradient is None:
            self.gradient = torch.cat([g.reshape(-1) for g in grads]).clone()
        for p, g in zip(self.above, grads, strict=True):
            p.grad = g
        self.upper.step()

    def shifted(self, a: tuple[Tensor, ...], by: float) -> None:
        with torch.no_grad():
            for p, v in zip(self.below, a, strict=True):
                p.add_(v, alpha=by)

    def finite_diff(self, a: tuple[Tensor, ...], x: Tensor, y: Tensor) -> list[Tensor]:
        """The weights' input is what it is at the middle, as the objective detaches it."""
        size = float(torch.cat([v.reshape(-1) for v in a]).norm())
        with torch.no_grad():
            fixed = cross_entropy(self.net(x), y, reduction="none")[:, None]
        found = []
        for by in (EPS / size, -2 * EPS / size):
            self.shifted(a, by)
            losses = cross_entropy(self.net(x), y, reduction="none")
            found.append(torch.autograd.grad((self.v(fixed)[:, 0] * losses).mean(), self.above))
        self.shifted(a, EPS / size)
        return [LR * size / (2 * EPS) * (p - m) for p, m in zip(*found, strict=True)]

    def system(self, x: Tensor, y: Tensor) -> tuple[list[Tensor], Callable[..., Any]]:
        grads = torch.autograd.grad(self.lower(x, y), self.below, create_graph=True)
        return list(grads), lambda v: torch.autograd.grad(grads, self.below, v, retain_graph=True)

    def cg(self, a: tuple[Tensor, ...], x: Tensor, y: Tensor) -> list[Tensor]:
        grads, product = self.system(x, y)
        u, r, p = [torch.zeros_like(v) for v in a], list(a), list(a)
        rr = sum(float((v * v).sum()) for v in r)
        for _ in range(5):
            hp = [h + DAMPING * v for h, v in zip(product(p), p, strict=True)]
            step = rr / sum(float((v * h).sum()) for v, h in zip(p, hp, strict=True))
            u = [q + step * v for q, v in zip(u, p, strict=True)]
            r = [q - step * h for q, h in zip(r, hp, strict=True)]
            rr, old = sum(float((v * v).sum()) for v in r), rr
            p = [q + rr / old * v for q, v in zip(r, p, strict=True)]
        return list(torch.autograd.grad(grads, self.above, u))

    def neumann(self, a: tuple[Tensor, ...], x: Tensor, y: Tensor) -> list[Tensor]:
        grads, product = self.system(x, y)
        term, total = list(a), list(a)
        for _ in range(TERMS - 1):
            term = [t - LR * h for t, h in zip(term, product(term), strict=True)]
            total = [s + t for s, t in zip(total, term, strict=True)]
        return list(torch.autograd.grad(grads, self.above, [LR * s for s in total]))

    def unroll(self, a: tuple[Tensor, ...], x: Tensor, y: Tensor) -> list[Tensor]:
        raise AssertionError("an iteration of its own, below")

    def accuracy(self) -> float:
        x, y = self.data.test
        return float((self.net(x).argmax(1) == y).float().mean())


class Unrolled(Contender):
    """Plain torch, reverse mode through the step."""

    def round(self) -> None:
        if self.strategy != "unroll":
            return super().round()
        x, y, mx, my = self.next()
        grads = torch.autograd.grad(self.lower(x, y), self.below, create_graph=True)
        moved = [p - LR * g for p, g in zip(self.below, grads, strict=True)]
        names = [n for n, _ in self.net.named_parameters()]
        out = torch.func.functional_call(self.net, dict(zip(names, moved, strict=True)), (mx,))
        found = torch.autograd.grad(cross_entropy(out, my), self.above)
        with torch.no_grad():
            for p, q in zip(self.below, moved, strict=True):
                p.copy_(q)
        self.move(list(found))


class Higher(Contender):
    def __init__(self, data: Data, strategy: str) -> None:
        super().__init__(data, strategy)
        import higher

        self.context = higher.innerloop_ctx
        self.inner = torch.optim.SGD(self.below, lr=LR)

    def round(self) -> None:
        x, y, mx, my = self.next()
        with self.context(self.net, self.inner) as (net, steps):
            steps.step(weighted(cross_entropy(net(x), y, reduction="none"), self.v))
            found = torch.autograd.grad(cross_entropy(net(mx), my), self.above)
            with torch.no_grad():
                for p, q in zip(self.below, net.parameters(), strict=True):
                    p.copy_(q)
        self.move(list(found))


class TorchOpt(Contender):
    def __init__(self, data: Data, strategy: str) -> None:
        super().__init__(data, strategy)
        import torchopt

        self.inner = torchopt.MetaSGD(self.net, lr=LR)
        self.stop = torchopt.stop_gradient

    def round(self) -> None:
        x, y, mx, my = self.next()
        self.inner.step(self.lower(x, y))
        loss = cross_entropy(self.net(mx), my)
        found = torch.autograd.grad(loss, self.above)
        self.move(list(found))
        self.stop(self.net)
        self.stop(self.inner)


class Betty(Contender):
    """Betty's engine, stepped by hand."""

    def __init__(self, data: Data, strategy: str) -> None:
        super().__init__(data, strategy)
        import contextlib
        import io
        import logging

        from betty.configs import Config, EngineConfig
        from betty.engine import Engine
        from betty.problems import ImplicitProblem

        logging.getLogger("betty").setLevel(logging.ERROR)
        damping = DAMPING if strategy == "cg" else 0.0

        class Reweight(ImplicitProblem):
            def training_step(self, batch: Any) -> Tensor:
                return cross_entropy(self.classifier(batch[0]), batch[1])

        class Classifier(ImplicitProblem):
            def training_step(self, batch: Any) -> Tensor:
                losses = cross_entropy(self.module(batch[0]), batch[1], reduction="none")
                loss = weighted(losses, self.reweight)
                # Betty has no damping: a square around the present point has that Hessian.
                if damping:
                    own = list(self.module.parameters())
                    loss = loss + sum(0.5 * damping * (p - p.detach()).square().sum() for p in own)
                return loss

        kinds = {"finite_diff": "darts", "cg": "cg", "neumann": "neumann"}
        classifier = Classifier(
            "classifier",
            config=Config(
                type=kinds[strategy], unroll_steps=1, darts_alpha=EPS, cg_iterations=5,
                cg_alpha=1.0, neumann_iterations=TERMS - 1, neumann_alpha=LR,
            ),
            module=self.net, optimizer=torch.optim.SGD(self.below, lr=LR),
            train_data_loader=self.parts[0],
        )  # fmt: skip
        reweight = Reweight(
            "reweight", config=Config(), module=self.v, optimizer=self.upper,
            train_data_loader=self.parts[1],
        )  # fmt: skip
        with contextlib.redirect_stdout(io.StringIO()):
            self.engine = Engine(
                problems=[reweight, classifier],
                config=EngineConfig(train_iters=1, strategy="cpu"),
                dependencies={
                    "l2u": {classifier: [reweight]}, "u2l": {reweight: [classifier]}
                },
            )  # fmt: skip
            self.engine.train()
        self.reweight = reweight

    def round(self) -> None:
        self.engine.global_step += 1
        self.engine.train_step()
        if self.gradient is None:
            # Adam's first moment is a tenth of the gradient after one step.
            moments = [s["exp_avg"] for s in self.reweight.optimizer.state.values()]
            self.gradient = 10 * torch.cat([m.reshape(-1) for m in moments])


class Jax(Contender):
    """By hand, the whole iteration under jit; a finite difference."""

    def __init__(self, data: Data, strategy: str) -> None:
        super().__init__(data, strategy)
        import jax
        import jax.numpy as jnp

        def forward(p: Any, x: Any) -> Any:
            for k in range(0, len(p), 2):
                x = x @ p[k].T + p[k + 1]
                x = jax.nn.relu(x) if k + 2 < len(p) else x
            return x

        def losses(w: Any, x: Any, y: Any) -> Any:
            z = forward(w, x)
            return jax.nn.logsumexp(z, 1) - jnp.take_along_axis(z, y[:, None], 1)[:, 0]

        def lower(w: Any, v: Any, fixed: Any, x: Any, y: Any) -> Any:
            weights = jax.nn.sigmoid(forward(v, fixed[:, None]))[:, 0]
            return jnp.mean(weights * losses(w, x, y))

        def update(w: Any, v: Any, m: Any, s: Any, t: Any, x: Any, y: Any, mx: Any, my: Any) -> Any:
            g = jax.grad(lower)(w, v, losses(w, x, y), x, y)
            w = [p - LR * q for p, q in zip(w, g, strict=True)]
            a = jax.grad(lambda w: jnp.mean(losses(w, mx, my)))(w)
            size = jnp.sqrt(sum(jnp.sum(q * q) for q in a))
            fixed = losses(w, x, y)
            at = [
                jax.grad(lower, 1)([p + e * q for p, q in zip(w, a, strict=True)], v, fixed, x, y)
                for e in (EPS / size, -EPS / size)
            ]
            g = [-LR * size / (2 * EPS) * (p - q) for p, q in zip(*at, strict=True)]
            m = [0.9 * p + 0.1 * q for p, q in zip(m, g, strict=True)]
            s = [0.999 * p + 0.001 * q * q for p, q in zip(s, g, strict=True)]
            c, d = UPPER_LR / (1 - 0.9**t), 1 - 0.999**t
            v = [p - c * q / (jnp.sqrt(r / d) + 1e-8) for p, q, r in zip(v, m, s, strict=True)]
            return w, v, m, s, g

        self.update, self.numpy = jax.jit(update), jnp.asarray
        w, v = ([jnp.asarray(p.detach().numpy()) for p in q] for q in (self.below, self.above))
        self.state = [w, v, [0 * p for p in v], [0 * p for p in v]]

    def round(self) -> None:
        batch = [self.numpy(b.numpy()) for b in self.next()]
        *self.state, g = self.update(*self.state, float(self.k), *batch)
        self.state[1][0].block_until_ready()
        if self.gradient is None:
            import numpy

            self.gradient = torch.cat([torch.tensor(numpy.array(p)).reshape(-1) for p in g])

    def accuracy(self) -> float:
        import numpy

        with torch.no_grad():
            for p, q in zip(self.below, self.state[0], strict=True):
                p.copy_(torch.tensor(numpy.array(q)))
        return super().accuracy()


PROGRAM = """
mlo 0.1
dim C = 10
%s
dim n, m
data train : { x: real[n, 64], y: int<C>[n] } from memory()
data meta  : { x: real[m, 64], y: int<C>[m] } from memory()
level student {
  module net = %s
  draw b from train(batch = 100)
  let losses = xent(net(b.x), b.y)
  let omega = weigher.v(detach(losses)[:, new])[:, 0]
  minimize mean(omega * losses)
  optimizer = sgd(lr = %g)
  hypergrad = %s
}
level weigher {
  module v = mlp([1, 100, 1], out = sigmoid)
  draw b from meta(batch = 100)
  minimize mean(xent(student*.net(b.x), b.y))
  optimizer = adam(lr = %g)
}
run { steps = 100000  eval = every(100000) }
"""

HYPERGRAD = {
    "finite_diff": f"finite_diff(eps = {EPS})",
    "cg": f"cg(iters = 5, tol = 1e-30, damping = {DAMPING})",
    "neumann": f"neumann(terms = {TERMS}, lr = {LR})",
    "unroll": "unroll",
}


class Compiled(Contender):
    """bettyc. module: the student from Python, if it comes from there."""

    def __init__(
        self,
        data: Data,
        strategy: str,
        module: Callable[[], nn.Module] | None = None,
        opt: int = 1,
    ) -> None:
        super().__init__(data, strategy)
        import bettyc

        extern = 'extern module layers() : real[B, 64] -> real[B, C] from "memory:layers"'
        network = "layers()" if module else "mlp([64, 256, 256, C])"
        text = PROGRAM % (
            extern if module else "", network, LR, HYPERGRAD[strategy], UPPER_LR
        )  # fmt: skip
        plan = bettyc.loads(text).compile(
            data={n: dict(zip("xy", getattr(data, n), strict=True)) for n in ("train", "meta")},
            externs={"layers": module} if module else {},
            opt=opt,
        )
        self.run = plan.start(seed=0)
        for level, name, net in (("student", "net", self.net), ("weigher", "v", self.v)):
            values = {f"{name}.{n}": p.detach() for n, p in net.named_parameters()}
            self.run.stages[level].assign(values)
        self.start = self.run.state.theta["weigher"].clone()

    def round(self) -> None:
        self.run.step()
        if self.gradient is None:
            self.gradient = 10 * self.run.state.optimizer["weigher"]["m"]

    def accuracy(self) -> float:
        x, y = self.data.test
        return float((self.run["student"].net(x).argmax(1) == y).float().mean())


def at_two(data: Data, strategy: str) -> Contender:
    return Compiled(data, strategy, opt=2)


def of_python(data: Data, strategy: str) -> Contender:
    return Compiled(data, strategy, student)


def of_python_at_two(data: Data, strategy: str) -> Contender:
    return Compiled(data, strategy, student, opt=2)


def buffered() -> nn.Module:
    """A student that the compiler cannot see through."""
    net = student()
    net.register_buffer("unused", torch.zeros(1))
    return net


def opaque(data: Data, strategy: str) -> Contender:
    return Compiled(data, strategy, buffered)


def opaque_at_two(data: Data, strategy: str) -> Contender:
    return Compiled(data, strategy, buffered, opt=2)


# The first is the reference of the comparison.
CONTENDERS: dict[str, tuple[Callable[[Data, str], Contender], tuple[str, ...]]] = {
    "plain torch": (Unrolled, STRATEGIES),
    "bettyc -O1": (Compiled, STRATEGIES),
    "bettyc -O2": (at_two, STRATEGIES),
    "bettyc -O1, Python module": (of_python, STRATEGIES),
    "bettyc -O2, Python module": (of_python_at_two, STRATEGIES),
    "bettyc -O1, opaque module": (opaque, STRATEGIES),
    "bettyc -O2, opaque module": (opaque_at_two, STRATEGIES),
    "Betty 0.2.1": (Betty, ("finite_diff", "cg", "neumann")),
    "higher 0.2.1": (Higher, ("unroll",)),
    "TorchOpt 0.7.3": (TorchOpt, ("unroll",)),
    "JAX by hand (jit)": (Jax, ("finite_diff",)),
}
DIFFERENT = {
    ("Betty 0.2.1", "cg"): "its conjugate gradient updates p with the old residual",
    ("Betty 0.2.1", "finite_diff"): "its finite difference moves what the objective detaches",
}


def compare(data: Data, strategy: str, repeats: int, threads: int) -> list[dict[str, Any]]:
    contenders: dict[str, Contender] = {}
    differences: dict[str, float] = {}
    for name, (make, strategies) in CONTENDERS.items():
        if strategy not in strategies:
            continue
        try:
            contender = make(data, strategy)
        except ImportError as error:
            print(f"{name} is not installed ({error.name})", flush=True)
            continue
        contender.round()
        contenders[name] = contender
        first = next(iter(contenders.values())).gradient
        assert first is not None
        assert contender.gradient is not None
        differences[name] = float((contender.gradient - first).norm() / first.norm())
        if (name, strategy) not in DIFFERENT and not differences[name] <= SAME:
            sys.exit(f"{strategy}: {name} differs by {differences[name]:.1e}")
    for contender in contenders.values():
        for _ in range(599):
            contender.round()
    accuracies = {name: c.accuracy() for name, c in contenders.items()}
    times = take_turns(contenders, repeats)
    return [
        {
            "name": name, "ms": 1e3 * statistics.median(t), "least": 1e3 * min(t),
            "spread": spread(t), "memory": memory(name, strategy, threads),
            "difference": differences[name], "accuracy": accuracies[name],
            "note": DIFFERENT.get((name, strategy), ""),
        }
        for name, t in times.items()
    ]  # fmt: skip


def memory(name: str, strategy: str, threads: int) -> float | None:
    """Peak MiB above torch and the data, in a fresh process."""
    command = [sys.executable, __file__, "--memory", strategy, name, "--threads", str(threads)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return float(found.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return None


def peak(strategy: str, name: str) -> float:
    data = digits()
    before = resident()
    contender = CONTENDERS[name][0](data, strategy)
    for _ in range(20):
        contender.round()
    return resident() - before


def table(strategy: str, rows: list[dict[str, Any]]) -> None:
    ours = next((r["ms"] for r in rows if r["name"] == "bettyc -O1"), rows[0]["ms"])
    print(f"\n{strategy}: milliseconds per iteration\n")
    print("| library | median | least | ± | times bettyc | MiB | difference | accuracy |")
    print("|---|---|---|---|---|---|---|---|")
    for r in rows:
        used = "–" if r["memory"] is None else f"{r['memory']:.0f}"
        print(
            f"| {r['name']} | {r['ms']:.2f} | {r['least']:.2f} | {r['spread']:.0%} |"
            f" {r['ms'] / ours:.2f} | {used} | {r['difference']:.1e} | {r['accuracy']:.4f} |"
        )
    for r in rows:
        if r["note"]:
            print(f"\n{r['name']}: {r['note']}.")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("strategies", nargs="*", default=list(STRATEGIES))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="a file for the figures as JSON")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(given.threads)
    if given.memory:
        print(peak(*given.memory))
        return
    data, found = digits(), {}
    for strategy in given.strategies:
        found[strategy] = compare(data, strategy, given.repeats, given.threads)
        table(strategy, found[strategy])
    if given.output:
        about = {"machine": machine(given.threads), "results": found}
        given.output.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
