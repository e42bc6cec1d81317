"""Where a parse stopped: the token that does not fit, what stands around it, what is still open."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from bettyc.diagnostics.span import Source, Span
from bettyc.grammar.lex import END, Token
from bettyc.grammar.machine import Machine
from bettyc.grammar.tables import tables

CLOSING = {"LPAR": "RPAR", "LSQB": "RSQB", "LBRACE": "RBRACE"}

# The words that start a statement, by the block it stands in; in `run` and `profile` a name does.
ITEMS = frozenset(
    ("IMPORT", "DIM", "PARAM", "EXTERN", "DATA", "SPLIT", "DRAW", "DEF", "METRIC", "LEVEL", "RUN")
) | {"PROFILE"}
STATEMENTS = frozenset(("VAR", "MODULE", "DRAW", "LET", "MINIMIZE", "MAXIMIZE", "METRIC"))
# What follows the first word of an item; a word followed by anything else is used as a name.
_SECOND = {
    "IMPORT": ("STRING", "BAD_STRING"),
    "EXTERN": ("FN", "MODULE", "SOURCE"),
    "RUN": ("LBRACE",),
}
# Tokens that can end and start an operand.
OPERAND_ENDS = frozenset(("NAME", "NUMBER", "STRING", "TRUE", "FALSE", "RPAR", "RSQB"))
OPERAND_STARTS = frozenset(("NAME", "NUMBER", "STRING", "TRUE", "FALSE", "LPAR"))


def is_word(token: Token) -> bool:
    """Whether a token is a name, or a keyword that could be one elsewhere."""
    return token.kind == "NAME" or token.kind in tables().words.values()


def terminal_text(kind: str) -> str:
    """How a terminal of the grammar is written, in backticks; in words when it has many forms."""
    known = tables()
    for fixed in (known.words, known.operators):
        for text, name in fixed.items():
            if name == kind:
                return f"`{text}`"
    names = {"NAME": "a name", "NUMBER": "a number", "STRING": "a string"}
    return names.get(kind, "the end of the file")


@dataclass(frozen=True)
class Block:
    """The innermost block around the error. `brace` is None for the file; `keep` is the height of
    the parser's stack with only the whole statements of the block on it.
    """

    kind: str
    keep: int
    brace: Token | None


@dataclass(frozen=True)
class Place:
    """The parse of `tokens` stopped at index `at`."""

    source: Source
    tokens: list[Token]
    at: int
    machine: Machine

    @property
    def token(self) -> Token:
        return self.tokens[self.at]

    def ahead(self, steps: int) -> Token:
        """The token some steps after this one, or before it; an end where there is none."""
        at = self.at + steps
        if 0 <= at < len(self.tokens):
            return self.tokens[at]
        offset = 0 if at < 0 else len(self.source.text)
        return Token(END, "", offset, offset)

    @property
    def previous(self) -> Token:
        return self.ahead(-1)

    def span(self, first: Token | None = None, last: Token | None = None) -> Span:
        """From one token to another, by default the one that does not fit."""
        first = first or self.token
        if first.kind == END:
            # Right after the last token: nobody wants to see the empty line at the end.
            end = self.ahead(-1).end
            return Span(self.source.name, end, end)
        return Span(self.source.name, first.start, (last or first).end)

    def after_previous(self) -> Span:
        """The empty place right after the previous token, for insertions."""
        return Span(self.source.name, self.previous.end, self.previous.end)

    def adjacent(self, a: Token, b: Token) -> bool:
        return a.end == b.start and END not in (a.kind, b.kind)

    def same_line(self, a: Token, b: Token) -> bool:
        if END in (a.kind, b.kind):
            return False
        return self.source.position(a.start)[0] == self.source.position(b.start)[0]

    def first_on_line(self, at: int) -> bool:
        return at == 0 or not self.same_line(self.tokens[at - 1], self.tokens[at])

    def indent(self, offset: int) -> int:
        """How far the line that holds `offset` is indented."""
        line = self.source.line(self.source.position(offset)[0])
        return len(line) - len(line.lstrip(" \t"))

    @cached_property
    def accepts(self) -> frozenset[str]:
        """The kinds of token that could stand here."""
        known = tables()
        kinds = {*known.words.values(), *known.operators.values(), *known.patterns, END}
        return frozenset(kind for kind in kinds if self.machine.accepts(kind))

    @cached_property
    def bracket(self) -> Token | None:
        """The innermost bracket that is still open."""
        for value in reversed(self.machine.values):
            if isinstance(value, Token) and value.kind in CLOSING:
                return value
        return None

    @cached_property
    def open(self) -> frozenset[str]:
        """The kinds of the brackets that would close one that is open."""
        kinds = (value.kind for value in self.machine.values if isinstance(value, Token))
        return frozenset(CLOSING[kind] for kind in kinds if kind in CLOSING)

    @cached_property
    def block(self) -> Block:
        """The innermost block that is still open; brackets inside it may be open too."""
        values = self.machine.values
        for height in range(len(values) - 1, 1, -1):
            value = values[height]
            if isinstance(value, Token) and value.kind == "LBRACE":
                kind = _block_kind(
                    [getattr(v, "kind", "") for v in values[max(0, height - 6) : height]]
                )
                if kind:
                    return Block(kind, _statements(values, height + 1), value)
        height = 1
        if len(values) > 1 and not isinstance(values[1], Token | list):
            height = 2  # the version
        return Block("file", _statements(values, height), None)

    @property
    def inside(self) -> Token | None:
        """The innermost open bracket that is not the brace of the block."""
        return None if self.bracket is self.block.brace else self.bracket

    @property
    def name_begun(self) -> bool:
        """Whether the previous token is a name that began a statement of its own."""
        height = self.block.keep + 1
        return (
            self.block.brace is not None
            and self.previous.kind == "NAME"
            and len(self.machine.values) == height
        )

    def starts_item(self, at: int) -> bool:
        """Whether an item (a statement at top level) seems to start at token `at`."""
        token = self.tokens[at]
        if token.kind not in ITEMS or self.tokens[at - 1].kind in ("DOT", "RESPONSE"):
            return False
        second = self.tokens[at + 1]
        expected = _SECOND.get(token.kind)
        return second.kind in expected if expected else is_word(second)

    def starts_statement(self, at: int, block: str) -> bool:
        """Whether a statement of a kind of block seems to start at token `at`."""
        if block == "file":
            return self.starts_item(at)
        token = self.tokens[at]
        if self.tokens[at - 1].kind in ("DOT", "RESPONSE") or not is_word(token):
            return False
        second = self.tokens[at + 1].kind
        if block == "level" and token.kind in STATEMENTS and second != "ASSIGN":
            return True
        return second == "ASSIGN" or (block == "profile" and second == "DOT")


def _block_kind(before: list[str]) -> str:
    """What the brace after these symbols opens; "" for a record type."""
    if before[-1:] == ["RUN"]:
        return "run"
    if before[-2:-1] == ["PROFILE"]:
        return "profile"
    if "LEVEL" in (*before[-2:-1], *before[-6:-5]):
        return "level"
    return ""


def _statements(values: list[object], height: int) -> int:
    """The height of the stack with the list of whole statements that may stand at `height`."""
    return height + 1 if height < len(values) and isinstance(values[height], list) else height
