"""Activation checkpointing: parts of a network whose activations are not kept, but computed again
in the backward pass. Less memory, about a third more work, the same numbers.

Each part is one module of the network that the pattern of `recompute` names. Its parameters and
buffers are arguments of what is computed again, since networks here are functions of both; random
masks are drawn again from the generator's state of the first time; what it does to buffers the
second time is thrown away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint


def parts(module: nn.Module, patterns: Sequence[str]) -> list[nn.Module]:
    """The modules that are computed again: those that a pattern names, the outermost of them. `*`
    alone names the network's blocks: its children, and of lists and sequences theirs.
    """
    if not patterns:
        return []
    if tuple(patterns) == ("*",):
        return list(_blocks(module))
    found: list[nn.Module] = []
    inside: list[str] = []
    for name, part in module.named_modules():
        if not name or any(name.startswith(f"{outer}.") for outer in inside):
            continue
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            found.append(part)
            inside.append(name)
    return found


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            yield from _blocks(child)
        else:
            yield child


@contextmanager
def recomputing(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Inside, these modules keep their inputs instead of their activations."""
    for module in modules:
        module.forward = _forgetful(module, module.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def _attention() -> list[SDPBackend]:
    """The kernels of attention that are allowed here: the second time has to take the same."""
    allowed = torch.backends.cuda
    pairs = (
        (allowed.flash_sdp_enabled, SDPBackend.FLASH_ATTENTION),
        (allowed.mem_efficient_sdp_enabled, SDPBackend.EFFICIENT_ATTENTION),
        (allowed.math_sdp_enabled, SDPBackend.MATH),
        (allowed.cudnn_sdp_enabled, SDPBackend.CUDNN_ATTENTION),
    )
    return [backend for enabled, backend in pairs if enabled()]


def _forgetful(module: nn.Module, forward: Any) -> Any:
    """A forward that is evaluated by `checkpoint`."""

    def call(*inputs: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **named)
        state = dict(module.named_parameters())
        buffers = dict(module.named_buffers())
        before = {name: buffer.clone() for name, buffer in buffers.items()}
        first, kernels = True, _attention()

        def evaluate(state: dict[str, Tensor], *inputs: Any) -> Any:
            nonlocal first
            own = buffers if first else {name: b.clone() for name, b in before.items()}
            first = False
            outer, module.forward = module.__dict__.get("forward"), forward
            try:
                with sdpa_kernel(kernels):
                    return functional_call(module, {**state, **own}, inputs, named)
            finally:
                if outer is None:
                    del module.forward
                else:
                    module.forward = outer

        return checkpoint(evaluate, state, *inputs, use_reentrant=False)

    return call
