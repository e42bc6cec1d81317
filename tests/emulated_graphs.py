"""A stand-in for CUDA graphs on the CPU, as strict as they are.

While work is recorded every operator is written down with the tensors that it was given and gave.
What CUDA refuses is refused: reading a value on the host, shapes that depend on values, tensors
made from Python's numbers, random numbers outside of a registered generator. Nothing of what was
computed is there afterwards, as nothing is computed when CUDA records: memory from before is put
back, memory made meanwhile holds NaN. A launch runs the operators again, in the same memory.

Not covered: kernels (only torch's operators are seen), streams, errors of the driver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from bettyc.kernels import capture
from bettyc.runtime.graphs import Recorded, Work

# Operators that wait for the device, or whose result has a shape that only the device knows.
WAITING = {
    "_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2",
    "unique_dim", "unique_consecutive", "bincount", "repeat_interleave", "_linalg_check_errors",
    "_linalg_eigh", "_linalg_svd", "linalg_lstsq", "linalg_eig", "allclose",
}  # fmt: skip
READING = {"item", "tolist", "numpy", "cpu", "__float__", "__int__", "__bool__", "__index__"}
MAKING = {"tensor", "as_tensor", "from_numpy"}


class NotPermitted(RuntimeError):
    """CUDA: operation not permitted when stream is capturing."""


class Host(TorchFunctionMode):
    """Refuses what reaches the host, or comes from there, without an operator of its own."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name in READING:
            raise NotPermitted(f"`{name}` waits for the device")
        value = args[0] if args else kwargs.get("data")
        # a number without a device stays with the host, and is an argument of a kernel
        stays = kwargs.get("device") is None and isinstance(value, bool | int | float)
        if name in MAKING and not isinstance(value, Tensor) and not stays:
            raise NotPermitted(f"`{name}` copies to the device")
        if func is torch.nn.functional.one_hot:
            return _one_hot(*args, **kwargs)
        return func(*args, **kwargs)


def _one_hot(labels: Tensor, classes: int) -> Tensor:
    """As torch does it on a GPU: without a look at the largest label, which it takes on a CPU."""
    return (labels.unsqueeze(-1) == torch.arange(classes)).long()


class Tape(TorchDispatchMode):
    """The operators of one recording."""

    def __init__(self, draws: int) -> None:
        super().__init__()
        self.steps: list[tuple[Any, ...]] = []
        self.draws = draws
        self.drawing = False
        self._before: dict[int, tuple[Any, Tensor]] = {}
        self._made: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._refuse(func, args)
        given = {_place(t): t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        if func._schema.is_mutable:
            for place, t in given.items():
                if place not in self._made and place not in self._before:
                    self._before[place] = t.untyped_storage(), _bytes(t).clone()
        out = func(*args, **kwargs)
        fresh = [t for t in tree_leaves(out) if isinstance(t, Tensor) and _place(t) not in given]
        self._made |= {_place(t): t.untyped_storage() for t in fresh}
        if func._schema.is_mutable or fresh:
            # shapes as they are now: `squeeze_` and its like change them later
            step = tree_map_only(Tensor, Tensor.detach, (args, kwargs, out))
            self.steps.append(("run", func, *step, {_place(t) for t in fresh}))
        return out

    def _refuse(self, func: Any, args: Any) -> None:
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        if func._schema.name.removeprefix("aten::") in WAITING or name in WAITING:
            raise NotPermitted(f"`{name}` waits for the device")
        if torch.Tag.nondeterministic_seeded in func.tags and not self.drawing:
            raise NotPermitted(f"`{name}` draws from a generator that is not registered")
        if name in ("index", "index_put") and any(
            isinstance(t, Tensor) and t.dtype in (torch.bool, torch.uint8) for t in args[1]
        ):
            raise NotPermitted(f"`{name}` by a mask waits for the device")

    @contextmanager
    def drawn(self, number: int, seed: int) -> Iterator[None]:
        """Random numbers from registered generator `number`."""
        if number >= self.draws:
            raise NotPermitted("generator is not registered")
        self.steps.append(("seed", number))
        self.drawing = True
        with _seeded(seed):
            yield
        self.drawing = False
        self.steps.append(("unseed",))

    def forget(self) -> None:
        """Leave the memory as a recording leaves it."""
        for storage, held in self._before.values():
            _raw(storage).copy_(held)
        for storage in self._made.values():
            _raw(storage).fill_(255)

    def launch(self, seeds: Sequence[int]) -> None:
        before = torch.get_rng_state()
        for kind, *rest in self.steps:
            if kind == "seed":
                torch.default_generator.manual_seed(seeds[rest[0]])
            elif kind == "unseed":
                torch.set_rng_state(before)
            else:
                _again(*rest)


def _again(func: Any, args: Any, kwargs: Any, out: Any, fresh: set[int]) -> None:
    with torch.no_grad():
        found = func(*args, **kwargs)
        for old, new in zip(tree_leaves(out), tree_leaves(found), strict=True):
            if isinstance(old, Tensor) and _place(old) in fresh:
                old.copy_(new)


def _place(t: Tensor) -> int:
    return t.untyped_storage()._cdata


def _raw(storage: Any) -> Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def _bytes(t: Tensor) -> Tensor:
    return _raw(t.untyped_storage())


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


class Emulated:
    """An engine for `bettyc.runtime.graphs.Graphs`; `recordings` of this one."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.recordings: list[Tape] = []

    def warm(self, function: Callable[[], Work]) -> tuple[Work, list[int]]:
        with capture.recording(lambda number, seed: _seeded(seed)) as seeds:
            made = function()
        return made, seeds

    def record(self, function: Callable[[], Work], draws: int) -> tuple[Recorded, Work]:
        tape = Tape(draws)
        try:
            with capture.recording(tape.drawn), Host(), tape:
                made = function()
        finally:
            tape.forget()
        self.recordings.append(tape)
        return tape, made
