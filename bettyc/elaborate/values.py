"""What an expression of the language can stand for while formulas are built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from bettyc.model import Read
from bettyc.types import Dim, Record, Type

if TYPE_CHECKING:
    from bettyc.elaborate.scope import LevelDecl, Unit
    from bettyc.grammar import ast


@dataclass(frozen=True)
class Tens:
    """A tensor: a node of the graph."""

    node: int


@dataclass(frozen=True)
class Columns:
    """A record of data: `train`, a batch, a task, or a nested record of one. `make(path)` gives a
    field's leaf.
    """

    name: str
    type: Record
    make: Callable[[str], int]
    prefix: str = ""


@dataclass(frozen=True)
class Net:
    """A network of a level, with how its parameters are seen. `ema`: the decay of a moving
    average.
    """

    level: str
    name: str
    detached: bool = False
    ema: float | None = None


@dataclass(frozen=True)
class LevelName:
    """A level, before `.` or `*.`."""

    name: str


@dataclass(frozen=True)
class Replica:
    """One replica of a `foreach` level: `a` in `... for a in adapt`."""

    level: str


@dataclass(frozen=True)
class Namespace:
    """An imported file: `m` of `import "x.mlo" as m`."""

    unit: Unit


@dataclass(frozen=True)
class Literal:
    """A string, or another compile-time value that is no tensor."""

    value: str | bool


@dataclass(frozen=True)
class Bad:
    """Already diagnosed: silent from then on."""


BAD = Bad()
Meaning: TypeAlias = Tens | Columns | Net | LevelName | Replica | Namespace | Literal | Bad


@dataclass(frozen=True)
class Cell:
    """An evaluated name (`let`, an argument of a `def`) with the reads it made, to be counted at
    each use.
    """

    meaning: Meaning
    reads: tuple[Read, ...]


@dataclass
class Pending:
    """A `let` not yet looked at; `busy` while it is, to see definitions in terms of themselves."""

    node: ast.Let
    level: LevelDecl
    busy: bool = False
    cell: Cell | None = None


@dataclass(frozen=True)
class Signature:
    """An extern: its dims that are declared nowhere are generic and unified at each call."""

    formals: tuple[tuple[str, Type | None], ...]
    inputs: tuple[Type, ...]
    output: Type
    generic: frozenset[str]


def describe(meaning: Meaning) -> str:
    """For messages."""
    words = {
        Columns: "a record of data",
        Net: "a network",
        LevelName: "a level",
        Replica: "a replica",
        Namespace: "an imported file",
        Literal: "a string",
        Tens: "a tensor",
        Bad: "?",
    }
    return words[type(meaning)]


def unify(declared: Type, given: Type, bound: dict[str, Dim], generic: frozenset[str]) -> bool:
    """Does `given` fit `declared`? Binds the generic dims of `declared` in `bound`."""
    from bettyc.types import POISON, Tensor

    if given == POISON or declared == POISON:
        return True
    if isinstance(declared, Tensor) and isinstance(given, Tensor):
        if declared.kind != given.kind or len(declared.shape) != len(given.shape):
            return False
        pairs = list(zip(declared.shape, given.shape, strict=True))
        if declared.labels is not None:
            if given.labels is None:
                return False
            pairs.append((declared.labels, given.labels))
        return all(_unify_dim(d, g, bound, generic) for d, g in pairs)
    if isinstance(declared, Record) and isinstance(given, Record):
        return all(
            (t := given.get(n)) is not None and unify(f, t, bound, generic)
            for n, f in declared.fields
        )
    return type(declared) is type(given)


def _unify_dim(declared: Dim, given: Dim, bound: dict[str, Dim], generic: frozenset[str]) -> bool:
    declared = declared.bind(bound)
    if declared == given:
        return True
    names = declared.names
    if (
        len(declared.terms) == 1
        and len(names) == 1
        and names <= generic
        and declared.terms[0][1] == 1
        and len(declared.terms[0][0]) == 1
    ):
        bound[next(iter(names))] = given
        return True
    return False
