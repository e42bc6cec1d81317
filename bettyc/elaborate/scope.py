"""The names of one file and of its levels, before anything is looked into."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bettyc.diagnostics.model import Diagnostic, Label
from bettyc.diagnostics.registry import report
from bettyc.diagnostics.span import Span
from bettyc.grammar import ast
from bettyc.ops import FUNCTIONS

KINDS: dict[type, str] = {
    ast.Param: "param",
    ast.ExternFn: "extern fn",
    ast.ExternModule: "extern module",
    ast.ExternSource: "extern source",
    ast.Data: "data",
    ast.Draw: "draw",
    ast.Def: "def",
    ast.Level: "level",
    ast.Metric: "metric",
    ast.DimDecl: "dim",
    ast.Part: "split part",
    ast.Var: "var",
    ast.Module: "module",
    ast.Let: "let",
}


@dataclass
class LevelDecl:
    """A level's own names. `members` in the order of the text."""

    node: ast.Level
    members: dict[str, Any] = field(default_factory=dict)
    settings: list[ast.Setting] = field(default_factory=list)
    objectives: list[ast.Objective] = field(default_factory=list)
    metrics: list[ast.Metric] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.node.name.text

    def of(self, kind: type) -> list[Any]:
        return [m for m in self.members.values() if isinstance(m, kind)]


@dataclass
class Unit:
    """One file: its global names, its levels, its imported files."""

    name: str
    file: ast.File
    names: dict[str, Any] = field(default_factory=dict)
    levels: dict[str, LevelDecl] = field(default_factory=dict)
    imports: dict[str, Unit] = field(default_factory=dict)
    splits: dict[str, ast.Split] = field(default_factory=dict)  # part name -> its split
    used: set[str] = field(default_factory=set)
    prefix: str = ""  # "m." of a file imported as m: keeps its externs apart

    def of(self, kind: type) -> Iterator[Any]:
        return (node for node in self.names.values() if isinstance(node, kind))


def collect(name: str, file: ast.File) -> tuple[Unit, list[Diagnostic]]:
    """The unit of a file, and MLO0204/MLO0205/MLO0303/MLO0304 of its declarations."""
    unit = Unit(name, file)
    found: list[Diagnostic] = []
    for item in file.items:
        if isinstance(item, ast.Dim):
            for decl in item.decls:
                _declare(unit.names, decl.name, decl, found)
        elif isinstance(item, ast.Split):
            for part in item.parts:
                _declare(unit.names, part.name, part, found)
                unit.splits[part.name.text] = item
        elif isinstance(item, ast.Level):
            _declare(unit.names, item.name, item, found)
            unit.levels.setdefault(item.name.text, _level(item, found))
        elif type(item) in KINDS:
            _declare(unit.names, item.name, item, found)  # type: ignore[union-attr]
    return unit, found


def _level(node: ast.Level, found: list[Diagnostic]) -> LevelDecl:
    level = LevelDecl(node)
    for statement in node.body:
        if isinstance(statement, ast.Setting):
            level.settings.append(statement)
        elif isinstance(statement, ast.Objective):
            level.objectives.append(statement)
        elif isinstance(statement, ast.Metric):
            level.metrics.append(statement)
        else:
            _declare(level.members, statement.name, statement, found)
    if not level.objectives:
        found.append(
            report("MLO0303", node.name.span, level=level.name, label="add `minimize ...`")
        )
    elif len(level.objectives) > 1:
        found.append(
            report(
                "MLO0304",
                level.objectives[1].span,
                level=level.name,
                count=len(level.objectives),
                label="a second objective",
                secondary=[Label(level.objectives[0].span, "the first")],
                notes=["join them with `+`, or make two levels"],
            )
        )
    return level


def _declare(table: dict[str, Any], ident: ast.Ident, node: Any, found: list[Diagnostic]) -> None:
    name = ident.text
    if name in FUNCTIONS:
        found.append(
            report("MLO0205", ident.span, name=name, kind="function", label="choose another name")
        )
    if name in table:
        found.append(
            report(
                "MLO0204",
                ident.span,
                name=name,
                label="declared again",
                secondary=[Label(ident_of(table[name]).span, "first declared here")],
            )
        )
        return
    table[name] = node


def ident_of(node: Any) -> ast.Ident:
    return node.name  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Scope:
    """Where an expression stands: its file, its level if any, and the names bound around it.

    where: "objective", "metric", "let", "def" or "setting"; metrics read without gradient.
    calls: spans of the `def` calls being expanded, outermost first.
    """

    unit: Unit
    level: LevelDecl | None = None
    local: Mapping[str, Any] = field(default_factory=dict)
    where: str = "objective"
    calls: tuple[Span, ...] = ()
    defs: tuple[str, ...] = ()

    def with_local(self, **names: Any) -> Scope:
        return Scope(
            self.unit, self.level, {**self.local, **names}, self.where, self.calls, self.defs
        )
