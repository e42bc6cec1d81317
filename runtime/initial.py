"""Initial values of variables, by the names of `bettyc.ops.initial`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bettyc.model import Call, Value
from bettyc.ops.initial import INITIAL
from bettyc.runtime.domains import free
from bettyc.runtime.seeds import generator


def initial(value: Value, shape: tuple[int, ...], domain: Call | None, *seed: int | str) -> Tensor:
    """The free tensor that a variable starts from, double precision, on the CPU.

    value: a number, nested lists of numbers, or a call such as `gaussian(std = 0.1)`; None is the
    middle of the domain. seed: names the draw, for random ones. Raises ValueError outside the
    domain.
    """
    if value is None:
        return _middle(domain, shape)
    if not isinstance(value, Call):
        return free(domain, torch.tensor(value, dtype=torch.float64).expand(shape).clone())
    options = _options(value)
    if not INITIAL[value.name].random:
        return free(domain, _fixed(value.name, options, shape))
    return free(domain, _random(value.name, options, shape, generator(*seed)))


def _options(call: Call) -> dict[str, Value]:
    parameters = INITIAL[call.name].parameters
    found: dict[str, Value] = {p.name: p.default for p in parameters}
    found.update(zip(found, call.positional, strict=False))
    return {**found, **dict(call.named)}


def _middle(domain: Call | None, shape: tuple[int, ...]) -> Tensor:
    if domain is not None and domain.name == "simplex":
        return torch.zeros((*shape[:-1], shape[-1] - 1), dtype=torch.float64)
    return torch.zeros(shape, dtype=torch.float64)


def _fixed(name: str, options: dict[str, Value], shape: tuple[int, ...]) -> Tensor:
    if name == "eye":
        return torch.eye(*shape, dtype=torch.float64)
    number = {"zeros": 0.0, "ones": 1.0}.get(name, options.get("value"))
    return torch.full(shape, float(number), dtype=torch.float64)  # type: ignore[arg-type]


def _random(
    name: str, options: dict[str, Value], shape: tuple[int, ...], g: torch.Generator
) -> Tensor:
    number = {k: float(v) for k, v in options.items()}  # type: ignore[arg-type]
    if name in ("gaussian", "kaiming"):
        std = number.get("std", 0.0)
        if name == "kaiming":
            std = math.sqrt(2 / ((1 + number["slope"] ** 2) * fans(shape)[0]))
        return number.get("mean", 0.0) + std * torch.randn(shape, generator=g, dtype=torch.float64)
    low, high = number.get("low", 0.0), number.get("high", 0.0)
    if name == "xavier":
        high = number["gain"] * math.sqrt(6 / sum(fans(shape)))
        low = -high
    return low + (high - low) * torch.rand(shape, generator=g, dtype=torch.float64)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Fan in and fan out as torch counts them: axis 1 in, axis 0 out, times the kernel; a vector
    is both.
    """
    if len(shape) < 2:
        size = math.prod(shape)
        return size, size
    kernel = math.prod(shape[2:])
    return shape[1] * kernel, shape[0] * kernel
