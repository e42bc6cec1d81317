"""CUDA graphs: device work between two decisions of Python, recorded once and launched as one.

What is recorded is a function of tensors, with nothing to remember between calls. Its arguments are
copied into memory of the graph, and what it gives is copied out, so that whoever replaces a
variable, a batch, an optimizer's state or a learning rate (a checkpoint, a schedule, a user) is
seen by the next launch. What is not copied is guarded: the graph holds for

    the key         everything of the host that the function depends on, and the names, shapes and
                    types of its arguments
    the constants   large tensors that are read where they lie, by address and layout

and for any other key it is recorded anew. A function runs plainly where it is called for the first
time with a key (kernels are compiled then, libraries make their workspaces), is recorded the second
time, and the first CHECKED launches are compared with a plain evaluation of the same arguments. A
recording that fails, or a launch that gives something else, leaves nothing behind, since nothing
was written: the function runs plainly from then on, with one warning (MLO0809).

Random numbers of an evaluation under a seed come from a generator of its own, registered with the
graph and set to the seed before every launch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from bettyc.diagnostics.registry import report
from bettyc.kernels import capture

CHECKED = 2  # launches compared: at the arguments of the recording, and at the next ones
KEPT = 4  # graphs of one function at a time; shapes that change more often are not worth it
FUTILE = 16  # keys without a second call after which a function is given up


@dataclass(frozen=True)
class Work:
    """What a function gives. host: what Python knows of it, the same for every launch."""

    tensors: Mapping[str, Tensor]
    host: Any = None


Function = Callable[[Mapping[str, Tensor]], Work]


@dataclass
class Arguments:
    """Of one call. tensors: copied. constants: read where they lie. scalars: numbers that change
    from call to call, one tensor for all. seeds: of random numbers. key: all else that matters.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)
    scalars: list[float] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    key: list[Hashable] = field(default_factory=list)

    def scalar(self, value: float) -> int:
        """Add a number; its place in the tensor `scalars`."""
        self.scalars.append(value)
        return len(self.scalars) - 1

    def signature(self) -> Hashable:
        return (
            tuple(self.key),
            tuple((n, x.shape, x.dtype, x.device) for n, x in self.tensors.items()),
            tuple(
                (n, x.data_ptr(), x.shape, x.stride(), x.dtype, x.device)
                for n, x in self.constants.items()
            ),
            len(self.scalars),
            len(self.seeds),
        )

    def given(self, device: torch.device) -> dict[str, Tensor]:
        """Everything that the function is called with."""
        scalars = torch.tensor(self.scalars, dtype=torch.float64, device=device)
        return {**self.tensors, "scalars": scalars}


class Recorded(Protocol):
    """A recorded function."""

    def launch(self, seeds: Sequence[int]) -> None:
        """Do the work again, in the same memory; seeds: of each of its draws."""
        ...


class Engine(Protocol):
    """What records: CUDA, or in tests what stands in for it."""

    device: torch.device

    def warm(self, function: Callable[[], Work]) -> tuple[Work, list[int]]:
        """Do the work on the stream that will record it; also the seeds of its draws."""
        ...

    def record(self, function: Callable[[], Work], draws: int) -> tuple[Recorded, Work]:
        """Record the work; what it gives lies in the memory that launches write to."""
        ...


class Cuda:
    """torch.cuda.CUDAGraph. All graphs of a run share one pool: no launch needs what another one
    left there, since arguments lie outside and results are copied.
    """

    def __init__(self, device: torch.device) -> None:
        index = torch.cuda.current_device() if device.index is None else device.index
        self.device = device
        self._default = torch.cuda.default_generators[index]
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def warm(self, function: Callable[[], Work]) -> tuple[Work, list[int]]:
        current = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream), capture.recording(self._seeded) as seeds:
            made = function()
        current.wait_stream(self._stream)
        return made, seeds

    @contextmanager
    def _seeded(self, number: int, seed: int) -> Iterator[None]:
        before = self._default.get_state()
        self._default.manual_seed(seed)
        try:
            yield
        finally:
            self._default.set_state(before)

    def record(self, function: Callable[[], Work], draws: int) -> tuple[Recorded, Work]:
        default = self._default
        own = default.graphsafe_get_state()
        states = [default.clone_state() for _ in range(draws)]
        graph = torch.cuda.CUDAGraph()
        for state in states:
            graph.register_generator_state(state)

        @contextmanager
        def registered(number: int, seed: int) -> Iterator[None]:
            if number >= draws:
                raise RuntimeError("it draws random numbers more often than the time before")
            before = default.graphsafe_get_state()
            default.graphsafe_set_state(states[number])
            try:
                yield
            finally:
                default.graphsafe_set_state(before)

        current = torch.cuda.current_stream(self.device)
        # A recording that fails leaves the generator that it began with unusable: a copy.
        default.graphsafe_set_state(default.clone_state())
        try:
            with (
                torch.cuda.graph(
                    graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
                ),
                capture.recording(registered),
            ):
                made = function()
        except BaseException:
            self._pool = torch.cuda.graph_pool_handle()
            raise
        finally:
            torch.cuda.set_stream(current)  # torch leaves the other one where a capture fails
            default.graphsafe_set_state(own)
        return _CudaRecorded(graph, states), made


# What records on a type of device; on a CPU nothing does.
ENGINES: dict[str, Callable[[torch.device], Engine]] = {"cuda": Cuda}


def engine(device: torch.device) -> Engine | None:
    """What records on a device, None where nothing does."""
    made = ENGINES.get(device.type)
    return None if made is None else made(device)


class _CudaRecorded:
    def __init__(self, graph: torch.cuda.CUDAGraph, states: Sequence[torch.Generator]) -> None:
        self._graph, self._states = graph, states

    def launch(self, seeds: Sequence[int]) -> None:
        for state, seed in zip(self._states, seeds, strict=True):
            state.manual_seed(seed)
        self._graph.replay()


@dataclass
class _Graph:
    """One recording. held: keeps the constants' memory from being given to something else."""

    recorded: Recorded
    memory: dict[str, Tensor]
    made: Work
    draws: list[int]
    held: tuple[Tensor, ...]
    checked: int = 0


class Graphs:
    """The recorded functions of one run. refused: by name, why a function is not recorded (any
    more). launches: how many there were of each.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.refused: dict[str, str] = {}
        self.launches: dict[str, int] = {}
        self._graphs: dict[str, dict[Hashable, _Graph | None]] = {}
        self._futile: dict[str, int] = {}

    def forget(self, name: str) -> None:
        """Record a function anew: something has changed that is no part of its key."""
        self._graphs.pop(name, None)

    def refuse(self, name: str, reason: str) -> None:
        """Run a function plainly from now on, without a warning."""
        self.refused[name] = reason
        self.forget(name)

    def call(self, name: str, function: Function, arguments: Arguments) -> Work | None:
        """What the function gives, in memory of the caller's own; None where it is refused."""
        if name in self.refused:
            return None
        known = self._graphs.setdefault(name, {})
        key = arguments.signature()
        if key not in known:
            self._begin(name, known, key)
            return self._plain(function, arguments)
        graph = known[key]
        if graph is None:
            self._futile[name] = 0
            return self._first(name, known, key, function, arguments)
        known[key] = known.pop(key)  # the last one used goes last
        return self._launch(name, graph, function, arguments)

    def _begin(self, name: str, known: dict[Hashable, _Graph | None], key: Hashable) -> None:
        self._futile[name] = self._futile.get(name, 0) + 1
        if self._futile[name] > FUTILE:
            self.refuse(name, "what it depends on is another with every call")
            return
        while len(known) >= KEPT:
            del known[next(iter(known))]
        known[key] = None

    def _plain(self, function: Function, arguments: Arguments) -> Work:
        return function(arguments.given(self.engine.device))

    def _first(
        self,
        name: str,
        known: dict[Hashable, _Graph | None],
        key: Hashable,
        function: Function,
        arguments: Arguments,
    ) -> Work:
        given = arguments.given(self.engine.device)
        memory = {
            n: x.detach().clone(memory_format=torch.contiguous_format) for n, x in given.items()
        }
        try:
            plain, seeds = self.engine.warm(lambda: function(memory))
            draws = [arguments.seeds.index(seed) for seed in seeds]
            recorded, made = self.engine.record(lambda: function(memory), len(draws))
        except Exception as error:
            # whatever CUDA, torch or the user's code does in a recording; what fails plainly too
            # fails again, and says so
            self._fail(name, str(error).strip().splitlines()[0])
            return function(given)
        made = Work({n: x.detach() for n, x in made.tensors.items()}, made.host)
        held = tuple(arguments.constants.values())
        graph = known[key] = _Graph(recorded, memory, made, draws, held)
        return self._compared(name, graph, arguments, plain)

    def _launch(self, name: str, graph: _Graph, function: Function, arguments: Arguments) -> Work:
        given = arguments.given(self.engine.device)
        with torch.no_grad():
            # one launch for all of a type
            torch._foreach_copy_([graph.memory[n] for n in given], list(given.values()))
        if graph.checked < CHECKED:
            plain = self.engine.warm(lambda: function(given))[0]
            return self._compared(name, graph, arguments, plain)
        return self._launched(name, graph, arguments)

    def _launched(self, name: str, graph: _Graph, arguments: Arguments) -> Work:
        graph.recorded.launch([arguments.seeds[k] for k in graph.draws])
        self.launches[name] = self.launches.get(name, 0) + 1
        made = graph.made
        return Work({n: x.clone() for n, x in made.tensors.items()}, made.host)

    def _compared(self, name: str, graph: _Graph, arguments: Arguments, plain: Work) -> Work:
        found = self._launched(name, graph, arguments)
        graph.checked += 1
        for n, x in found.tensors.items():
            if not agree(x, plain.tensors[n]):
                self._fail(name, f"a launch gave another `{n}` than its plain evaluation")
                return plain
        return found

    def _fail(self, name: str, problem: str) -> None:
        self.refuse(name, problem)
        warning = report("MLO0809", None, work=name, problem=problem)
        warnings.warn(f"{warning.code}: {warning.message}", RuntimeWarning, stacklevel=2)


def agree(found: Tensor, expected: Tensor) -> bool:
    """Whether two results are the same within rounding that many operations have added up: half of
    the digits. What is not finite has to be so in both.
    """
    x, y = found.double(), expected.detach().double()
    finite = x.isfinite()
    if x.shape != y.shape or not torch.equal(finite, y.isfinite()):
        return False
    x, y = x[finite], y[finite]
    eps = torch.finfo(found.dtype if found.is_floating_point() else torch.float64).eps
    return bool((x - y).norm() <= eps**0.5 * y.norm().clamp_min(eps))


__all__ = ["Arguments", "Cuda", "Engine", "Function", "Graphs", "Recorded", "Work", "engine"]
