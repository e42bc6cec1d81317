"""Conjugate gradient on a logistic Hessian X^T D X / n + mu I, side by side, per iteration.

    python benchmarks/cg.py [--sizes 1000x100,10000x1000,10000x10000] [--rounds 7] [--tol 1e-6]

float32, all solvers to the same tolerance, one after the other in every round, medians over the
rounds. Each turn begins after a pause: threads of the last library may spin for some time, those of
OpenBLAS behind scipy for 20 ms, and would slow down whoever is next. Every answer is first checked
against a float64 one. A library that is not installed is named. Peers that take a product get the
analytic one in torch; scipy gets the same in numpy.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bettyc.kernels import dispatch
from bettyc.kernels.cg import cg
from bettyc.kernels.phi import Diagonal
from bettyc.kernels.xt_phi_x import Product

MU = 1e-2
PAUSE = 0.1  # seconds
Solver = Callable[[], Tensor]


@dataclass
class Problem:
    """A logistic Hessian at theta, and a right-hand side."""

    x: Tensor
    y: Tensor
    theta: Tensor
    b: Tensor
    tol: float
    products: int = 0
    weights: Tensor = field(init=False)

    def __post_init__(self) -> None:
        p = torch.sigmoid(self.x @ self.theta)
        self.weights = p * (1 - p)

    def analytic(self, v: Tensor) -> Tensor:
        """The Hessian-vector product in torch, two passes over X. v: (d,) or (d, 1)."""
        self.products += 1
        w = self.weights if v.dim() == 1 else self.weights[:, None]
        return self.x.T @ (w * (self.x @ v)) / len(self.x) + MU * v


def make(n: int, d: int, tol: float) -> Problem:
    """Columns of scales from 1 down to 0.03, as features have, so that CG takes tens of steps."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator) * torch.logspace(0, -1.5, d)
    theta = torch.randn(d, generator=generator) / d**0.5
    y = torch.bernoulli(torch.sigmoid(x @ theta), generator=generator)
    return Problem(x, y, theta, torch.randn(d, generator=generator), tol)


def ours(problem: Problem, method: str = "classic") -> Solver:
    """bettyc: one pass over X, fused updates."""

    def solve() -> Tensor:
        hessian = Product(
            problem.x, Diagonal(problem.weights), problem.b, scale=1 / len(problem.x), shift=MU
        )
        x, info = cg(hessian, problem.b, tol=problem.tol, method=method)
        problem.products += info.iterations
        return x

    return solve


def lean(problem: Problem, product: Callable[[Tensor], Tensor]) -> Tensor:
    """The textbook loop in torch."""
    b = problem.b
    x, r = torch.zeros_like(b), b.clone()
    p, rr = r, r @ r
    goal = problem.tol**2 * rr
    while rr > goal:
        q = product(p)
        alpha = rr / (p @ q)
        x, r = x + alpha * p, r - alpha * q
        rr, last = r @ r, rr
        p = r + rr / last * p
    return x


def double_backward(problem: Problem) -> Solver:
    """What a library without formulas does: the gradient's graph is differentiated again."""

    def solve() -> Tensor:
        theta = problem.theta.clone().requires_grad_()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(problem.x @ theta, problem.y)
        loss = loss + MU / 2 * (theta @ theta)
        (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)

        def product(v: Tensor) -> Tensor:
            problem.products += 1
            return torch.autograd.grad(gradient, theta, v, retain_graph=True)[0]

        return lean(problem, product)

    return solve


def hypertorch_style(problem: Problem) -> Solver:
    """The loop of hypertorch: lists of tensors, one dot product per tensor, norms for the test."""

    def dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
        return torch.stack([(x * y).sum(-1) for x, y in zip(a, b, strict=True)]).sum(-1)

    def solve() -> Tensor:
        b = [problem.b]
        x, r, p = [torch.zeros_like(t) for t in b], [t.clone() for t in b], [t.clone() for t in b]
        goal = problem.tol * float(dot(b, b).sqrt())
        while True:
            q = [problem.analytic(t) for t in p]
            rr = dot(r, r)
            alpha = rr / dot(p, q)
            x = [s + alpha * t for s, t in zip(x, p, strict=True)]
            r = [s - alpha * t for s, t in zip(r, q, strict=True)]
            after = dot(r, r)
            if float(after.sqrt()) <= goal:
                return x[0]
            p = [s + after / rr * t for s, t in zip(r, p, strict=True)]

    return solve


def torchopt(problem: Problem) -> Solver:
    linalg = importlib.import_module("torchopt.linalg")
    return lambda: linalg.cg(problem.analytic, problem.b, rtol=problem.tol, atol=0.0, maxiter=2000)


def linear_operator(problem: Problem) -> Solver:
    module = importlib.import_module("linear_operator.utils.linear_cg")
    limit = iterations(problem)  # it does not stop at this tolerance; eps: the default stalls
    return lambda: module.linear_cg(
        problem.analytic, problem.b[:, None], tolerance=problem.tol, eps=1e-30, max_iter=limit
    )[:, 0]


def cola(problem: Problem) -> Solver:
    module = importlib.import_module("cola")
    solver = importlib.import_module("cola.linalg.inverse.cg")
    d = len(problem.b)
    operator = module.ops.LinearOperator(torch.float32, (d, d), matmat=problem.analytic)
    operator = module.PSD(operator)
    return lambda: solver.cg(operator, problem.b[:, None], tol=problem.tol, max_iters=2000)[0][:, 0]


def scipy(problem: Problem) -> Solver:
    linalg = importlib.import_module("scipy.sparse.linalg")
    x, w, b = problem.x.numpy(), problem.weights.numpy(), problem.b.numpy()
    n, d = x.shape

    def product(v: object) -> object:
        problem.products += 1
        return x.T @ (w * (x @ v)) / n + MU * v

    operator = linalg.LinearOperator((d, d), matvec=product, dtype=x.dtype)
    return lambda: torch.from_numpy(linalg.cg(operator, b, rtol=problem.tol, atol=0.0)[0])


def iterations(problem: Problem) -> int:
    """How many the tolerance takes."""
    problem.products = 0
    lean(problem, problem.analytic)
    return problem.products


SOLVERS: dict[str, Callable[[Problem], Solver]] = {
    "bettyc": ours,
    "bettyc, single reduction": lambda problem: ours(problem, "single"),
    "torch, double backward": double_backward,
    "torch, analytic product": lambda problem: lambda: lean(problem, problem.analytic),
    "hypertorch-style": hypertorch_style,
    "TorchOpt": torchopt,
    "linear_operator": linear_operator,
    "CoLA": cola,
    "scipy": scipy,
}


def solvers(problem: Problem) -> tuple[dict[str, Solver], list[str]]:
    """Those that are installed, and the names of those that are not."""
    found, missing = {}, []
    for name, build in SOLVERS.items():
        try:
            found[name] = build(problem)
        except ImportError as error:
            missing.append(f"{name} ({error})")
    return found, missing


def check(problem: Problem, found: dict[str, Solver]) -> None:
    """Every solver reaches the tolerance, up to what float32 can: else its time means nothing."""
    x, w = problem.x.double(), problem.weights.double()
    for name, solve in found.items():
        u = solve().double()
        residual = x.T @ (w * (x @ u)) / len(x) + MU * u - problem.b.double()
        relative = float(residual.norm() / problem.b.double().norm())
        if not relative <= 20 * problem.tol:
            raise SystemExit(f"{name} leaves a relative residual of {relative:.1e}")


def measure(
    problem: Problem, found: dict[str, Solver], rounds: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds per iteration: medians and minima over the rounds."""
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, solve in found.items():
            time.sleep(PAUSE)
            problem.products, begin, runs = 0, time.perf_counter(), 0
            while runs == 0 or time.perf_counter() - begin < 0.02:
                solve()
                runs += 1
            times[name].append((time.perf_counter() - begin) / max(problem.products, 1))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return medians, {name: min(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1000x100,10000x1000,10000x10000")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tol", type=float, default=1e-6)
    options = parser.parse_args()
    way = dispatch.choose("cg_update", torch.device("cpu"), torch.float32)
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {threads} threads, bettyc: {way.way} ({way.why})")
    for size in options.sizes.split(","):
        n, d = map(int, size.split("x"))
        problem = make(n, d, options.tol)
        found, missing = solvers(problem)
        check(problem, found)
        medians, minima = measure(problem, found, options.rounds)
        print(f"\nn = {n}, d = {d}, {iterations(problem)} iterations, ms per iteration")
        print(f"  {'':26s} {'median':>9s} {'/ bettyc':>9s} {'minimum':>9s} {'/ bettyc':>9s}")
        for name in medians:
            columns = (
                f"{1e3 * t[name]:9.4f} {t[name] / t['bettyc']:9.2f}" for t in (medians, minima)
            )
            print(f"  {name:26s} {' '.join(columns)}")
        for title, seconds in (("medians", medians), ("minima", minima)):
            best = min(v for k, v in seconds.items() if not k.startswith(("bettyc", "scipy")))
            print(f"  {title}: best torch CG / bettyc {best / seconds['bettyc']:.2f}", end="")
            print(
                f", scipy / bettyc {seconds['scipy'] / seconds['bettyc']:.2f}"
                if "scipy" in seconds
                else ""
            )
        if missing:
            print(f"  not installed: {', '.join(missing)}")


if __name__ == "__main__":
    main()
