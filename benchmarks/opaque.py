"""Hessian products through networks that autograd differentiates: a retained double backward
against `torch.func.linearize` of the gradient.

    python benchmarks/opaque.py [--threads 2]

One product of each, what each needs once per point, and the number of products after which
linearize would have repaid that; they are compared with each other first.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, linearize
from torch.nn.attention import SDPBackend, sdpa_kernel

SAME = 1e-4  # relative difference, float32


def mlp() -> tuple[nn.Module, Tensor]:
    layers = (nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    return nn.Sequential(*layers), torch.randn(100, 64)


def convolutions(norm: Callable[[int], nn.Module]) -> tuple[nn.Module, Tensor]:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), norm(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), norm(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    ), torch.randn(64, 1, 16, 16)  # fmt: skip


def attention() -> tuple[nn.Module, Tensor]:
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(320, 10)), torch.randn(16, 10, 32)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "mlp(64, 256, 256, 10)": mlp,
    "convolutions": lambda: convolutions(lambda channels: nn.Identity()),
    "convolutions, batch norm": lambda: convolutions(nn.BatchNorm2d),
    "attention": attention,
}


def milliseconds(f: Callable[[], object], repeats: int) -> float:
    """The least of five turns: other work on the machine only adds to it."""
    f()
    turns = []
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(repeats):
            f()
        turns.append((time.perf_counter() - begun) / repeats)
    return 1e3 * min(turns)


def measured(name: str) -> tuple[float, float, float, float]:
    """Milliseconds: a point and a product, of a double backward and of linearize."""
    torch.manual_seed(0)
    net, x = NETWORKS[name]()
    y = torch.randint(0, 10, (len(x),))
    names, parameters = zip(*net.named_parameters(), strict=True)
    shapes = [p.shape for p in parameters]
    flat = torch.cat([p.detach().reshape(-1) for p in parameters])

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([s.numel() for s in shapes])
        own = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        own |= {n: b.clone() for n, b in net.named_buffers()}
        with sdpa_kernel(SDPBackend.MATH):
            return nn.functional.cross_entropy(functional_call(net, own, (x,)), y)

    leaf, v = flat.clone().requires_grad_(), torch.randn_like(flat)

    def slope() -> Tensor:
        return torch.autograd.grad(loss(leaf), leaf, create_graph=True)[0]

    kept = slope()
    _, product = linearize(grad(loss), flat)

    def backward() -> Tensor:
        return torch.autograd.grad(kept, leaf, v, retain_graph=True)[0]

    difference = float((backward() - product(v)).norm() / backward().norm())
    if not difference <= SAME:
        sys.exit(f"{name}: the products differ by {difference:.1e}")
    return (
        milliseconds(slope, 10),
        milliseconds(backward, 20),
        milliseconds(lambda: linearize(grad(loss), flat), 1),
        milliseconds(lambda: product(v), 20),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")
    print("| network | double backward: point | product | linearize: point | product | repaid |")
    print("|---|---|---|---|---|---|")
    for name in NETWORKS:
        point, product, other_point, other_product = measured(name)
        saved = product - other_product
        repaid = f"{(other_point - point) / saved:.0f} products" if saved > 0 else "never"
        print(
            f"| {name} | {point:.2f} ms | {product:.2f} ms | {other_point:.0f} ms |"
            f" {other_product:.2f} ms | {repaid} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
