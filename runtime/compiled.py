"""Emitted functions compiled from C: what -O2 runs in place of torch's text, where that pays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from bettyc import emit_c
from bettyc.emit_c import Place
from bettyc.expr import Graph
from bettyc.kernels import blas, formula, native
from bettyc.runtime.link import Linked
from bettyc.runtime.objective import Frame

Theta = Mapping[str, Tensor]
# Updates of a level after which code of its own has repaid its compilation: 0.1 to 0.3 s for each
# of some three functions, whose calls save about 0.4 ms (an mlp of 85,000 parameters, batch 100).
REPAID = 2000


class Native:
    """A compiled function with what gives its operands; used as `Written` of closed.py.

    packed: elements of the one tensor that takes all results, for the functions that run once per
    solve; None where results are tensors of their own.
    """

    bound = None  # no single pass over the data

    def __init__(
        self,
        function: formula.Function,
        inputs: Callable[..., tuple[Tensor, ...]],
        positions: Sequence[int],
        text: str,
        packed: int | None,
        dtype: torch.dtype,
        pointers: Sequence[str],
    ) -> None:
        self.function, self.inputs, self.text = function, inputs, text
        self._positions, self._packed, self._dtype = tuple(positions), packed, dtype
        self._pointers = tuple(pointers)

    def at(
        self,
        theta: Theta,
        frame: Frame,
        fixed: Sequence[Tensor] = (),
        v: Tensor | None = None,
        out: Theta = MappingProxyType({}),
    ) -> tuple[Tensor, ...]:
        """Its results. out: flat tensors by level, for what it writes into them."""
        if self._packed is None:
            return self.function(self.inputs(theta, frame, fixed, v, out), self._positions)
        whole = torch.empty(self._packed, dtype=self._dtype)
        self.function(self.inputs(theta, frame, fixed, v, {"fixed": whole}), ())
        return (whole,)

    def matrix(
        self, theta: Theta, frame: Frame, fixed: Sequence[Tensor], level: str, size: int
    ) -> formula.BoundFormula | None:
        """A Hessian product of the level as the matrix of a solve; None where it does not depend on
        its direction.
        """
        pointers = self._pointers
        if "v" not in pointers:
            return None
        out = f'out["{level}"]'
        out_at = pointers.index(out if out in pointers else "result[0]")
        operands = self.inputs(theta, frame, fixed, None, {level: None})
        return self.function.matrix(operands, pointers.index("v"), out_at, size)


def available(linked: Linked) -> bool:
    """Whether formulas can be compiled for this run at all."""
    return (
        linked.plan.opt > 1
        and linked.device.type == "cpu"
        and linked.dtype in formula.REALS
        and blas.gemm(linked.dtype) is not None
        and native.library() is not None
    )


def placed(graph: Graph, nodes: Sequence[int], sizes: Mapping[str, int]) -> dict[int, Place]:
    """Where nodes lie in the one tensor `fixed[0]`."""
    found: dict[int, Place] = {}
    offset = 0
    for index in nodes:
        found[index] = "fixed[0]", offset
        offset += -(-emit_c.elements(graph, index, sizes) // emit_c.ALIGNED) * emit_c.ALIGNED
    return found


def write(
    linked: Linked,
    graph: Graph,
    name: str,
    outputs: Sequence[int],
    leaf: emit_c.Leaf,
    given: Mapping[int, Place],
    into: Sequence[Place | None],
    packed: bool = False,
) -> Native | None:
    """The function, or None where a part of it has no text in C or no compiler takes it.

    packed: `into` are places in one tensor that `at` makes and gives back.
    """
    try:
        found = emit_c.function(
            graph, outputs, name=name, leaf=leaf, sizes=linked.sizes, given=given, into=into
        )
    except emit_c.Unsupported:
        return None
    function = formula.compiled(
        name, found.text, found.kinds, found.scratch, found.results, linked.dtype
    )
    if function is None:
        return None
    positions = [k for k, base in enumerate(found.pointers) if base.startswith("result[")]
    operands = ["None" if k in positions else base for k, base in enumerate(found.pointers)]
    lines = [f"def {name}_inputs(theta, frame, fixed=(), v=None, out=None):"]
    if any("columns[" in base for base in operands):
        lines.append("    columns = frame.columns")
    lines += ["    return (", *(f"        {base}," for base in operands), "    )"]
    inputs = "\n".join(lines)
    namespace: dict[str, Any] = {"torch": torch}
    exec(compile(inputs, f"<bettyc {linked.plan.model.name}.{name}>", "exec"), namespace)
    said = "".join(f"#     {line}".rstrip() + "\n" for line in found.text.splitlines())
    text = f"# {name} is compiled from C; its helpers are those of native_formula.h:\n{said}\n\n"
    size = max(
        (at + emit_c.elements(graph, o, linked.sizes) for o, (_, at) in _pairs(outputs, into)),
        default=0,
    )
    return Native(
        function, namespace[f"{name}_inputs"], positions, text + inputs,
        size if packed else None, linked.dtype, found.pointers,
    )  # fmt: skip


def _pairs(outputs: Sequence[int], into: Sequence[Place | None]) -> list[tuple[int, Place]]:
    return [(o, place) for o, place in zip(outputs, into, strict=True) if place is not None]


__all__ = ["REPAID", "Native", "available", "placed", "write"]
