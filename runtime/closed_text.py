"""Formulas of one objective as emitted torch functions: what they take, and where results go."""

from __future__ import annotations

import linecache
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from bettyc import emit
from bettyc.expr import Node
from bettyc.kernels.one_pass import Pass, one_pass
from bettyc.kernels.rows import rows
from bettyc.kernels.xt_phi_x import Product
from bettyc.model import Level
from bettyc.onepass import Region
from bettyc.plan import updates
from bettyc.runtime import domains, passes
from bettyc.runtime.compiled import Native
from bettyc.runtime.follow import attributes
from bettyc.runtime.layout import Slot
from bettyc.runtime.link import Linked
from bettyc.runtime.modules import Network
from bettyc.runtime.naming import argument, plain, source
from bettyc.runtime.objective import Frame

Theta = Mapping[str, Tensor]


class Written(NamedTuple):
    """An emitted function `call`, what gives its arguments, whether its result is one tensor.

    bound: where it is one pass over the data and nothing else, what gives that with its operands
    (see `bettyc.runtime.passes`).
    """

    call: Callable[..., Any]
    inputs: Callable[..., tuple[Any, ...]]
    single: bool
    text: str
    bound: Callable[..., Pass | Product | None] | None = None

    def at(
        self,
        theta: Theta,
        frame: Frame,
        fixed: Sequence[Tensor] = (),
        v: Tensor | None = None,
        out: Theta = MappingProxyType({}),
    ) -> Any:
        """Its results, a tuple. out: flat tensors by level, for what it writes into them."""
        found = self.call(*self.inputs(theta, frame, fixed, v, out))
        return (found,) if self.single else found or ()


Function: TypeAlias = Written | Native
NOTHING = Written(lambda: (), lambda *_: (), False, "")
NONE: Mapping[int, Any] = {}


class Texts(ABC):
    """The functions of one level's objective, signed so that smaller is better, by the name that
    each is written under.

    levels: those whose variables it reads with a gradient. networks: from Python, of which it has
    the formulas. steps: updates of the level in the run, where they are not those of `level`.
    """

    def __init__(
        self,
        linked: Linked,
        level: Level,
        root: int,
        levels: Sequence[str],
        networks: Sequence[Network] = (),
        steps: int | None = None,
    ) -> None:
        self.linked, self.graph, self.level, self.root = linked, linked.graph, level.name, root
        self._networks = [(n, attributes(n.module)) for n in networks]
        self.levels = tuple(levels)
        self.leaves = {name: self._leaves(name) for name in levels}
        plan = linked.plan
        if steps is None:
            steps = updates(plan.program, level.name) if plan.opt > 1 else 0
        self._steps = steps
        self.texts: dict[str, str] = {}  # of the functions written so far, by name
        self._gradients: dict[tuple[str, ...], Function] = {}
        self._products: dict[tuple[str, ...], tuple[Function, ...]] = {}

    def holds(self) -> bool:
        """Whether the networks that it has the formulas of are what they were."""
        return all(attributes(n.module) == before for n, before in self._networks)

    def _leaves(self, level: str) -> list[tuple[Slot, int]]:
        """The trainable variables of a level that the objective reads, in the buffer's order."""
        found = {}
        for index, node in self.graph.leaves(self.root):
            if node.op == "var" and node.attr("level") == level:
                found[node.attr("name")] = index
        slots = self.linked.layouts[level].slots
        return [(s, found[s.name]) for s in slots if s.trainable and s.name in found]

    def gradients(
        self, theta: Theta, frame: Frame, wrt: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The value, scalar, and the gradient in theta[l], of its shape, for l in `wrt`."""
        key = tuple(wrt)
        function = self._gradients.get(key) or self.write_gradients(key)
        out = self.memory(theta, key)
        value, *parts = function.at(theta, frame, out=out)
        return value, self._collected(theta, key, parts, out)

    def write_gradients(self, wrt: tuple[str, ...]) -> Function:
        """Write what `gradients` runs, once."""
        if wrt not in self._gradients:
            self._gradients[wrt] = self._written_gradients(wrt)
        return self._gradients[wrt]

    @abstractmethod
    def _written_gradients(self, wrt: tuple[str, ...]) -> Function:
        """The function of the value and of the gradients in the variables of `wrt`."""

    def write_products(self, into: tuple[str, ...]) -> tuple[Function, ...]:
        """Write what `products` runs, once: (prologue, H v, cross terms)."""
        if into not in self._products:
            self._products[into] = self._written_products(into)
        return self._products[into]

    @abstractmethod
    def _written_products(self, into: tuple[str, ...]) -> tuple[Function, ...]:
        """The functions of `write_products`."""

    def memory(self, theta: Theta, levels: Sequence[str]) -> dict[str, Tensor]:
        """Where the emitted functions write derivatives: one flat tensor for every level of
        several variables, zeros where the objective depends on none of them.
        """
        found = {}
        for level in levels:
            if self._joined(level):
                slots = self.leaves[level]
                whole = sum(s.stop - s.start for s, _ in slots) == theta[level].shape[-1]
                found[level] = (torch.empty_like if whole else torch.zeros_like)(theta[level])
        return found

    def _joined(self, level: str) -> bool:
        return len(self.leaves[level]) > 1

    def _collected(
        self, theta: Theta, levels: Sequence[str], parts: Sequence[Tensor], out: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Flat derivatives by level: those written, and those returned, in the order of levels."""
        rest = iter(parts)
        return {
            level: out[level]
            if level in out
            else self._packed(level, next(rest) if self.leaves[level] else None, theta[level])
            for level in levels
        }

    def _packed(self, level: str, part: Tensor | None, like: Tensor) -> Tensor:
        """The part of the only variable as a flat tensor; zeros where the objective depends on
        no variable.
        """
        if part is None:
            return torch.zeros_like(like)
        slot = self.leaves[level][0][0]
        if slot.stop - slot.start == like.shape[-1]:
            return part if part.shape == like.shape else part.reshape(like.shape)
        flat = torch.zeros_like(like)
        flat[..., slot.start : slot.stop] = part.reshape(*like.shape[:-1], -1)
        return flat

    def _compiled(
        self,
        name: str,
        outputs: Sequence[int],
        titles: Mapping[int, str] = NONE,
        slices: Mapping[int, Slot] = NONE,
        regions: Mapping[int, Region] = NONE,
        moving: Sequence[int] = (),
        wrt: Sequence[str] = (),
    ) -> Written:
        """An emitted function, and what finds its inputs in (theta, frame, fixed, v, out).

        titles: nodes in `fixed`. slices: directions as parts of v. regions: behind every pass.
        moving: the leaves that change from call to call. wrt: the levels whose derivatives are
        the last of the outputs.
        """
        name = self._unused(name)
        sources: dict[str, str] = {title: f"fixed[{k}]" for k, title in enumerate(titles.values())}
        into = self._into(outputs, wrt, sources)

        def leaf(index: int, node: Node) -> str:
            text = self._part(slices[index]) if index in slices else self._source(node)
            word = "v" if node.op == "direction" and len(slices) == 1 else argument(node)
            word = plain(word)
            while sources.get(word, text) != text:
                word += "_"
            sources[word] = text
            return word

        calls = passes.Calls(self.graph, regions, name, self.linked.sizes)
        body = emit.function(
            self.graph, outputs, name=name, leaf=leaf, opaque=calls, sizes=self.linked.sizes,
            autograd=False, given=dict(titles), fused=True, into=into,
            dtype=str(self.linked.dtype), device=f'"{self.linked.device}"',
        )  # fmt: skip
        if not outputs:  # the objective depends on none of the levels
            body = f"def {name}():\n    return ()"
        head = body.partition("\n")[0]
        arguments = re.findall(r"\w+", head.partition("(")[2])
        inputs = [f"def {name}_inputs(theta, frame, fixed=(), v=None, out=None):"]
        if any("columns[" in sources[a] for a in arguments):
            inputs.append("    columns = frame.columns")
        inputs += ["    return (", *(f"        {sources[a]}," for a in arguments), "    )"]
        text = calls.text + body + "\n\n" + "\n".join(inputs)
        self.texts[name] = text
        filename = f"<bettyc {self.linked.plan.model.name}.{name}>"
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
        namespace: dict[str, Any] = {
            "torch": torch,
            "one_pass": one_pass,
            "rows": rows,
            **{n: getattr(domains, n) for n in domains.TRANSFORMED},
        }
        exec(compile(text, filename, "exec"), namespace)
        whole = len(moving) == 1 and passes.is_whole(self.graph, outputs, moving[0])
        single = into.count(None) == 1
        call = namespace[name]
        steps = self._steps if name.endswith("_slope") else 0
        bound = passes.binding(call, steps) if whole else None
        return Written(call, namespace[f"{name}_inputs"], single, text, bound)

    def _unused(self, name: str) -> str:
        """The name, numbered where another function has it: derivatives in other levels."""
        count, base = 1, name
        while name in self.texts:
            count += 1
            name = f"{base}_{count}"
        return name

    def _into(
        self, outputs: Sequence[int], wrt: Sequence[str], sources: dict[str, str]
    ) -> list[str | None]:
        """The argument that each output is written into, None for those that are returned."""
        names: list[str | None] = []
        for level in wrt:
            for slot, _ in self.leaves[level]:
                name = f"out_{plain(level)}_{plain(slot.name)}" if self._joined(level) else None
                names.append(name)
                if name:
                    sources[name] = self._part(slot, f'out["{level}"]', level)
        return [*[None] * (len(outputs) - len(names)), *names]

    def _source(self, node: Node) -> str:
        if node.op == "var" and node.attr("free"):
            slot = self.linked.layouts[node.attr("level")].slot(node.attr("name"))
            return self._part(slot, f'theta["{node.attr("level")}"]', node.attr("level"))
        return source(self.linked, node)

    def _part(self, slot: Slot, flat: str = "v", level: str = "") -> str:
        """A variable's part of a flat tensor of its level, in its free shape."""
        if not slot.free:
            return f"{flat}[{slot.start}]"
        text = f"{flat}[{slot.start}:{slot.stop}]"
        return text if len(slot.free) == 1 else f"{text}.view({', '.join(map(str, slot.free))})"
