"""The syntax tree: one frozen dataclass per construct, plain data.

Every node knows its `span`. A word that a diagnostic may point at is an `Ident` with a span of its
own. The span of an expression leaves out parentheses around it (`File.grouped` knows them); the
span of what contains it does not. Nodes compare by identity; `plain` gives what is independent of
places. Nothing here is checked: names, types and settings are the analyser's business.

The decorators leave out what is not needed, because every check of a program pays for it: making
48 such classes takes 12 ms, and 20 with `==` and a `repr` for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from bettyc.diagnostics.span import Span


class Comment(NamedTuple):
    """A comment from its `#` to the end of its line."""

    span: Span
    text: str


class Node:
    """What all nodes have in common."""

    span: Span

    def __repr__(self) -> str:
        fields = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if k != "span")
        return f"{type(self).__name__}({fields})"


@dataclass(frozen=True, eq=False, repr=False)
class Ident(Node):
    """A word in the text: the name of something, the key of a setting, the name of an argument."""

    text: str
    span: Span

    def __str__(self) -> str:
        return self.text


# expressions --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Number(Node):
    """`text` is what stands there (`1e-3`, `10_000`); an int has neither fraction nor exponent."""

    value: int | float
    text: str
    span: Span


@dataclass(frozen=True, eq=False, repr=False)
class String(Node):
    """A string without its quotes; there are no escapes."""

    value: str
    span: Span


@dataclass(frozen=True, eq=False, repr=False)
class Bool(Node):
    """`true` or `false`."""

    value: bool
    span: Span


@dataclass(frozen=True, eq=False, repr=False)
class Name(Node):
    """A name that stands for its value."""

    id: str
    span: Span


@dataclass(frozen=True, eq=False, repr=False)
class List(Node):
    """`[a, b]`."""

    items: tuple[Expr, ...]
    span: Span


@dataclass(frozen=True, eq=False, repr=False)
class Arg(Node):
    """An argument of a call, positional when `name` is None."""

    name: Ident | None
    value: Expr
    span: Span


@dataclass(frozen=True, eq=False, repr=False)
class Generator(Node):
    """`element for variable in iterable`, as an argument."""

    element: Expr
    variable: Ident
    iterable: Expr
    span: Span


@dataclass(frozen=True, eq=False, repr=False)
class Call(Node):
    """`function(args)`."""

    function: Expr
    args: tuple[Arg | Generator, ...]
    span: Span


@dataclass(frozen=True, eq=False, repr=False)
class Slice(Node):
    """`low:high` as an index; `:` has neither bound."""

    low: Expr | None
    high: Expr | None
    span: Span


@dataclass(frozen=True, eq=False, repr=False)
class Subscript(Node):
    """`base[indices]`; the name `new` adds an axis."""

    base: Expr
    indices: tuple[Expr | Slice, ...]
    span: Span


@dataclass(frozen=True, eq=False, repr=False)
class Field(Node):
    """`base.name`: a current value, a field of a record, a member of an import."""

    base: Expr
    name: Ident
    span: Span


@dataclass(frozen=True, eq=False, repr=False)
class Response(Node):
    """`base*.name`: a variable at its level's solution. `star` is the place of `*.`."""

    base: Expr
    name: Ident
    star: Span
    span: Span


@dataclass(frozen=True, eq=False, repr=False)
class Unary(Node):
    """`-operand`, `not operand`."""

    op: Literal["-", "not"]
    operand: Expr
    span: Span


@dataclass(frozen=True, eq=False, repr=False)
class Binary(Node):
    """Arithmetic and logic. `**` in the text is `^` here."""

    op: Literal["+", "-", "*", "/", "@", "^", "and", "or"]
    left: Expr
    right: Expr
    span: Span


@dataclass(frozen=True, eq=False, repr=False)
class Compare(Node):
    """One comparison; they do not chain."""

    op: Literal["==", "!=", "<", "<=", ">", ">="]
    left: Expr
    right: Expr
    span: Span


@dataclass(frozen=True, eq=False, repr=False)
class Range(Node):
    """`low..high`."""

    low: Expr
    high: Expr
    span: Span


@dataclass(frozen=True, eq=False, repr=False)
class If(Node):
    """`if condition then a else b`."""

    condition: Expr
    then: Expr
    otherwise: Expr
    span: Span


Expr: TypeAlias = (
    Number
    | String
    | Bool
    | Name
    | List
    | Call
    | Subscript
    | Field
    | Response
    | Unary
    | Binary
    | Compare
    | Range
    | If
)

# types and domains --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class ScalarType(Node):
    """`base<labels>[dims]`: `real`, `real[n, d]`, `int<C>[n]`, `str`, `module`."""

    base: Ident
    labels: Expr | None
    dims: tuple[Expr, ...]
    span: Span


@dataclass(frozen=True, eq=False, repr=False)
class FieldType(Node):
    """One field of a record type."""

    name: Ident
    type: Type
    span: Span


@dataclass(frozen=True, eq=False, repr=False)
class RecordType(Node):
    """`{ x: real[n, d], y: int<C>[n] }`."""

    fields: tuple[FieldType, ...]
    span: Span


Type: TypeAlias = ScalarType | RecordType


@dataclass(frozen=True, eq=False, repr=False)
class Domain(Node):
    """Where a variable lives: `positive`, `interval(a, b)`."""

    name: Ident
    args: tuple[Arg | Generator, ...]
    span: Span


# statements of levels; `doc` is the text of the `##` comments above -------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Var(Node):
    """`var name : type in domain = value`."""

    name: Ident
    type: Type
    domain: Domain | None
    value: Expr | None
    span: Span
    doc: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Module(Node):
    """`module name = value`."""

    name: Ident
    value: Expr
    span: Span
    doc: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Draw(Node):
    """`draw name from source`, in a level or at top level."""

    name: Ident
    source: Expr
    span: Span
    doc: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Let(Node):
    """`let name : type = value`."""

    name: Ident
    type: Type | None
    value: Expr
    span: Span
    doc: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Objective(Node):
    """`minimize value`; the word `sense` is where the span starts."""

    sense: Literal["minimize", "maximize"]
    value: Expr
    span: Span
    doc: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Setting(Node):
    """`name = value`, in a level or in the run block."""

    name: Ident
    value: Expr
    span: Span
    doc: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Metric(Node):
    """`metric name = value`, in a level or at top level."""

    name: Ident
    value: Expr
    span: Span
    doc: str = ""


Statement: TypeAlias = Var | Module | Draw | Let | Objective | Metric | Setting

# items --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Import(Node):
    """`import "losses.mlo" as alias`."""

    path: String
    alias: Ident | None
    span: Span
    doc: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class DimDecl(Node):
    """A dim, bound by data when `value` is None."""

    name: Ident
    value: Expr | None
    span: Span


@dataclass(frozen=True, eq=False, repr=False)
class Dim(Node):
    """`dim n, d = 784`."""

    decls: tuple[DimDecl, ...]
    span: Span
    doc: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Param(Node):
    """`param name : type in domain = default`."""

    name: Ident
    type: Type
    domain: Domain | None
    default: Expr | None
    span: Span
    doc: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Formal(Node):
    """A parameter of a `def` or of an extern."""

    name: Ident
    type: Type | None
    span: Span


@dataclass(frozen=True, eq=False, repr=False)
class ExternFn(Node):
    """`extern fn name(formals) -> returns nondiff(...) from "pkg.mod:attr"`."""

    name: Ident
    formals: tuple[Formal, ...]
    returns: Type
    nondiff: tuple[Ident, ...]
    origin: String
    span: Span
    doc: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class ExternModule(Node):
    """`extern module name(formals) : inputs -> output from "pkg.mod:attr"`."""

    name: Ident
    formals: tuple[Formal, ...]
    inputs: tuple[Type, ...]
    output: Type
    origin: String
    span: Span
    doc: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class ExternSource(Node):
    """`extern source name(formals) : type from "pkg.mod:attr"`."""

    name: Ident
    formals: tuple[Formal, ...]
    type: Type
    origin: String
    span: Span
    doc: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Data(Node):
    """`data name : type from source`."""

    name: Ident
    type: Type | None
    source: Expr
    span: Span
    doc: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Part(Node):
    """`name = fraction` of a split."""

    name: Ident
    fraction: Expr
    span: Span


@dataclass(frozen=True, eq=False, repr=False)
class Split(Node):
    """`split of into parts with (options)`."""

    of: Ident
    parts: tuple[Part, ...]
    options: tuple[Arg | Generator, ...]
    span: Span
    doc: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Def(Node):
    """`def name(formals) -> returns = body`."""

    name: Ident
    formals: tuple[Formal, ...]
    returns: Type | None
    body: Expr
    span: Span
    doc: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Run(Node):
    """`run { settings }`."""

    settings: tuple[Setting, ...]
    span: Span
    doc: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Override(Node):
    """`path = value`, where the path is dotted."""

    path: tuple[Ident, ...]
    value: Expr
    span: Span
    doc: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Profile(Node):
    """`profile name { overrides }`."""

    name: Ident
    overrides: tuple[Override, ...]
    span: Span
    doc: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Level(Node):
    """`level name foreach task in tasks { body }`; `task` and `tasks` come together."""

    name: Ident
    task: Ident | None
    tasks: Expr | None
    body: tuple[Statement, ...]
    span: Span
    doc: str = ""


Item: TypeAlias = (
    Import
    | Dim
    | Param
    | ExternFn
    | ExternModule
    | ExternSource
    | Data
    | Split
    | Draw
    | Def
    | Level
    | Metric
    | Run
    | Profile
)


@dataclass(frozen=True, eq=False, repr=False)
class File(Node):
    """A program. `grouped` holds the expressions that stand in parentheses of their own: from their
    spans to those with all the parentheses.
    """

    version: Number | None
    items: tuple[Item, ...]
    span: Span
    comments: tuple[Comment, ...] = ()
    grouped: Mapping[Span, Span] = field(default_factory=dict)


# walking ------------------------------------------------------------------------------------------


def children(node: Node) -> Iterator[Node]:
    """The nodes directly inside `node`, in the order of its fields."""
    for value in vars(node).values():
        if isinstance(value, Node):
            yield value
        elif type(value) is tuple:
            for item in value:
                if isinstance(item, Node):
                    yield item


def walk(node: Node) -> Iterator[Node]:
    """`node` and all nodes inside it, each before what it contains."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(reversed(list(children(node))))


def plain(node: Node) -> dict[str, Any]:
    """A JSON value of what the node says, without its places and comments.

    Two texts say the same exactly when this is equal: `2.0` and `2.00` differ.
    """
    out: dict[str, Any] = {"node": type(node).__name__}
    for key, value in vars(node).items():
        if key not in ("span", "star", "comments", "grouped"):
            out[key] = _plain(value)
    return out


def _plain(value: object) -> Any:
    if isinstance(value, Ident):
        return value.text
    if isinstance(value, Node):
        return plain(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
