"""The steps of a network's `forward`, by torch.fx, where following them once stands for calling it.

It does not where the network has buffers or hooks, where `forward` changes the module or draws
random numbers, or is not the same twice. Following leaves no trace in the module.
"""

from __future__ import annotations

import inspect
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from bettyc.runtime.modules import Network
from bettyc.runtime.network_steps import Untraceable

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def follow(network: Network) -> fx.Graph:
    """The steps of the network's `forward` in training. Raises Untraceable."""
    module = network.module
    if network.buffers or network.forgetful or network.compiled:
        raise Untraceable("it has buffers, is compiled, or does not keep its activations")
    for part in module.modules():
        if any(getattr(part, name, None) for name in HOOKS) or "forward" in vars(part):
            raise Untraceable("it has hooks")
    kinds = {p.kind for p in inspect.signature(module.forward).parameters.values()}
    if kinds - {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY}:
        raise Untraceable("its `forward` has parameters of other kinds than positional")
    with unchanged(module), _same_random_numbers():
        try:
            found, again = (fx.Tracer().trace(module) for _ in range(2))
        except Exception as error:
            # whatever a forward that is not made for it does with symbols in place of tensors
            raise Untraceable(f"{type(error).__name__}: {error}") from error
    if str(found) != str(again):
        raise Untraceable("its `forward` is not the same twice")
    return found


def attributes(module: nn.Module) -> list[dict[str, Any]]:
    """The plain values that its parts hold, as its `forward` may read them."""
    plain = (bool, int, float, str, type(None), list, dict, tuple, set)
    return [
        {
            k: v.copy() if isinstance(v, list | dict | set) else v
            for k, v in vars(part).items()
            if isinstance(v, plain) and not k.startswith("_") and k != "training"
        }
        for part in module.modules()
    ]


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """In training mode. What the module holds is put back; Untraceable where that was needed."""
    before = [(part, dict(vars(part)), part.training) for part in module.modules()]
    held = [(v, _entries(v)) for _, values, _ in before for v in values.values()]
    module.train(True)
    try:
        yield
    finally:
        changed = False
        for part, values, mode in before:
            part.training = mode
            now = vars(part)
            if list(now) != list(values) or any(now[k] is not v for k, v in values.items()):
                changed = True
                now.clear()
                now.update(values)
                part.training = mode
        for container, entries in held:
            if not _same(_entries(container), entries):
                changed = True
                container.clear()
                (container.update if isinstance(container, dict) else container.extend)(entries)
    if changed:
        raise Untraceable("its `forward` changes the module")


def _entries(value: Any) -> Any:
    """What a list or a dictionary holds."""
    return value.copy() if isinstance(value, list | dict) else ()


def _same(left: Any, right: Any) -> bool:
    """The same objects in the same places."""
    if len(left) != len(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and _same(list(left.values()), list(right.values()))
    return all(a is b for a, b in zip(left, right, strict=True))


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Raises Untraceable at the end where random numbers were drawn."""

    def state() -> tuple[Any, ...]:
        numpy = sys.modules.get("numpy")
        theirs = numpy and numpy.random.get_state(legacy=False)["state"]
        return random.getstate(), torch.get_rng_state().tolist(), repr(theirs)

    before = state()
    yield
    if state() != before:
        raise Untraceable("its `forward` draws random numbers")
