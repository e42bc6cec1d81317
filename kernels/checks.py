"""What every launcher asks of its operands. All errors are ValueErrors that give the value seen."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


def operands(op: str, **tensors: Tensor) -> None:
    """Dense, contiguous, on one device, and not about to be differentiated through."""
    first: Tensor | None = None
    for name, tensor in tensors.items():
        if first is None:
            first = tensor
        if tensor.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{op}: `{name}` requires grad, and this kernel has no derivative")
        if tensor.layout != torch.strided or not tensor.is_contiguous():
            raise ValueError(f"{op}: `{name}` is not contiguous; strides {_strides(tensor)}")
        if tensor.device != first.device:
            raise ValueError(f"{op}: `{name}` is on {tensor.device}, not on {first.device}")


def vectors(op: str, **tensors: Tensor) -> None:
    """Operands of one shape and one floating dtype."""
    operands(op, **tensors)
    first: Tensor | None = None
    for name, tensor in tensors.items():
        if first is None:
            first = tensor
            if not tensor.is_floating_point():
                raise ValueError(f"{op}: `{name}` is {tensor.dtype}, not floating")
        elif tensor.shape != first.shape:
            raise ValueError(
                f"{op}: `{name}` has shape {tuple(tensor.shape)}, not {tuple(first.shape)}"
            )
        elif tensor.dtype != first.dtype:
            raise ValueError(f"{op}: `{name}` is {tensor.dtype}, not {first.dtype}")


def apart(op: str, **tensors: Tensor) -> None:
    """Operands of which none shares memory with another: for kernels that write some of them."""
    spans = sorted(
        (t.data_ptr(), t.data_ptr() + t.numel() * t.element_size(), n) for n, t in tensors.items()
    )
    for (_, end, name), (begin, _, other) in pairwise(spans):
        if begin < end:
            raise ValueError(f"{op}: `{name}` and `{other}` share memory")


def shape(op: str, name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    """The shape is as expected."""
    if tuple(tensor.shape) != expected:
        raise ValueError(f"{op}: `{name}` has shape {tuple(tensor.shape)}, not {expected}")


def _strides(tensor: Tensor) -> tuple[int, ...] | str:
    return tensor.stride() if tensor.layout == torch.strided else str(tensor.layout)
