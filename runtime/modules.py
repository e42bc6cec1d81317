"""Networks from Python, called as functions of one flat parameter tensor.

The module itself only holds the structure: parameters and buffers are passed in at each call, as
`torch.func.functional_call` does, so several levels, replicas and finite-difference copies share
it. That function looks for the places of all tensors anew in every call, which takes longer than a
small network; here they are looked for once.
"""

from __future__ import annotations

import math
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from bettyc.failures import CallbackError, RunError
from bettyc.runtime.layout import plainly
from bettyc.runtime.objective import Frame
from bettyc.runtime.recompute import parts, recomputing
from bettyc.types import Type


class Network:
    """A network of a level. `key` is "level.name"; tied parameters are stored once.

    `flat` everywhere is the tensor of all its parameters, shape (size,), in the order of
    `module.named_parameters()`, frozen ones included. recompute: patterns of the parts whose
    activations are not kept. inputs: their types, as declared.
    """

    def __init__(
        self,
        key: str,
        module: nn.Module,
        recompute: Sequence[str] = (),
        inputs: Sequence[Type] = (),
    ) -> None:
        self.key = key
        self.module = module
        self.inputs = tuple(inputs)
        self.forgetful = parts(module, recompute)
        self._own_names = [name for name, _ in module.named_parameters()]
        self.names = list(map(plainly, self._own_names))
        self.compiled = any(hasattr(part, "_orig_mod") for part in module.modules())
        self.shapes = [tuple(p.shape) for p in module.parameters()]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.buffers = {name: b.detach().clone() for name, b in module.named_buffers()}
        self._places = _places(module)

    def parameters(self, flat: Tensor) -> dict[str, Tensor]:
        """Named views of the flat tensor."""
        pieces = flat.split(self.sizes) if self.sizes else ()
        return {
            name: piece.view(shape)
            for name, piece, shape in zip(self.names, pieces, self.shapes, strict=True)
        }

    def state(self, flat: Tensor) -> dict[str, Tensor]:
        """The same under the names that the module itself has for them."""
        return dict(zip(self._own_names, self.parameters(flat).values(), strict=True))

    @contextmanager
    def holding(self, state: Mapping[str, Tensor]) -> Iterator[nn.Module]:
        """The module with these tensors in the place of its own, for one call."""
        before = []
        try:
            for name, tensor in state.items():
                for tensors, key in self._places[name]:
                    before.append((tensors, key, tensors[key]))
                    tensors[key] = tensor
            yield self.module
        finally:
            for tensors, key, tensor in reversed(before):
                tensors[key] = tensor

    def caller(self, train: bool) -> Caller:
        return Caller(self, train)

    def load(self, values: Sequence[Tensor], buffers: Mapping[str, Tensor]) -> nn.Module:
        """The module itself with these parameters, in the order of `names`, and buffers copied
        into it.
        """
        with torch.no_grad():
            for name, value in zip(self._own_names, values, strict=True):
                self.module.get_parameter(name).copy_(value)
            for name, value in buffers.items():
                self.module.get_buffer(name).copy_(value)
        return self.module


def _places(module: nn.Module) -> dict[str, list[tuple[dict[str, Any], str]]]:
    """Where the tensors of a module stand, by the name that it has for them: in a dictionary of one
    of its parts, a tied one in several.
    """
    names: dict[int, str] = {}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        names.setdefault(id(tensor), name)
    found: dict[str, list[tuple[dict[str, Any], str]]] = {name: [] for name in names.values()}
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for key, tensor in tensors.items():
                if tensor is not None:
                    found[names[id(tensor)]].append((tensors, key))
    return found


@contextmanager
def _quiet(compiled: bool) -> Iterator[None]:
    """TorchDynamo looks at `.grad` of the parameters it is given, and torch warns that views of
    the flat tensor have none.
    """
    if not compiled:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a")
        yield


def raised_in(name: str, error: Exception) -> Exception:
    """What to raise for an exception out of the user's Python: a CallbackError that says where,
    but memory that ran out and errors of our own as they are.
    """
    if isinstance(error, RunError | torch.OutOfMemoryError | MemoryError):
        return error
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/torch/" not in f.filename and not f.filename.endswith(__file__)]
    place = f", at {own[-1].filename}:{own[-1].lineno}" if own else ""
    return CallbackError(f"`{name}` raised {type(error).__name__}: {error}{place}")


class Caller:
    """Calls a network in training or in evaluation mode. Buffers are those of the frame, and only
    those change; random masks come from the evaluation's seed.
    """

    def __init__(self, network: Network, train: bool) -> None:
        self.network = network
        self.train = train

    def __call__(self, flat: Tensor, frame: Frame, *inputs: Any) -> Any:
        network = self.network
        if network.module.training is not self.train:
            network.module.train(self.train)
        state = network.state(flat)
        buffers = frame.buffers.get(network.key)
        if buffers:
            state |= buffers
        try:
            with (
                _quiet(network.compiled),
                recomputing(network.forgetful),
                network.holding(state) as module,
            ):
                return module(*inputs)
        except Exception as error:
            raise raised_in(network.key, error) from error

    def bound(self, flat: Tensor, frame: Frame) -> Callable[..., Any]:
        """The network as a function of its inputs, for a Python function that takes it."""
        return lambda *inputs: self(flat, frame, *inputs)

    def without(self, flat: Tensor, pattern: str) -> Tensor:
        """The parameters whose names do not match the pattern, as one tensor."""
        kept = [
            v.reshape(-1)
            for n, v in self.network.parameters(flat).items()
            if not fnmatchcase(n, pattern)
        ]
        return torch.cat(kept) if kept else flat[:0]
