"""Formulas of the plan as torch functions: emitted text, compiled once, shown as it is in
tracebacks.

For each formula two functions are written: the formula over its tensors, and the one that takes
those out of the flat buffers and the frame:

    def fit(w, train_x, train_y, tune_log_wd): ...
    def fit_at(theta, frame):
        columns = frame.columns
        return fit(theta["fit"], columns["train", "x"], ...)
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bettyc import emit
from bettyc.calculus.simplify import without_zeros
from bettyc.expr import Graph, Node
from bettyc.model import Level
from bettyc.runtime import domains
from bettyc.runtime.closed import Closed, closed, signed
from bettyc.runtime.closed_replicas import ClosedReplicas, of_all
from bettyc.runtime.held import Held
from bettyc.runtime.link import Linked
from bettyc.runtime.modules import raised_in
from bettyc.runtime.naming import argument, plain, source
from bettyc.runtime.objective import Frame
from bettyc.runtime.pieces import split
from bettyc.runtime.randomness import masks
from bettyc.runtime.replicas import Replicas

if TYPE_CHECKING:
    from bettyc.runtime.around import Around

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
# What emitted text may call besides torch.
GLOBALS: dict[str, Any] = {
    "torch": torch,
    "positive": domains.positive,
    "unit": domains.unit,
    "interval": domains.interval,
    "simplex": domains.simplex,
}


class Formula:
    """A formula of flat variables and a frame; for an objective,
    `bettyc.runtime.objective.Objective`.

    text: the Python source. held: its detached values, None where it has none. buffers: what the
    last evaluation left in the module buffers it read, copies that the executor may keep after a
    step (`buffers[level.module][name]`). replicas: how the replicas of its level are evaluated,
    None where it has none. once: why it cannot be differentiated twice, empty where it
    can, None until that was tried (`bettyc.runtime.slope`).
    """

    def __init__(
        self,
        level: str,
        reads: tuple[str, ...],
        text: str,
        function: Callable[[Mapping[str, Tensor], Frame], Any],
        *,
        seeded: bool,
        networks: tuple[str, ...],
        device: str = "cpu",
        autocast: torch.dtype | None = None,
    ) -> None:
        self.level = level
        self.reads = reads
        self.text = text
        self.function = function
        self.networks = networks
        self.buffers: dict[str, dict[str, Tensor]] = {}
        self.seeded = seeded
        self._device = device
        self._autocast = autocast
        self._plain = not (seeded or networks or autocast)
        self._closed: Closed | None = None
        self._around: Around | None = None
        self.once: str | None = None
        self.held: Held | None = None
        self.replicas: Replicas | None = None

    @property
    def closed(self) -> Closed | None:
        """Its derivatives by formula, None where it has none (any more: a network from Python of
        which they hold the formula has been changed).
        """
        if self._closed is not None and not self._closed.holds():
            self._closed = None
        return self._closed

    @property
    def around(self) -> Around | None:
        """Its derivatives around the networks in it that stay opaque, None where it has none."""
        if self._around is not None and not self._around.closed.holds():
            self._around = None
        return self._around

    @property
    def closed_replicas(self) -> ClosedReplicas | None:
        """`closed` for all replicas of its level at once; None where it has no such form."""
        return None if self.closed is None else self._of_all

    @cached_property
    def _of_all(self) -> ClosedReplicas | None:
        assert self._closed is not None
        return of_all(self._closed)

    def __call__(self, theta: Mapping[str, Tensor], frame: Frame) -> Any:
        if self._plain:
            return self.function(theta, frame)
        if self.networks:
            self.buffers = {
                name: {k: v.clone() for k, v in frame.buffers.get(name, {}).items()}
                for name in self.networks
            }
            frame = replace(frame, buffers={**frame.buffers, **self.buffers})
        if self.seeded:
            with masks(frame.seed, self._device):
                return self._evaluate(theta, frame)
        return self._evaluate(theta, frame)

    def _evaluate(self, theta: Mapping[str, Tensor], frame: Frame) -> Any:
        if self._autocast is None:
            return self.function(theta, frame)
        with torch.autocast(self._device, self._autocast):
            value = self.function(theta, frame)
        return value.float() if isinstance(value, Tensor) else value


def objective(linked: Linked, level: Level) -> Formula:
    """The level's objective, signed so that smaller is better."""
    node, levels = signed(linked, level)
    if linked.plan.opt > 0:
        node = without_zeros(linked.graph, node)
    autocast = AUTOCAST.get(linked.plan.level(level.name).precision)
    found = build(linked, plain(level.name), level.name, [node], levels, autocast=autocast)
    # what is held while variables are moved is kept evaluation by evaluation
    found.replicas = None if found.held is not None else linked.replicas.get(level.name)
    if linked.plan.opt > 0:
        from bettyc.runtime.cut import around

        found._closed = closed(linked, level)
        if found._closed is None:
            found._around = around(linked, level, found)
    return found


def build(
    linked: Linked,
    name: str,
    level: str,
    outputs: Sequence[int],
    reads: tuple[str, ...] = (),
    *,
    train: bool = True,
    autocast: torch.dtype | None = None,
) -> Formula:
    """A function of the plan's graph. train: networks and masks as in training, not as in
    evaluation.
    """
    writer = _Writer(linked, train)
    writer.write(name, outputs)
    text = "\n\n".join(writer.parts)
    namespace = {**GLOBALS, **writer.globals}
    filename = f"<bettyc {linked.plan.model.name}.{name}{'' if train else ' evaluated'}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    exec(compile(text, filename, "exec"), namespace)  # the text is ours, from the plan's graph
    found = Formula(
        level,
        reads,
        text,
        namespace[f"{name}_at"],
        seeded=writer.seeded,
        networks=tuple(sorted(writer.networks)),
        device=linked.device.type,
        autocast=autocast,
    )
    found.held = writer.held if "_held(" in text else None
    return found


def guarded(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the user's whose exceptions say that they are its own."""

    def guard(*inputs: Any) -> Any:
        try:
            return call(*inputs)
        except Exception as error:
            raise raised_in(name, error) from error

    return guard


class _Writer:
    """Writes one formula and the bodies of the replicas in it."""

    def __init__(self, linked: Linked, train: bool) -> None:
        self.linked = linked
        self.graph: Graph = linked.graph
        self.train = train
        self.parts: list[str] = []
        self.globals: dict[str, Any] = {}
        self.networks: set[str] = set()
        self.held = Held()
        self.globals["_held"] = self.held
        self.seeded = False

    def write(self, name: str, outputs: Sequence[int]) -> None:
        """The function `name` over tensors, and `name_at` over buffers and frame."""
        sources: dict[str, str] = {}

        def leaf(index: int, node: Node) -> str:
            word = argument(node)
            text = source(self.linked, node)
            while sources.get(word, text) != text:
                word += "_"
            sources[word] = text
            return word

        def opaque(index: int, node: Node, operands: Sequence[str]) -> str:
            return getattr(self, f"_{node.op}")(name, index, node, operands)  # type: ignore[no-any-return]

        body = emit.function(
            self.graph, outputs, name=name, leaf=leaf, opaque=opaque, sizes=self.linked.sizes,
            held="_held", dtype=str(self.linked.dtype), device=f'"{self.linked.device}"',
        )  # fmt: skip
        head, _, rest = body.partition("\n")
        arguments = re.findall(r"\w+", head.partition("(")[2])
        if re.search(r"\b(theta|frame)\b", rest):
            head = head.replace("(", "(theta, frame, " if arguments else "(theta, frame", 1)
            sources |= {"theta": "theta", "frame": "frame"}
            arguments = ["theta", "frame", *arguments]
        self.parts.append(f"{head}\n{rest}")
        self.parts.append(self._at(name, [sources[a] for a in arguments]))

    def _at(self, name: str, values: Sequence[str]) -> str:
        lines = [f"def {name}_at(theta, frame):"]
        if any("columns[" in v for v in values):
            lines.append("    columns = frame.columns")
        cut, values = split(values, {n: x.size for n, x in self.linked.layouts.items()})
        lines += [f"    {line}" for line in cut]
        lines.append(f"    return {name}(")
        lines += [f"        {value}," for value in values]
        return "\n".join([*lines, "    )"])

    def _network(self, index: int) -> str:
        """The global name of the network that a value's parameters belong to."""
        node = self.graph[index]
        while node.op != "module":
            node = self.graph[node.args[0]]
        named = dict(node.attrs)
        key = f"{named['level']}.{named['name']}"
        self.networks.add(key)
        self.seeded = self.seeded or self.train
        name = f"network_{plain(key)}"
        self.globals[name] = self.linked.networks[key].caller(self.train)
        return name

    def _apply(self, name: str, index: int, node: Node, operands: Sequence[str]) -> str:
        network = self._network(node.args[0])
        return f"{network}({operands[0]}, frame, {', '.join(operands[1:])})"

    def _params(self, name: str, index: int, node: Node, operands: Sequence[str]) -> str:
        network = self._network(node.args[0])
        kept = node.attr("except")
        return operands[0] if kept is None else f"{network}.without({operands[0]}, {kept!r})"

    def _extern_fn(self, name: str, index: int, node: Node, operands: Sequence[str]) -> str:
        """Networks among the arguments become functions of their inputs."""
        from bettyc.types import Module

        function = f"extern_{plain(node.attr('name'))}"
        extern = self.linked.functions[node.attr("name")]
        self.globals[function] = guarded(node.attr("name"), extern.call)
        self.seeded = self.seeded or self.train
        texts = []
        for position, (arg, text) in enumerate(zip(node.args, operands, strict=True)):
            if isinstance(self.graph[arg].type, Module):
                text = f"{self._network(arg)}.bound({text}, frame)"
            elif position in extern.constant:
                text = f"{text}.detach()"
            texts.append(text)
        return f"{function}({', '.join(texts)})"

    def _ema(self, name: str, index: int, node: Node, operands: Sequence[str]) -> str:
        return f'frame.buffers["ema"]["{index}"]'

    def _mask(self, name: str, index: int, node: Node, operands: Sequence[str]) -> str:
        from bettyc.runtime.layout import concrete
        from bettyc.types import bind, number

        known = {k: number(v) for k, v in self.linked.sizes.items()}
        shape = concrete(bind(node.type, known).shape)  # type: ignore[union-attr]
        if not self.train:
            return f"torch.ones({shape}, dtype=dtype, device=device)"
        self.seeded = True
        keep = 1.0 - float(node.attr("p"))
        draw = f"(torch.rand({shape}, dtype=dtype, device=device) < {keep!r}).to(dtype)"
        return f"{draw} / {keep!r}" if keep else draw

    def _replicas(self, name: str, index: int, node: Node, operands: Sequence[str]) -> str:
        """The body at every replica; `mean` or `sum` over them."""
        level, body = node.attr("level"), f"{name}_each_{node.attr('level')}_{index}"
        begun = len(self.parts)
        self.write(body, [node.args[0]])
        # what is held while variables are moved is kept evaluation by evaluation
        held = any("_held(" in part for part in self.parts[begun:])
        over = f"over_{plain(level)}"
        self.globals[over] = self.linked.replicas[level]
        way = "looped" if held else "values"
        return f"torch.{node.attr('reduce')}({over}.{way}({body}_at, theta, frame), 0)"
