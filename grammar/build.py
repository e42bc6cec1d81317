"""Reductions of the grammar to nodes: one method per rule of `mlo.lark`, of the same name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from bettyc.diagnostics.span import Source, Span
from bettyc.grammar import ast
from bettyc.grammar.lex import Token
from bettyc.grammar.machine import Action

# What comes in as children: nodes, tokens, tuples of nodes, None for an absent part.
Children = list[Any]
N = TypeVar("N", bound=ast.Node)


class Builder:
    """Builds the nodes of one text. `docs` are its doc comments by the start of what they document;
    `grouped` collects the expressions in parentheses, as `ast.File` has them.
    """

    def __init__(self, source: Source, docs: dict[int, str]) -> None:
        self._file = source.name
        self._whole = Span(source.name, 0, len(source.text))
        self._docs = docs
        self.grouped: dict[Span, Span] = {}

    def _ident(self, token: Token) -> ast.Ident:
        return ast.Ident(token[1], Span(self._file, token[2], token[3]))

    def _string(self, token: Token) -> ast.String:
        return ast.String(token[1][1:-1], Span(self._file, token[2], token[3]))

    def _item(self, kind: Callable[..., N], start: int, end: int, *parts: Any) -> N:
        return kind(*parts, Span(self._file, start, end), self._docs.get(start, ""))

    # items

    def file(self, c: Children, start: int, end: int) -> ast.File:
        version, *items = c
        return ast.File(version, tuple(items), self._whole)

    def version(self, c: Children, start: int, end: int) -> ast.Number:
        token = c[0]
        return self.number(c, token.start, token.end)

    def import_(self, c: Children, start: int, end: int) -> ast.Import:
        alias = self._ident(c[1]) if c[1] else None
        return self._item(ast.Import, start, end, self._string(c[0]), alias)

    def dim(self, c: Children, start: int, end: int) -> ast.Dim:
        return self._item(ast.Dim, start, end, tuple(c))

    def dim_decl(self, c: Children, start: int, end: int) -> ast.DimDecl:
        return ast.DimDecl(self._ident(c[0]), c[1], Span(self._file, start, end))

    def param(self, c: Children, start: int, end: int) -> ast.Param:
        return self._item(ast.Param, start, end, self._ident(c[0]), *c[1:])

    def extern_fn(self, c: Children, start: int, end: int) -> ast.ExternFn:
        name, formals, returns, nondiff, origin = c
        return self._item(
            ast.ExternFn, start, end,
            self._ident(name), formals or (), returns, nondiff or (), self._string(origin),
        )  # fmt: skip

    def extern_module(self, c: Children, start: int, end: int) -> ast.ExternModule:
        name, formals, inputs, output, origin = c
        return self._item(
            ast.ExternModule, start, end,
            self._ident(name), formals or (), inputs, output, self._string(origin),
        )  # fmt: skip

    def extern_source(self, c: Children, start: int, end: int) -> ast.ExternSource:
        name, formals, type_, origin = c
        return self._item(
            ast.ExternSource,
            start,
            end,
            self._ident(name),
            formals or (),
            type_,
            self._string(origin),
        )

    def formals(self, c: Children, start: int, end: int) -> tuple[ast.Formal, ...]:
        return tuple(c)

    def formal(self, c: Children, start: int, end: int) -> ast.Formal:
        return ast.Formal(self._ident(c[0]), c[1], Span(self._file, start, end))

    def inputs(self, c: Children, start: int, end: int) -> tuple[ast.Type, ...]:
        return tuple(c)

    def names(self, c: Children, start: int, end: int) -> tuple[ast.Ident, ...]:
        return tuple(self._ident(token) for token in c)

    def data(self, c: Children, start: int, end: int) -> ast.Data:
        return self._item(ast.Data, start, end, self._ident(c[0]), c[1], c[2])

    def split(self, c: Children, start: int, end: int) -> ast.Split:
        of, *parts, options = c
        return self._item(ast.Split, start, end, self._ident(of), tuple(parts), options or ())

    def part(self, c: Children, start: int, end: int) -> ast.Part:
        return ast.Part(self._ident(c[0]), c[1], Span(self._file, start, end))

    def def_(self, c: Children, start: int, end: int) -> ast.Def:
        name, formals, returns, body = c
        return self._item(ast.Def, start, end, self._ident(name), formals or (), returns, body)

    def metric(self, c: Children, start: int, end: int) -> ast.Metric:
        return self._item(ast.Metric, start, end, self._ident(c[0]), c[1])

    def run(self, c: Children, start: int, end: int) -> ast.Run:
        return self._item(ast.Run, start, end, tuple(c))

    def profile(self, c: Children, start: int, end: int) -> ast.Profile:
        return self._item(ast.Profile, start, end, self._ident(c[0]), tuple(c[1:]))

    def override(self, c: Children, start: int, end: int) -> ast.Override:
        return self._item(ast.Override, start, end, c[0], c[1])

    path = names

    # levels

    def level(self, c: Children, start: int, end: int) -> ast.Level:
        name, task, tasks, *body = c
        task = self._ident(task) if task else None
        return self._item(ast.Level, start, end, self._ident(name), task, tasks, tuple(body))

    def var(self, c: Children, start: int, end: int) -> ast.Var:
        return self._item(ast.Var, start, end, self._ident(c[0]), *c[1:])

    def module(self, c: Children, start: int, end: int) -> ast.Module:
        return self._item(ast.Module, start, end, self._ident(c[0]), c[1])

    def draw(self, c: Children, start: int, end: int) -> ast.Draw:
        return self._item(ast.Draw, start, end, self._ident(c[0]), c[1])

    def let(self, c: Children, start: int, end: int) -> ast.Let:
        return self._item(ast.Let, start, end, self._ident(c[0]), c[1], c[2])

    def objective(self, c: Children, start: int, end: int) -> ast.Objective:
        return self._item(ast.Objective, start, end, c[0].text, c[1])

    def setting(self, c: Children, start: int, end: int) -> ast.Setting:
        return self._item(ast.Setting, start, end, self._ident(c[0]), c[1])

    def domain(self, c: Children, start: int, end: int) -> ast.Domain:
        return ast.Domain(self._ident(c[0]), c[1] or (), Span(self._file, start, end))

    # types

    def scalar_type(self, c: Children, start: int, end: int) -> ast.ScalarType:
        base, labels, dims = c
        return ast.ScalarType(self._ident(base), labels, dims or (), Span(self._file, start, end))

    def dims(self, c: Children, start: int, end: int) -> tuple[ast.Expr, ...]:
        return tuple(c)

    def record(self, c: Children, start: int, end: int) -> ast.RecordType:
        return ast.RecordType(tuple(filter(None, c)), Span(self._file, start, end))

    def field(self, c: Children, start: int, end: int) -> ast.FieldType:
        return ast.FieldType(self._ident(c[0]), c[1], Span(self._file, start, end))

    # expressions

    def expression(self, c: Children, start: int, end: int) -> ast.Expr:
        node: ast.Expr = c[0]
        return node

    def if_(self, c: Children, start: int, end: int) -> ast.If:
        return ast.If(c[0], c[1], c[2], Span(self._file, start, end))

    def binary(self, c: Children, start: int, end: int) -> ast.Binary:
        op = c[1].text
        return ast.Binary("^" if op == "**" else op, c[0], c[2], Span(self._file, start, end))

    def unary(self, c: Children, start: int, end: int) -> ast.Unary:
        return ast.Unary(c[0].text, c[1], Span(self._file, start, end))

    def compare(self, c: Children, start: int, end: int) -> ast.Compare:
        return ast.Compare(c[1].text, c[0], c[2], Span(self._file, start, end))

    def range(self, c: Children, start: int, end: int) -> ast.Range:
        return ast.Range(c[0], c[1], Span(self._file, start, end))

    def call(self, c: Children, start: int, end: int) -> ast.Call:
        return ast.Call(c[0], c[1] or (), Span(self._file, start, end))

    def subscript(self, c: Children, start: int, end: int) -> ast.Subscript:
        return ast.Subscript(c[0], tuple(c[1:]), Span(self._file, start, end))

    def slice(self, c: Children, start: int, end: int) -> ast.Slice:
        return ast.Slice(c[0], c[1], Span(self._file, start, end))

    def member(self, c: Children, start: int, end: int) -> ast.Field:
        return ast.Field(c[0], self._ident(c[1]), Span(self._file, start, end))

    def response(self, c: Children, start: int, end: int) -> ast.Response:
        base, star, name = c
        place = Span(self._file, star.start, star.end)
        return ast.Response(base, self._ident(name), place, Span(self._file, start, end))

    def number(self, c: Children, start: int, end: int) -> ast.Number:
        text: str = c[0].text
        digits = text.replace("_", "")
        # Python refuses to read ints of more than 4300 digits.
        whole = digits.isdecimal() and len(digits) < 4000
        return ast.Number(
            int(digits) if whole else float(digits), text, Span(self._file, start, end)
        )

    def string(self, c: Children, start: int, end: int) -> ast.String:
        return self._string(c[0])

    def name(self, c: Children, start: int, end: int) -> ast.Name:
        return ast.Name(c[0][1], Span(self._file, start, end))

    def bool(self, c: Children, start: int, end: int) -> ast.Bool:
        return ast.Bool(c[0].kind == "TRUE", Span(self._file, start, end))

    def group(self, c: Children, start: int, end: int) -> ast.Expr:
        node: ast.Expr = c[0]
        self.grouped[node.span] = Span(self._file, start, end)
        return node

    def list(self, c: Children, start: int, end: int) -> ast.List:
        return ast.List(tuple(filter(None, c)), Span(self._file, start, end))

    def args(self, c: Children, start: int, end: int) -> tuple[ast.Arg | ast.Generator, ...]:
        return tuple(c)

    def positional(self, c: Children, start: int, end: int) -> ast.Arg:
        return ast.Arg(None, c[0], Span(self._file, start, end))

    def keyword(self, c: Children, start: int, end: int) -> ast.Arg:
        return ast.Arg(self._ident(c[0]), c[1], Span(self._file, start, end))

    def generator(self, c: Children, start: int, end: int) -> ast.Generator:
        return ast.Generator(c[0], self._ident(c[1]), c[2], Span(self._file, start, end))


def actions(builder: Builder) -> dict[str, Action]:
    """What builds the node of each rule."""
    return {name: getattr(builder, name) for name in vars(Builder) if not name.startswith("_")}
