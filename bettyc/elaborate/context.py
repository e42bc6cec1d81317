"""The state of one elaboration: the graph being built, what is declared, what was reported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bettyc.diagnostics.model import Diagnostic, Note
from bettyc.diagnostics.registry import report
from bettyc.diagnostics.span import Span
from bettyc.elaborate.scope import Scope, Unit
from bettyc.elaborate.values import Pending, Signature
from bettyc.expr import Graph
from bettyc.model import DataSet, Draw, Extern, Network, Read, Setting, Split, Variable
from bettyc.types import REAL, Dim, Record, Tensor, Type


class Context:
    """Everything the passes of `bettyc.elaborate` share.

    sizes: dims bound from outside (data, --mock). reads: the mentions made by the expression at
    hand.
    """

    def __init__(self, main: Unit, sizes: Mapping[str, int]) -> None:
        self.main = main
        self.sizes = dict(sizes)
        self.graph = Graph()
        self.spans: dict[int, Span] = {}
        self.found: list[Diagnostic] = []
        self._seen: set[tuple[str, Span | None]] = set()
        self.reads: list[Read] = []
        self.detached = 0
        self.params: dict[tuple[str, str], Setting | None] = {}
        self.data: dict[str, DataSet] = {}
        self.columns: dict[str, Record | Tensor] = {}  # data sets and split parts by name
        self.rows: dict[str, Dim | None] = {}
        self.splits: dict[str, Split] = {}
        self.draws: dict[str, Draw] = {}
        self.externs: dict[str, Extern] = {}
        self.signatures: dict[tuple[str, str], Signature] = {}
        self.networks: dict[tuple[str, str], Network] = {}
        self.variables: dict[tuple[str, str], Variable] = {}
        self.owned: dict[str, list[Variable]] = {}
        self.tasks: dict[str, Draw] = {}
        self.lets: dict[tuple[str, str], Pending] = {}

    def report(self, code: str, span: Span | None, scope: Scope | None = None, **more: Any) -> None:
        """Record a diagnostic, once per code and place; inside a `def` it says in which call."""
        if (code, span) in self._seen:
            return
        self._seen.add((code, span))
        if scope is not None and scope.calls:
            notes = [
                Note(f"in this call of `{name}`", at)
                for name, at in zip(reversed(scope.defs), reversed(scope.calls), strict=True)
            ]
            more["notes"] = [*more.get("notes", ()), *notes]
        self.found.append(report(code, span, **more))

    def own(self, level: str, variable: Variable) -> None:
        """A variable of a level."""
        self.variables[level, variable.name] = variable
        self.owned.setdefault(level, []).append(variable)

    def place(self, node: int, span: Span) -> int:
        """Remember where a node was written first."""
        self.spans.setdefault(node, span)
        return node

    def number(self, value: float | int | bool, span: Span | None = None) -> int:
        from bettyc.types import BOOL, INT

        type_: Type = BOOL if isinstance(value, bool) else INT if isinstance(value, int) else REAL
        node = self.graph.leaf("const", type_, value=value)
        return node if span is None else self.place(node, span)

    def read(self, level: str, name: str, mode: str, span: Span) -> None:
        self.reads.append(Read(level, name, mode, self.detached > 0, span))

    def replay(self, reads: tuple[Read, ...]) -> None:
        """Count the reads of a `let` or argument at its use."""
        for r in reads:
            self.reads.append(
                Read(r.level, r.name, r.mode, r.detached or self.detached > 0, r.span)
            )

    @contextmanager
    def recording(self) -> Iterator[list[Read]]:
        """Collect the reads made inside, apart from those outside; `detach` around does not count
        yet.
        """
        outer, depth = self.reads, self.detached
        self.reads, self.detached = [], 0
        try:
            yield self.reads
        finally:
            self.reads, self.detached = outer, depth

    def errors(self) -> bool:
        return any(d.severity == "error" for d in self.found)
