"""The formatter: a syntax tree and its comments to canonical text.

Two spaces of indentation, one statement a line, names and `=` of neighbouring statements of one
kind in columns, at most one blank line where the author had some. The text says the same as before
(`ast.plain` is equal), and formatting it again changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from bettyc.diagnostics.span import Source
from bettyc.grammar import ast
from bettyc.grammar.layout import Doc, Group, Layout, Leaf, Line, Nest, flat
from bettyc.grammar.lex import own_line
from bettyc.grammar.phrase import SUM, Phrases, next_token


def format(file: ast.File, source: Source, width: int = 100) -> str:
    """The canonical text of a parsed program, in lines of at most `width` columns where they can be
    broken. `source` is the text that `file` was parsed from, without errors: what did not parse is
    not in the tree and would be lost.
    """
    return _Printer(file, source, width).text()


def expr(node: ast.Node) -> str:
    """One expression, type or domain on one line, with the parentheses that it needs."""
    return flat(Phrases(Source("\0", "")).expr(node))


class _Columns(NamedTuple):
    """The widths to which the beginnings of the statements of a run are padded: up to the name,
    and from there up to `=`.
    """

    name: int = 0
    type: int = 0


# Statements whose name, and whose type, align with their neighbours'.
_NAMED = {
    ast.Var: "var ",
    ast.Let: "let ",
    ast.Module: "module ",
    ast.Draw: "draw ",
    ast.Metric: "metric ",
    ast.Param: "param ",
    ast.Data: "data ",
    ast.Setting: "",
}


class _Printer:
    """Puts out the statements of a file in order, and between them its comments and blank lines."""

    def __init__(self, file: ast.File, source: Source, width: int) -> None:
        self._file = file
        self._text = source.text
        self._width = width
        self._phrases = Phrases(source, file.grouped)
        self._layout = Layout(source.text, file.comments, width)
        # Where the last thing put out ended in the source, and whether it opened a block.
        self._done = 0
        self._opened = True
        self._makers: dict[type, Callable[[Any, _Columns], Doc]] = {
            ast.Import: self._import,
            ast.Dim: self._dim,
            ast.Param: self._declared,
            ast.ExternFn: self._extern_fn,
            ast.ExternModule: self._extern_module,
            ast.ExternSource: self._extern_source,
            ast.Data: self._data,
            ast.Split: self._split,
            ast.Def: self._def,
            ast.Metric: self._valued,
            ast.Var: self._declared,
            ast.Module: self._valued,
            ast.Let: self._declared,
            ast.Setting: self._valued,
            ast.Draw: self._draw,
            ast.Objective: self._objective,
            ast.Override: self._override,
        }

    def text(self) -> str:
        version = self._file.version
        if version:
            self._before(version.span.start, 0)
            self._put(["mlo ", self._phrases.expr(version)], 0, version.span.end)
        self._block(self._file.items, 0, len(self._text))
        first = self._text.partition("\n")[0]
        newline = "\r\n" if first.endswith("\r") else "\n"
        return "".join(line + newline for line in self._layout.lines())

    # order, comments, blank lines

    def _block(self, nodes: Sequence[Any], indent: int, end: int) -> None:
        """The statements of a block and its comments, up to offset `end`."""
        for run in self._runs(nodes):
            columns = self._columns(run)
            for node in run:
                self._before(node.span.start, indent)
                if isinstance(node, ast.Level | ast.Run | ast.Profile):
                    self._braces(node, indent)
                else:
                    self._put(self._makers[type(node)](node, columns), indent, node.span.end)
        self._before(end, indent, last=True)

    def _before(self, start: int, indent: int, last: bool = False) -> None:
        """The comments up to `start`, each behind the last statement or on its own line."""
        above = False
        for comment in self._layout.comments(start):
            own = own_line(self._text, comment.span.start)
            if own:
                self._gap(comment.span.start, above)
                self._layout.own(comment, indent)
            else:
                self._layout.trailing(comment, indent)
            self._done, above = comment.span.end, own
            self._opened = self._opened and not own
        if not last:
            self._gap(start, above)

    def _gap(self, start: int, above: bool = False) -> None:
        """Keep a blank line between the last thing (a comment if `above`) and one at `start`."""
        between = self._text[self._done : start].replace("\r\n", "\n").replace("\r", "\n")
        blank = any(not line.strip(" \t\f") for line in between.split("\n")[1:-1])
        # A comment above a semicolon is not about the statement that would now follow it.
        blank = blank or (above and ";" in between)
        if blank and not self._opened:
            self._layout.blank_line()

    def _put(self, doc: Doc, indent: int, end: int) -> None:
        """A statement that ends at `end` in the source."""
        self._layout.put(doc, indent)
        for comment in self._layout.comments(end):
            self._layout.trailing(comment, indent)
        self._done, self._opened = end, False

    def _runs(self, nodes: Sequence[Any]) -> Iterator[list[Any]]:
        """Neighbours of one kind, without a blank line or a comment on a line between them."""
        run: list[Any] = []
        for node in nodes:
            if run and not (type(node) is type(run[-1]) and self._neighbours(run[-1], node)):
                yield run
                run = []
            run.append(node)
        if run:
            yield run

    def _neighbours(self, a: ast.Node, b: ast.Node) -> bool:
        between = self._text[a.span.end : b.span.start].replace("\r\n", "\n").replace("\r", "\n")
        return between.count("\n") <= 1

    def _columns(self, run: list[Any]) -> _Columns:
        if len(run) < 2:
            return _Columns()
        kind = type(run[0])
        if kind is ast.Override:
            return _Columns(max(len(_path(node)) for node in run))
        if kind not in _NAMED:
            return _Columns()
        name = max(len(node.name.text) for node in run)
        typed = kind in (ast.Var, ast.Let)
        return _Columns(name, max(len(flat(self._type(node))) for node in run) if typed else 0)

    # blocks

    def _braces(self, node: ast.Level | ast.Run | ast.Profile, indent: int) -> None:
        """A statement with a block: on one line if the author had it there and it fits."""
        head: list[Doc] = []
        inside: Sequence[Any]
        if isinstance(node, ast.Level):
            head, inside = ["level ", self._phrases.ident(node.name)], node.body
            if node.task and node.tasks:
                task = self._phrases.ident(node.task)
                head += [" foreach ", task, " in ", self._phrases.expr(node.tasks)]
        elif isinstance(node, ast.Run):
            head, inside = ["run"], node.settings
        else:
            head, inside = ["profile ", self._phrases.ident(node.name)], node.overrides
        brace = self._brace(node)
        start, end = node.span.start, node.span.end
        commented = bool(self._layout.comments(end))
        first = self._text[brace + 1 : inside[0].span.start] if inside else ""
        if not commented and not isinstance(node, ast.Level) and not set(first) & {"\n", "\r"}:
            pieces = [flat(self._makers[type(part)](part, _Columns())) for part in inside]
            line = flat(head) + (f" {{ {'  '.join(pieces)} }}" if pieces else " {}")
            if len(line) + indent <= self._width:
                self._put(line, indent, end)
                return
        if not inside and not commented:
            self._put([*head, " {}"], indent, end)
            return
        self._put(Group([*head, " ", Leaf("{", brace)], start, brace), indent, brace + 1)
        self._opened = True
        self._block(inside, indent + 2, end - 1)
        self._put("}", indent, end)

    def _brace(self, node: ast.Level | ast.Run | ast.Profile) -> int:
        """Where the opening brace stands."""
        if isinstance(node, ast.Run):
            return next_token(self._text, node.span.start + len("run"))
        if isinstance(node, ast.Profile):
            return next_token(self._text, node.name.span.end)
        last = (node.tasks or node.name).span
        return next_token(self._text, self._file.grouped.get(last, last).end)

    # statements of levels

    def _type(self, node: ast.Var | ast.Let | ast.Param) -> Doc:
        """` : type in domain`."""
        parts: list[Doc] = [" : ", self._phrases.expr(node.type)] if node.type else []
        if not isinstance(node, ast.Let) and node.domain:
            parts += [" in ", self._phrases.expr(node.domain)]
        return parts

    def _name(self, node: Any, columns: _Columns) -> Doc:
        pad = " " * (columns.name - len(node.name.text))
        return [_NAMED[type(node)], self._phrases.ident(node.name), pad]

    def _declared(self, node: ast.Var | ast.Let | ast.Param, columns: _Columns) -> Doc:
        value = node.default if isinstance(node, ast.Param) else node.value
        type_ = self._type(node)
        if value is None:
            return [self._name(node, columns), type_]
        pad = " " * (columns.type - len(flat(type_)))
        return [self._name(node, columns), type_, pad, " = ", self._phrases.expr(value)]

    def _valued(self, node: ast.Module | ast.Metric | ast.Setting, columns: _Columns) -> Doc:
        return [self._name(node, columns), " = ", self._phrases.expr(node.value)]

    def _draw(self, node: ast.Draw, columns: _Columns) -> Doc:
        return [self._name(node, columns), " from ", self._phrases.expr(node.source)]

    def _objective(self, node: ast.Objective, columns: _Columns) -> Doc:
        return [node.sense, " ", self._phrases.expr(node.value)]

    def _override(self, node: ast.Override, columns: _Columns) -> Doc:
        pad = " " * (columns.name - len(_path(node)))
        return [Leaf(_path(node), node.span.start), pad, " = ", self._phrases.expr(node.value)]

    # items

    def _import(self, node: ast.Import, columns: _Columns) -> Doc:
        alias: Doc = [" as ", self._phrases.ident(node.alias)] if node.alias else ""
        return ["import ", self._phrases.expr(node.path), alias]

    def _dim(self, node: ast.Dim, columns: _Columns) -> Doc:
        parts: list[Doc] = []
        for decl in node.decls:
            part: list[Doc] = [self._phrases.ident(decl.name)]
            if decl.value:
                part += [" = ", self._phrases.expr(decl.value, SUM)]
            parts += [",", Group([Line(), part])] if parts else [part]
        return ["dim ", Nest(parts)]

    def _extern(self, kind: str, node: Any, signature: Doc) -> Doc:
        """Breaks before `from`, and if that is not enough before the signature."""
        head: Doc = [
            f"extern {kind} ",
            self._phrases.ident(node.name),
            self._phrases.formals(node.formals),
        ]
        origin = self._phrases.expr(node.origin)
        inner = Group([head, Nest([Line(), signature])], node.span.start, node.origin.span.start)
        return self._phrases.group(node, [inner, Nest([Line(), "from ", origin])])

    def _extern_fn(self, node: ast.ExternFn, columns: _Columns) -> Doc:
        signature: list[Doc] = ["-> ", self._phrases.expr(node.returns)]
        if node.nondiff:
            names: Doc = [Nest([Line(""), self._phrases.listed(node.nondiff)]), Line(""), ")"]
            signature += [" nondiff(", Group(names)]
        return self._extern("fn", node, signature)

    def _extern_module(self, node: ast.ExternModule, columns: _Columns) -> Doc:
        inputs = self._phrases.listed(node.inputs)
        if len(node.inputs) != 1:
            body: Doc = ["(", Nest([Line(""), inputs]), Line(""), ")"]
            inputs = Group(body, node.inputs[0].span.start, node.inputs[-1].span.end)
        return self._extern("module", node, [": ", inputs, " -> ", self._phrases.expr(node.output)])

    def _extern_source(self, node: ast.ExternSource, columns: _Columns) -> Doc:
        head: list[Doc] = [
            "extern source ", self._phrases.ident(node.name), self._phrases.formals(node.formals)
        ]  # fmt: skip
        return self._typed(node, head, node.type, self._phrases.expr(node.origin))

    def _data(self, node: ast.Data, columns: _Columns) -> Doc:
        head: list[Doc] = [self._name(node, columns)]
        source = self._phrases.expr(node.source)
        if node.type is None:
            return [*head, " from ", source]
        return self._typed(node, head, node.type, source)

    def _typed(self, node: ast.Node, head: list[Doc], type_: ast.Type, origin: Doc) -> Doc:
        """`head : type from origin`, broken before `from` or else inside a record."""
        whole: list[Doc] = [*head, " : ", self._phrases.expr(type_)]
        commented = any(
            node.span.start < c.span.start < type_.span.end for c in self._file.comments
        )
        if isinstance(type_, ast.RecordType) and (commented or len(flat(whole)) > self._width):
            return [*head, " : ", self._phrases.record(type_, broken=True), " from ", origin]
        return self._phrases.group(node, [*whole, Nest([Line(), "from ", origin])])

    def _split(self, node: ast.Split, columns: _Columns) -> Doc:
        parts: list[Doc] = []
        for part in node.parts:
            text: Doc = [
                self._phrases.ident(part.name),
                " = ",
                self._phrases.expr(part.fraction, SUM),
            ]
            parts += [",", Group([Line(), text])] if parts else [text]
        head: list[Doc] = ["split ", self._phrases.ident(node.of), " into ", Nest(parts)]
        if not node.options:
            return head
        options = self._phrases.listed(node.options)
        close = self._phrases.closing(")", node)
        return self._phrases.group(node, [*head, Nest([Line(), "with (", options, close])])

    def _def(self, node: ast.Def, columns: _Columns) -> Doc:
        head: list[Doc] = [
            "def ",
            self._phrases.ident(node.name),
            self._phrases.formals(node.formals),
        ]
        if node.returns:
            head += [" -> ", self._phrases.expr(node.returns)]
        return [*head, " = ", self._phrases.expr(node.body)]


def _path(node: ast.Override) -> str:
    return ".".join(ident.text for ident in node.path)
