"""Expressions, types and domains as documents: parentheses, spaces, and where lines may break."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from bettyc.diagnostics.span import Source, Span
from bettyc.grammar import ast
from bettyc.grammar.layout import Doc, Group, Hang, Leaf, Line, Nest

# How tightly constructs bind, loosest first: the nesting of rules in `mlo.lark`.
ANY, OR, AND, NOT, COMPARE, RANGE, SUM, PRODUCT, SIGN, POWER, POSTFIX = range(11)

# Of each operator: its own level, and the loosest its operands may be without parentheses.
BINARY = {
    "or": (OR, OR, AND),
    "and": (AND, AND, NOT),
    "+": (SUM, SUM, PRODUCT),
    "-": (SUM, SUM, PRODUCT),
    "*": (PRODUCT, PRODUCT, SIGN),
    "/": (PRODUCT, PRODUCT, SIGN),
    "@": (PRODUCT, PRODUCT, SIGN),
    "^": (POWER, POSTFIX, SIGN),
}


class Phrases:
    """Makes the documents of the nodes of one file. Parentheses of the author's (`grouped`) are
    kept, one pair of each; those that the tree needs are always there.
    """

    def __init__(self, source: Source, grouped: Mapping[Span, Span] = MappingProxyType({})) -> None:
        self._file = source.name
        self._text = source.text
        self._grouped = grouped
        self._makers: dict[type, Callable[[Any], Doc]] = {
            ast.Number: lambda n: self.leaf(n.text or repr(n.value), n.span),
            ast.String: lambda n: self.leaf(f'"{n.value}"', n.span),
            ast.Bool: lambda n: self.leaf("true" if n.value else "false", n.span),
            ast.Name: lambda n: self.leaf(n.id, n.span),
            ast.Ident: self.ident,
            ast.List: lambda n: self._bracketed(
                n, self.opening("[", n), "", self._filled(n.items), "]"
            ),
            ast.Arg: self._arg,
            ast.Generator: self._generator,
            ast.Call: self._call,
            ast.Subscript: self._subscript,
            ast.Slice: self._slice,
            ast.Field: lambda n: [self.expr(n.base, POSTFIX), ".", self.ident(n.name)],
            ast.Response: self._response,
            ast.Unary: self._unary,
            ast.Binary: self._binary,
            ast.Compare: self._compare,
            ast.Range: lambda n: [self.expr(n.low, SUM), "..", self.expr(n.high, SUM)],
            ast.If: self._if,
            ast.ScalarType: self._scalar,
            ast.RecordType: self.record,
            ast.FieldType: lambda n: [self.ident(n.name), ": ", self.expr(n.type)],
            ast.Formal: self._formal,
            ast.Domain: self._domain,
        }

    def expr(self, node: ast.Node, level: int = ANY) -> Doc:
        """A node, in parentheses where something as tight as `level` must stand."""
        doc = self._makers[type(node)](node)
        around = self._grouped.get(node.span)
        if around:
            return [Leaf("(", around.start), doc, Leaf(")", around.end - 1)]
        return ["(", doc, ")"] if _level(node) < level else doc

    def ident(self, ident: ast.Ident) -> Doc:
        return self.leaf(ident.text, ident.span)

    def leaf(self, text: str, span: Span) -> Doc:
        return Leaf(text, span.start) if span.file == self._file else text

    def opening(self, text: str, node: ast.Node) -> Doc:
        """The word or bracket that a node starts with."""
        return Leaf(text, node.span.start) if node.span.file == self._file else text

    def closing(self, text: str, node: ast.Node) -> Doc:
        """A bracket that is the last character of a node."""
        return Leaf(text, node.span.end - 1) if node.span.file == self._file else text

    def after(self, text: str, node: ast.Node) -> Doc:
        """The operator that follows a node."""
        if node.span.file != self._file:
            return text
        around = self._grouped.get(node.span, node.span)
        return Leaf(text, next_token(self._text, around.end))

    def group(self, node: ast.Node, inside: Doc, broken: bool = False) -> Doc:
        if node.span.file != self._file:
            return Group(inside, broken=broken)
        return Group(inside, node.span.start, node.span.end, broken)

    def listed(self, nodes: Sequence[ast.Node]) -> Doc:
        """Nodes with commas, each on a line of its own when the group around is broken."""
        parts: list[Doc] = []
        for node in nodes:
            parts += [",", Line()] if parts else []
            parts.append(self.expr(node))
        return parts

    def _filled(self, nodes: Sequence[ast.Node]) -> Doc:
        """Nodes with commas, as many on a line as fit."""
        parts: list[Doc] = []
        for node in nodes:
            parts += [",", Group([Line(), self.expr(node)])] if parts else [self.expr(node)]
        return parts

    def _bracketed(self, node: ast.Node, head: Doc, opening: str, inside: Doc, closing: str) -> Doc:
        if not inside:
            return [head, opening, self.closing(closing, node)]
        body: Doc = [Nest([Line(""), inside]), Line(""), self.closing(closing, node)]
        return [head, self.group(node, [opening, body])]

    def _arg(self, node: ast.Arg) -> Doc:
        if node.name is None:
            return self.expr(node.value)
        return [self.ident(node.name), " = ", self.expr(node.value)]

    def _generator(self, node: ast.Generator) -> Doc:
        iterable: Doc = ["for ", self.ident(node.variable), " in ", self.expr(node.iterable)]
        return self.group(node, [self.expr(node.element), Line(), iterable])

    def _call(self, node: ast.Call) -> Doc:
        head = self.expr(node.function, POSTFIX)
        return self._bracketed(node, head, "(", self.listed(node.args), ")")

    def _subscript(self, node: ast.Subscript) -> Doc:
        return self._bracketed(
            node, self.expr(node.base, POSTFIX), "[", self.listed(node.indices), "]"
        )

    def _slice(self, node: ast.Slice) -> Doc:
        low = self.expr(node.low) if node.low else ""
        return [
            low,
            self.opening(":", node) if node.low is None else ":",
            self.expr(node.high) if node.high else "",
        ]

    def _response(self, node: ast.Response) -> Doc:
        return [self.expr(node.base, POSTFIX), "*.", self.ident(node.name)]

    def _unary(self, node: ast.Unary) -> Doc:
        if node.op == "not":
            return [self.opening("not ", node), self.expr(node.operand, NOT)]
        return [self.opening("-", node), self.expr(node.operand, SIGN)]

    def _binary(self, node: ast.Binary) -> Doc:
        """A chain of operators of one level breaks before each of them, or nowhere."""
        level, left, _ = BINARY[node.op]
        chain: list[tuple[Doc, Doc]] = []
        first: ast.Expr = node
        while (
            isinstance(first, ast.Binary)
            and BINARY[first.op][0] == level
            and (first is node or first.span not in self._grouped)
        ):
            space = "" if level == POWER else " "
            op = self.after(f"{first.op}{space}", first.left)
            chain.append((op, self.expr(first.right, BINARY[first.op][2])))
            first = first.left
            if level == POWER:
                break
        parts: list[Doc] = [self.expr(first, left)]
        for op, operand in reversed(chain):
            parts += [op, operand] if level == POWER else [Line(), op, operand]
        return parts if level == POWER else self.group(node, Hang(parts))

    def _compare(self, node: ast.Compare) -> Doc:
        right: Doc = [self.after(f"{node.op} ", node.left), self.expr(node.right, RANGE)]
        return self.group(node, Hang([self.expr(node.left, RANGE), Line(), right]))

    def _if(self, node: ast.If) -> Doc:
        then: Doc = [Line(), "then ", self.expr(node.then)]
        otherwise: Doc = [Line(), "else ", self.expr(node.otherwise)]
        head: Doc = [self.opening("if ", node), self.expr(node.condition, OR)]
        return self.group(node, [head, Nest([then, otherwise])])

    def _scalar(self, node: ast.ScalarType) -> Doc:
        head: list[Doc] = [self.ident(node.base)]
        if node.labels:
            head += ["<", self.expr(node.labels, SUM), ">"]
        if not node.dims:
            return head
        dims: list[Doc] = []
        for dim in node.dims:
            piece = self.expr(dim, SUM)
            dims += [",", Group([Line(), piece])] if dims else [piece]
        return self._bracketed(node, head, "[", dims, "]")

    def formals(self, nodes: Sequence[ast.Formal]) -> Doc:
        """A parameter list."""
        if not nodes:
            return "()"
        body: Doc = ["(", Nest([Line(""), self.listed(nodes)]), Line(""), ")"]
        return Group(body, nodes[0].span.start, nodes[-1].span.end)

    def record(self, node: ast.RecordType, broken: bool = False) -> Doc:
        """A record type; broken, its fields stand on one line if they fit and are no records."""
        if not node.fields:
            return [self.opening("{", node), self.closing("}", node)]
        fields: Doc = Group(self.listed(node.fields))
        if broken and any(isinstance(field.type, ast.RecordType) for field in node.fields):
            fields = self._column(node.fields)
        body: Doc = [
            self.opening("{", node),
            Nest([Line(), fields]),
            Line(),
            self.closing("}", node),
        ]
        return self.group(node, body, broken)

    def _column(self, nodes: Sequence[ast.FieldType]) -> Doc:
        """Fields below each other, their types in a column."""
        width = max(len(node.name.text) for node in nodes)
        parts: list[Doc] = []
        for node in nodes:
            pad = " " * (width - len(node.name.text))
            parts += [",", Line()] if parts else []
            parts += [self.ident(node.name), ": ", pad, self.expr(node.type)]
        return Group(parts, broken=True)

    def _formal(self, node: ast.Formal) -> Doc:
        if node.type is None:
            return self.ident(node.name)
        return [self.ident(node.name), ": ", self.expr(node.type)]

    def _domain(self, node: ast.Domain) -> Doc:
        if not node.args:
            return self.ident(node.name)
        return self._bracketed(node, self.ident(node.name), "(", self.listed(node.args), ")")


_SPACE = re.compile(r"(?:\s|#[^\r\n]*)*")


def next_token(text: str, offset: int) -> int:
    """Where the first token at or after `offset` starts."""
    found = _SPACE.match(text, offset)
    return found.end() if found else offset


def _level(node: ast.Node) -> int:
    if isinstance(node, ast.Binary):
        return BINARY[node.op][0]
    if isinstance(node, ast.Unary):
        return NOT if node.op == "not" else SIGN
    return {ast.If: ANY, ast.Compare: COMPARE, ast.Range: RANGE}.get(type(node), POSTFIX)
