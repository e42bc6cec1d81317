"""Emitted calls of `one_pass`: their text, and what they are bound to for loops.

A function that is nothing but one pass at the level's own variables, or at a direction, is bound to
its operands once. `Slope` and `Curvature` are then single calls of native.c, and so are many steps
of gradient descent and a whole solve by conjugate gradient.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from bettyc import emit
from bettyc.emit import NOUNS
from bettyc.expr import LEAVES, Graph, Node
from bettyc.kernels import dispatch, solves
from bettyc.kernels.formula import BoundFormula
from bettyc.kernels.linear_pass import product
from bettyc.kernels.one_pass import Pass, ready, takes
from bettyc.kernels.rows import Rows
from bettyc.kernels.xt_phi_x import Product
from bettyc.onepass import Region

WIDTH = 96
# Elements of X that a run passes over before code of its own repays the second that it takes to
# compile: it saves 0.45 us for 10,000 of them, and so twice that second.
REPAID = 5e10
TAKEN = ("z", "torch", "dtype", "device", "rows", "one_pass")


class Calls:
    """The calls of `one_pass` in one emitted function. text: of the functions of rows."""

    def __init__(
        self, graph: Graph, regions: Mapping[int, Region], name: str, sizes: Mapping[str, int]
    ) -> None:
        self.graph, self.regions, self.name, self.sizes = graph, regions, name, sizes
        self.text = ""

    def __call__(self, index: int, node: Node, operands: Sequence[str]) -> str:
        """How a node is called, from the texts of its operands."""
        if node.op == "kept":
            return f"{operands[0]}[{node.attr('position')}]"
        if node.op != "one_pass":
            raise ValueError(f"%{index} = {node.op}: no way to call it was given")
        x, v, *data = operands
        options = []
        if node.attr("scale") not in (None, 1.0):
            options.append(f"scale={node.attr('scale')!r}")
        if node.attr("shift"):
            options.append(f"shift={node.attr('shift')!r}")
        if node.attr("ridged"):
            options.append(f"ridge={data.pop()}")
        if node.attr("turned"):
            options.append("turned=True")
        return f"one_pass({', '.join([x, v, self._rows(index, node, data), *data, *options])})"

    def _rows(self, index: int, node: Node, operands: Sequence[str]) -> str:
        """Write the function of rows; its name."""
        region = self.regions[index]
        count = self.text.count("\ndef ")
        name = f"{self.name}_rows{count + 1 if count else ''}"
        names = self._names(region, operands)
        words = {f"d{i + 1}": n for i, n in enumerate(names)}
        outputs = [*([] if region.result is None else [region.result]), *region.kept]
        body = emit.function(
            self.graph, outputs, name=name, leaf=_no_leaf, sizes=self.sizes,
            autograd=False, given={region.z: "z", **dict(zip(region.data, names, strict=True))},
            fused=True,
        ).partition("\n")[2]  # fmt: skip
        lines = [" ".join(words.get(w, w) for w in line.split()) for line in node.attr("lines")]
        last = f"%{len(lines)}" if lines else "z"
        arguments = [f'"{line}"' for line in lines]
        if node.attr("kinds"):
            arguments.append(f"data={_tuple(node.attr('kinds'))}")
        result = node.attr("result")
        if result != last:
            word = words.get(result, result)
            arguments.append("result=None" if word is None else f'result="{word}"')
        if node.attr("keep"):
            arguments.append(f"keep={_tuple(node.attr('keep'))}")
        head = f"@rows({', '.join(arguments)})"
        if len(head) > WIDTH:
            head = "@rows(\n" + "".join(f"    {a},\n" for a in arguments) + ")"
        self.text += f"{head}\ndef {name}({', '.join(['z', *names])}):\n{body}\n\n"
        return name

    def _names(self, region: Region, operands: Sequence[str]) -> list[str]:
        """Parameters for the data: as the caller calls them where that is a name."""
        found: list[str] = []
        for index, text in zip(region.data, operands, strict=True):
            node = self.graph[index]
            known = re.fullmatch(r"([^\W\d]\w*)(\[[:, None]*\])?", text)
            title = known[1] if known else NOUNS.get(node.op, node.op)
            title = f"{title}_" if title in TAKEN else title
            while title in found:
                title += "_"
            found.append(title)
        return found


def _tuple(words: Sequence[str]) -> str:
    inside = ", ".join(f'"{word}"' for word in words)
    return f"({inside},)" if len(words) == 1 else f"({inside})"


def _no_leaf(index: int, node: Node) -> str:
    raise ValueError(f"%{index} = {node.op} is not among the data of its pass")


def is_whole(graph: Graph, outputs: Sequence[int], leaf: int) -> bool:
    """Whether a function of these outputs is one pass at `leaf` and nothing else."""
    if len(outputs) != 1 or graph[outputs[0]].op != "one_pass":
        return False
    node = graph[outputs[0]]
    return not node.attr("keep") and node.args[1] == leaf and graph[leaf].op in LEAVES


def binding(call: Callable[..., Any], calls: int = 0) -> Callable[..., Pass | Product | None]:
    """From an emitted function that is one pass, the one that gives the pass with its operands;
    None where no kernel computes it.

    calls: of the pass in the whole run, where code of its own may be compiled for it.
    """

    def bind(
        x: Tensor, v: Tensor, rows: Rows, *data: Tensor, turned: bool = False, **more: Any
    ) -> Pass | Product | None:
        if takes(x, v, turned):
            made = ready(x, v, rows, data, turned=turned, **more)
            if calls * x.numel() >= REPAID:
                made.fix()
            return made
        if dispatch.way("one_pass", x) == "triton":
            return product(x, v, rows, data, turned=turned, **more)
        return None

    assert isinstance(call, FunctionType)
    return FunctionType(call.__code__, {**call.__globals__, "one_pass": bind})


class Slope:
    """The gradient as a function of the memory `own`, flat."""

    def __init__(self, made: Pass, own: Tensor) -> None:
        self._pass, self._own = made, own

    def __del__(self) -> None:
        self._pass.release()

    def __call__(self) -> Tensor:
        return self._pass.into(self._own, torch.empty_like(self._own))

    def descend(self, lr: float, count: int, before: Tensor | None = None) -> None:
        """`count` times own -= lr * gradient, in one call. before: gets own ahead of the last."""
        self._pass.descend(self._own, lr, count, before)


class Curvature:
    """H v for a solver, (size,) to (size,). counted: is told of products."""

    def __init__(
        self,
        made: Pass | Product | BoundFormula,
        shape: tuple[int, ...],
        counted: Callable[[int], None],
    ) -> None:
        self._pass, self._shape, self._counted = made, shape, counted

    def __call__(self, v: Tensor) -> Tensor:
        """The result may lie in a buffer that the next call overwrites."""
        self._counted(1)
        if isinstance(self._pass, Product):
            return self._pass(v.view(self._shape)).view(-1)
        v = v.contiguous()
        return self._pass.into(v, torch.empty_like(v))

    def solve(self, b: Tensor, **options: Any) -> tuple[Tensor, solves.Info] | None:
        """A whole solve in one call (kernels/solves.py). None where there is no such call."""
        if isinstance(self._pass, Product):
            return None
        u, info = solves.cg(self._pass, b, **options)
        self._counted(info.products)
        return u, info

    def series(self, a: Tensor, **options: Any) -> solves.Series | None:
        """A whole Neumann series in one call. None where there is no such call."""
        if isinstance(self._pass, Product):
            return None
        found = solves.neumann(self._pass, a, **options)
        self._counted(found.products)
        return found
