r"""Domains of variables: four are reparametrisations of a free tensor u, two are projections.

    positive         exp(u)
    unit             1 / (1 + exp(-u))
    interval(a, b)   a + (b - a) * unit(u)
    simplex          softmax(V u)    V: an orthonormal basis of the vectors that add up to zero
    ball(p, r)       the nearest point with norm at most r, for p = 1, 2, inf
    box(a, b)        each entry clipped to [a, b]

A simplex of k entries has k - 1 free ones (isometric log-ratio coordinates, Egozcue et al. 2003),
so that the Hessian is not singular where the objective's is not; gradient steps on u are those on
the k logits. Reparametrisations act on the last axis or entry by entry and are smooth;
projections are applied after each update.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bettyc.model import Call

TRANSFORMED = frozenset({"positive", "unit", "interval", "simplex"})
PROJECTED = frozenset({"ball", "box"})


def free_shape(domain: Call | None, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the free tensor behind a variable of `shape`."""
    if domain is not None and domain.name == "simplex":
        return (*shape[:-1], shape[-1] - 1)
    return shape


def value_text(domain: Call | None, free: str) -> str:
    """How emitted code writes the variable, given the text of its free tensor."""
    if domain is None or domain.name in PROJECTED:
        return free
    if domain.name == "interval":
        low, high = bounds(domain)
        return f"interval({free}, {low!r}, {high!r})"
    return f"{domain.name}({free})"


def bounds(domain: Call) -> tuple[float, float]:
    """The two numbers of `interval(a, b)` and `box(a, b)`; p and r of a ball."""
    values = [*domain.positional, *(v for _, v in domain.named)]
    first, second = (float("inf") if v == Call("inf") else float(v) for v in values)  # type: ignore[arg-type]
    return first, second


def positive(u: Tensor) -> Tensor:
    return torch.exp(u)


def unit(u: Tensor) -> Tensor:
    return torch.sigmoid(u)


def interval(u: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.sigmoid(u)


def simplex(u: Tensor) -> Tensor:
    """u of shape (..., k - 1) to weights of shape (..., k) that are positive and add up to one."""
    return torch.softmax(sum_to_zero(u), -1)


def sum_to_zero(u: Tensor) -> Tensor:
    """V u, with the columns of V proportional to (1, .., 1, -n, 0, .., 0) for n ones."""
    n = torch.arange(1, u.shape[-1] + 1, dtype=u.dtype, device=u.device)
    w = u / torch.sqrt(n * (n + 1))
    zero = torch.zeros_like(u[..., :1]) if u.shape[-1] else u.new_zeros((*u.shape[:-1], 1))
    tails = torch.flip(torch.cumsum(torch.flip(w, (-1,)), -1), (-1,))
    return torch.cat([tails, zero], -1) - torch.cat([zero, n * w], -1)


def free(domain: Call | None, value: Tensor) -> Tensor:
    """The free tensor whose value this is. Raises ValueError where there is none."""
    if domain is None or domain.name in PROJECTED:
        return value
    if domain.name == "positive":
        inside = value > 0
        u = torch.log(value)
    elif domain.name == "simplex":
        inside = (value > 0) & torch.isclose(value.sum(-1, keepdim=True), value.new_ones(()))
        u = _coordinates(torch.log(value))
    else:
        low, high = bounds(domain) if domain.name == "interval" else (0.0, 1.0)
        inside = (value > low) & (value < high)
        u = torch.logit((value - low) / (high - low))
    if not bool(inside.all()):
        raise ValueError(
            f"initial value {value[~inside].flatten()[0].item():g} is outside `{domain.name}`"
        )
    return u


def _coordinates(z: Tensor) -> Tensor:
    """V^T z, for logits z of shape (..., k)."""
    n = torch.arange(1, z.shape[-1], dtype=z.dtype, device=z.device)
    return (torch.cumsum(z, -1)[..., :-1] - n * z[..., 1:]) / torch.sqrt(n * (n + 1))


def project(domain: Call, x: Tensor) -> Tensor:
    """The nearest point of a ball or a box to x, a whole variable."""
    first, second = bounds(domain)
    if domain.name == "box":
        return x.clamp(first, second)
    if first == float("inf"):
        return x.clamp(-second, second)
    if first == 2.0:
        norm = torch.linalg.vector_norm(x)
        return x * torch.where(
            norm > second,
            second / norm.clamp(min=1e-300 if x.dtype == torch.float64 else 1e-30),
            1.0,
        )
    return _project_l1(x, second)


def _project_l1(x: Tensor, radius: float) -> Tensor:
    """Onto the 1-norm ball (Duchi et al., ICML 2008): soft thresholding."""
    size = x.abs().flatten()
    if bool(size.sum() <= radius):
        return x
    ordered = torch.sort(size, descending=True).values
    count = torch.arange(1, len(ordered) + 1, dtype=x.dtype, device=x.device)
    levels = (torch.cumsum(ordered, 0) - radius) / count
    last = int((ordered > levels).nonzero()[-1])
    return torch.sign(x) * (x.abs() - levels[last]).clamp(min=0)
