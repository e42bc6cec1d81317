"""Check and time the GPU kernels in one call; the table comes last.

    python benchmarks/gpu.py                 on a GPU
    python benchmarks/gpu.py --interpret     at small sizes in Triton's interpreter, without a GPU:
                                             shows that the script runs; its times say nothing

Every operation is first compared with its torch reference in float64; a wrong one is not timed.
GB/s are the bytes of the operation's docstring over the median time; `of copy` is that over the
speed of a copy of 1 GiB measured in the same run. Rivals: the reference in eager torch, the same
under torch.compile, and for whole solves the textbook loop in torch, linear_operator (GPyTorch) and
CoLA where installed. Work in CUDA graphs (gpu_periods.py) is compared with the same without them.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from gpu_periods import Period, programs, solve
from torch import Tensor

from bettyc.kernels import cg_batched, cg_small, cg_update, dispatch
from bettyc.kernels import optimizer_step as optimizer
from bettyc.kernels.cg import cg
from bettyc.kernels.neumann_update import neumann_update
from bettyc.kernels.perturb import perturb
from bettyc.kernels.phi import Diagonal, Phi, Softmax
from bettyc.kernels.weighted_loss import weighted_loss
from bettyc.kernels.xt_phi_x import Product, xt_phi_x

Call = Callable[[], object]


@dataclass(frozen=True)
class Bench:
    """One row: the kernel, the bytes it has to move (0: compare times only), and its rivals."""

    name: str
    bytes: int
    kernel: Call
    rivals: dict[str, Call]


@dataclass(frozen=True)
class Setting:
    """Where and how large. compile: whether torch.compile is a rival."""

    device: str
    vector: int
    rows: tuple[tuple[int, int], ...]
    small: tuple[int, ...]
    systems: int
    solve: int
    program: tuple[int, int, int]  # rows, columns, steps of the lower level
    mode: str
    compile: bool


GPU = Setting(
    "cuda",
    1 << 27,
    ((100_000, 1_000), (1_000_000, 128), (10_000, 10_000), (20_000, 8_192)),
    (64, 128, 512, 1024),
    132,
    1_000_000,
    (10_000, 1_000, 100),
    "triton",
    True,
)
INTERPRETED = Setting(
    "cpu", 1 << 11, ((100, 30), (50, 60)), (16, 130), 2, 300, (30, 4, 3), "interpret", False
)


def seconds(call: Call, device: str, rounds: int = 7) -> float:
    """Median time of a call; on a GPU between events, enough calls at once to fill 5 ms."""
    call()
    if device == "cpu":
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin
    torch.cuda.synchronize()
    begin = time.perf_counter()
    call()
    torch.cuda.synchronize()
    calls = max(1, min(200, int(5e-3 / (time.perf_counter() - begin))))
    found = []
    for _ in range(rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(calls):
            call()
        end.record()
        torch.cuda.synchronize()
        found.append(start.elapsed_time(end) / 1e3 / calls)
    return statistics.median(found)


def agree(name: str, got: Tensor, want: Tensor, bound: float = 1e-4) -> None:
    """Stop the script where a kernel is wrong."""
    error = float((got.double() - want.double()).norm() / want.double().norm().clamp(min=1e-300))
    if not error <= bound:
        raise SystemExit(f"{name}: relative error {error:.1e} against the reference")


def compiled(setting: Setting, function: Callable[..., object]) -> dict[str, Callable[..., object]]:
    """The function as it is, and under torch.compile."""
    found = {"eager": function}
    return found | {"compile": torch.compile(function)} if setting.compile else found


def vectors(setting: Setting) -> list[Bench]:
    """Neumann, perturbation, optimizers, CG's update."""
    n, device = setting.vector, setting.device
    a, b, c = (torch.randn(n, device=device) for _ in range(3))

    def neumann(v: Tensor, total: Tensor, q: Tensor) -> None:
        v.sub_(0.1 * q)
        total.add_(v)

    u, t = a.clone(), b.clone()
    neumann_update(u, t, c, 0.1)
    agree("neumann_update", t, b.double() + a.double() - 0.1 * c.double())
    rows = [
        Bench(
            "neumann_update",
            20 * n,
            lambda: neumann_update(a, b, c, 1e-9),
            {k: lambda f=f: f(a, b, c) for k, f in compiled(setting, neumann).items()},
        )
    ]
    plus, minus, step = perturb(a, c, 0.01)
    agree("perturb", plus - minus, 2 * step * c.double(), 1e-1)

    def both(theta: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        shift = 0.01 / v.norm() * v
        return theta + shift, theta - shift

    rows.append(
        Bench(
            "perturb",
            20 * n,
            lambda: perturb(a, c, 0.01, out=(plus, minus)),
            {k: lambda f=f: f(a, c) for k, f in compiled(setting, both).items()},
        )
    )
    return [*rows, optimizers(setting, a, b), update(setting, a, b)]


def optimizers(setting: Setting, a: Tensor, grad: Tensor) -> Bench:
    """adamw on the flat buffer."""
    options = optimizer.Options("adamw", weight_decay=0.01)
    theta = a.clone()
    state = optimizer.start(theta, options)
    optimizer.optimizer_step(theta, grad, state, 0.1, options)
    parameter = torch.nn.Parameter(a.clone())
    parameter.grad = grad.clone()
    fused = torch.optim.AdamW([parameter], 0.1, weight_decay=0.01, fused=setting.device == "cuda")
    fused.step()
    agree("adamw", theta, parameter.detach())
    return Bench(
        "adamw",
        28 * len(a),
        lambda: optimizer.optimizer_step(theta, grad, state, 1e-9, options),
        {"torch fused": fused.step},
    )


def update(setting: Setting, x: Tensor, r: Tensor) -> Bench:
    """A CG step with the product of a diagonal matrix, against the lines of the textbook. The
    spectrum is wide, so that no number of steps ends the solve.
    """
    h = torch.logspace(0, 6, len(x), device=x.device)
    goal = torch.zeros((), dtype=torch.float64, device=x.device)
    solve = cg_update.start(x.clone(), r.clone(), goal, 1)
    q = torch.mul(h, solve.p)
    cg_update.cg_update(solve, q, 0)
    alpha = r.double().square().sum() / (r.double() * q.double()).sum()
    agree("cg_update", solve.x, x.double() + alpha * r.double())
    agree("cg_update", solve.r, r.double() - alpha * q.double())

    def kernel() -> None:
        cg_update.cg_update(solve, torch.mul(h, solve.p, out=q), 0)

    def lines(x: Tensor, r: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q = h * p
        before = r @ r
        alpha = before / (p @ q)
        x = x + alpha * p
        r = r - alpha * q
        return x, r, r + (r @ r) / before * p

    rivals = {k: lambda f=f: f(x, r, r) for k, f in compiled(setting, lines).items()}
    return Bench("cg_update and a diagonal product", 52 * len(x), kernel, rivals)


def products(setting: Setting) -> list[Bench]:
    """X^T phi(X v) for a vector and for ten classes."""
    rows = []
    for n, d in setting.rows:
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(n, d, device=setting.device).to(dtype)
            w = torch.rand(n, device=setting.device)
            rows.append(product(setting, x, torch.randn(d, device=setting.device), Diagonal(w)))
    n, d = setting.rows[0]
    x = torch.randn(n, d, device=setting.device)
    p = torch.softmax(torch.randn(n, 10, device=setting.device), 1)
    return [*rows, product(setting, x, torch.randn(d, 10, device=setting.device), Softmax(p))]


def product(setting: Setting, x: Tensor, v: Tensor, phi: Phi) -> Bench:
    """One shape of X^T phi(X v)."""
    with dispatch.use("torch"):
        some = slice(0, 2000)  # the check needs no more rows
        part = type(phi)(*(None if t is None else t[some].double() for t in vars(phi).values()))
        want = xt_phi_x(x[some].double(), v.double(), part)
    part = type(phi)(*(None if t is None else t[some] for t in vars(phi).values()))
    name = f"X^T phi(X v) {type(phi).__name__} {tuple(x.shape)} {str(x.dtype)[6:]}"
    agree(name, xt_phi_x(x[some], v, part), want)
    hessian = Product(x, phi, v)

    def reference(x: Tensor, v: Tensor) -> Tensor:
        z = x @ v.to(x.dtype)
        if isinstance(phi, Diagonal):
            return x.T @ (phi.weights.to(x.dtype) * z)
        assert isinstance(phi, Softmax)
        return x.T @ (phi.probs * (z - (phi.probs * z).sum(1, keepdim=True)))

    rivals = {k: lambda f=f: f(x, v) for k, f in compiled(setting, reference).items()}
    return Bench(name, x.numel() * x.element_size(), lambda: hessian(v), rivals)


def losses(setting: Setting) -> list[Bench]:
    """Weighted cross-entropy with its derivative."""
    n, k = max(setting.vector // 64, 8), 16
    z, w = torch.randn(n, k, device=setting.device), torch.rand(n, device=setting.device)
    y = torch.arange(n, device=setting.device) % k

    def autograd() -> Tensor:
        at = z.detach().requires_grad_()
        loss = (w * torch.nn.functional.cross_entropy(at, y, reduction="none")).mean()
        return torch.autograd.grad(loss, at)[0]

    agree("weighted_loss", weighted_loss("xent", z, y, w, 1 / n)[1], autograd())
    call = lambda: weighted_loss("xent", z, y, w, 1 / n)  # noqa: E731
    return [Bench("weighted_loss xent 16", 8 * n * k + 16 * n, call, {"autograd": autograd})]


def eager_cg(product: Callable[[Tensor], Tensor], b: Tensor, steps: int) -> Tensor:
    """The textbook loop in torch, a fixed number of steps, nothing read back."""
    x, r = torch.zeros_like(b), b.clone()
    p, rr = r, (r * r).sum(-1, keepdim=True)
    for _ in range(steps):
        q = product(p)
        alpha = rr / (p * q).sum(-1, keepdim=True)
        x, r = x + alpha * p, r - alpha * q
        rr, last = (r * r).sum(-1, keepdim=True), rr
        p = r + rr / last * p
    return x


def solves(setting: Setting) -> list[Bench]:
    """50 steps on a diagonal matrix of many variables; whole solves of small dense systems."""
    n, steps, device = setting.solve, 50, setting.device
    h = torch.linspace(1, 100, n, device=device)
    b = torch.randn(n, device=device)
    agree("cg", cg(lambda p: h * p, b, tol=1e-5, max_iters=200)[0], b.double() / h.double())
    peers = libraries(lambda p: h[:, None] * p, b, steps)
    rows = [
        Bench(
            f"cg, {steps} steps, n = {n}",
            0,
            lambda: cg(lambda p: h * p, b, tol=0.0, max_iters=steps),
            {"eager": lambda: eager_cg(lambda p: h * p, b, steps)} | peers,
        )
    ]
    for d in setting.small:
        rows += small(setting, d)
    return rows


def small(setting: Setting, d: int) -> list[Bench]:
    """A batch of dense systems, 20 steps: in one launch, and with one per step and product."""
    m, steps = setting.systems, 20
    q, _ = torch.linalg.qr(torch.randn(m, d, d, device=setting.device))
    a = (q @ (torch.linspace(1, 10, d, device=setting.device)[:, None] * q.mT)).contiguous()
    b = torch.randn(m, d, device=setting.device)

    def matvec(p: Tensor) -> Tensor:
        return torch.bmm(a, p[:, :, None])[:, :, 0]

    want = torch.linalg.solve(a.double(), b.double()[:, :, None])[:, :, 0]
    agree(f"cg_small {d}", cg_small.cg_small(a, b, tol=1e-5)[0], want, 1e-3)
    agree(f"cg_batched {d}", cg_batched.cg_batched(matvec, b, tol=1e-5)[0], want, 1e-3)
    eager = {"eager": lambda: eager_cg(matvec, b, steps)}
    one = a[:1].contiguous(), b[:1].contiguous()
    alone = {"eager": lambda: eager_cg(lambda p: p @ a[0], b[:1], steps)}
    return [
        Bench(
            f"cg_small {m} x {d}",
            0,
            lambda: cg_small.cg_small(a, b, tol=0.0, max_iters=steps),
            eager,
        ),
        Bench(
            f"cg_small 1 x {d}", 0, lambda: cg_small.cg_small(*one, tol=0.0, max_iters=steps), alone
        ),
        Bench(
            f"cg_batched {m} x {d}",
            0,
            lambda: cg_batched.cg_batched(matvec, b, tol=0.0, max_iters=steps),
            eager,
        ),
    ]


def periods(setting: Setting) -> list[Bench]:
    """The same solves, and whole updates of a program, recorded in CUDA graphs."""
    n, steps, device = setting.solve, 50, setting.device
    h = torch.linspace(1, 100, n, device=device)
    b = torch.randn(n, device=device)
    eager = {"eager": lambda: eager_cg(lambda p: h * p, b, steps)}
    rows = [solve(f"cg, {steps} steps, n = {n},", lambda p: h * p, b, steps, eager)]
    for d in setting.small:
        q, _ = torch.linalg.qr(torch.randn(d, d, device=device))
        rows.append(_alone(q @ (torch.linspace(1, 10, d, device=device)[:, None] * q.T), 20))
    found = []
    for row in (*rows, *programs(device, *setting.program)):
        agree(row.name, row.got, row.want, 1e-3)
        found.append(Bench(row.name, 0, row.recorded, row.rivals))
    return found


def _alone(a: Tensor, steps: int) -> Period:
    """One small dense system."""
    b = torch.randn(len(a), device=a.device)
    eager = {"eager": lambda: eager_cg(lambda p: a @ p, b, steps)}
    return solve(f"cg, {steps} steps, {len(a)} x {len(a)},", lambda p: a @ p, b, steps, eager)


def libraries(matmul: Callable[[Tensor], Tensor], b: Tensor, steps: int) -> dict[str, Call]:
    """Public torch CGs, where installed."""
    found: dict[str, Call] = {}
    try:
        gpytorch = importlib.import_module("linear_operator.utils.linear_cg")
        found["linear_operator"] = lambda: gpytorch.linear_cg(
            matmul, b[:, None], tolerance=0.0, eps=1e-30, max_iter=steps
        )
    except ImportError as error:
        print(f"not installed: linear_operator ({error})")
    try:
        ops = importlib.import_module("cola").ops
        solver = importlib.import_module("cola.linalg.inverse.cg")
        operator = ops.LinearOperator(b.dtype, (len(b), len(b)), matmat=matmul)
        found["CoLA"] = lambda: solver.cg(operator, b[:, None], tol=0.0, max_iters=steps)
    except ImportError as error:
        print(f"not installed: CoLA ({error})")
    return found


def copy_speed(setting: Setting) -> float:
    """Bytes per second of a copy, read and written counted."""
    size = (1 << 28) if setting.device == "cuda" else setting.vector
    source = torch.zeros(size, device=setting.device)
    target = torch.empty_like(source)
    return 8 * size / seconds(lambda: target.copy_(source), setting.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interpret", action="store_true", help="small sizes, without a GPU")
    setting = INTERPRETED if parser.parse_args().interpret else GPU
    if setting is INTERPRETED:
        os.environ["TRITON_INTERPRET"] = "1"
    elif not torch.cuda.is_available():
        raise SystemExit("no CUDA device; --interpret runs the script at small sizes without one")
    torch.manual_seed(0)
    where = torch.cuda.get_device_name() if setting.device == "cuda" else "the interpreter"
    lines = []
    with dispatch.use(setting.mode):
        copy = copy_speed(setting)
        for group in (vectors, products, losses, solves, periods):
            for bench in group(setting):
                lines.append(row(bench, setting, copy))
                print(lines[-1], flush=True)
    date = time.strftime("%Y-%m-%d")
    print(f"\n{date}, {where}, torch {torch.__version__}, copy {copy / 1e9:.0f} GB/s")
    print(f"{'':58s} {'us':>9s} {'GB/s':>6s} {'of copy':>8s}  rivals, in times of the kernel")
    print("\n".join(lines))


def row(bench: Bench, setting: Setting, copy: float) -> str:
    """One line of the table."""
    own = seconds(bench.kernel, setting.device)
    speed, share = "", ""
    if bench.bytes:
        speed = f"{bench.bytes / own / 1e9:.0f}"
        share = f"{100 * bench.bytes / own / copy:.0f} %"
    rivals = {k: seconds(c, setting.device) / own for k, c in bench.rivals.items()}
    told = ", ".join(f"{k} {v:.2f}" for k, v in rivals.items())
    return f"{bench.name:58s} {1e6 * own:9.1f} {speed:>6s} {share:>8s}  {told}"


if __name__ == "__main__":
    main()
