"""All syntax errors of a text, and the tree of what is left.

At an error the parser either goes on with the mistake repaired (a bracket, comma or operator put
in, a word replaced), so that one mistake is reported once, or gives up the statement: its symbols
leave the stack and the tokens up to the next statement are skipped. Of the errors on one line only
the first is reported.
"""

from __future__ import annotations

from bisect import bisect_left
from contextlib import suppress
from operator import itemgetter

from bettyc.diagnostics.model import Diagnostic
from bettyc.diagnostics.registry import report
from bettyc.diagnostics.span import Source, Span
from bettyc.grammar import ast
from bettyc.grammar.build import Builder, actions
from bettyc.grammar.lex import BAD, END, Token
from bettyc.grammar.machine import DEEPEST, Machine, TooDeep
from bettyc.grammar.mistake import Repair
from bettyc.grammar.mistakes import find
from bettyc.grammar.place import CLOSING, ITEMS, OPERAND_ENDS, STATEMENTS, Block, Place
from bettyc.grammar.tables import tables

# Beyond so many errors, reported or not, the rest of the text is left unread.
MOST = 200
# What a statement, perhaps a misspelt one, can begin with; what the one before ends with.
_BEGINNINGS = ITEMS | STATEMENTS | {"NAME"}
_ENDS = OPERAND_ENDS | {"RBRACE", "SEMICOLON", BAD}


def recover(
    source: Source, tokens: list[Token], builder: Builder
) -> tuple[ast.File, list[Diagnostic]]:
    """The statements of `tokens` that parse, and what is wrong with the others, in order."""
    recovery = _Recovery(source, tokens, Machine("file", actions(builder)))
    file = recovery.run()
    return file, sorted(recovery.found, key=lambda d: d.span.start if d.span else 0)


def first_error(source: Source, tokens: list[Token], builder: Builder, start: str) -> Diagnostic:
    """The first error of a text that does not parse as `start`."""
    machine = Machine(start, actions(builder))
    try:
        at = machine.run(tokens, careful=True)
    except TooDeep as error:
        return too_deep(source, error)
    return find(Place(source, tokens, at, machine)).diagnostic


def too_deep(source: Source, error: TooDeep) -> Diagnostic:
    return report("MLO0111", Span(source.name, error.start, error.end), deepest=DEEPEST)


def too_large(source: Source, largest: int) -> Diagnostic:
    return report("MLO0112", Span(source.name, 0, 0), largest=largest)


def wrong_version(version: ast.Number, spoken: tuple[int, int]) -> Diagnostic:
    ours = ".".join(map(str, spoken))
    return report(
        "MLO0110", version.span, needed=version.text, spoken=ours,
        notes=["upgrade bettyc, or let `bettyc fmt --migrate` rewrite the program"],
    )  # fmt: skip


class _Recovery:
    """One pass over the tokens, repairing or skipping at each error."""

    def __init__(self, source: Source, tokens: list[Token], machine: Machine) -> None:
        self.source = source
        self.tokens = tokens
        self.machine = machine
        self.found: list[Diagnostic] = []
        self._lines: set[int] = set()

    def run(self) -> ast.File:
        at = 0
        for _ in range(MOST):
            try:
                at = self.machine.run(self.tokens, at, careful=True)
            except TooDeep as error:
                self._report(too_deep(self.source, error))
                at = bisect_left(self.tokens, error.end, key=itemgetter(2))
                at = self._skip(Place(self.source, self.tokens, at, self.machine))
                continue
            if at == len(self.tokens):
                return self._result()
            place = self._place(at)
            mistake = find(place)
            self._report(mistake.diagnostic)
            repaired = self._repair(place, mistake.repair)
            at = self._skip(place) if repaired is None else repaired
        self._cut(Place(self.source, self.tokens, len(self.tokens) - 1, self.machine))
        # At the end of a statement of a block, the block is given up too.
        while self.machine.run([self.tokens[-1]], careful=True) == 0:
            brace = Place(self.source, self.tokens, 0, self.machine).block.brace
            assert brace is not None  # at top level the end fits
            self._drop(self.machine.values.index(brace))
            self._cut(Place(self.source, self.tokens, 0, self.machine))
        return self._result()

    def _result(self) -> ast.File:
        file: ast.File = self.machine.values[-1]
        return file

    def _place(self, at: int) -> Place:
        """The place of an error at index `at`. A keyword that was read as the name of a setting or
        a field, because it cannot stand there, is a keyword again.
        """
        last = self.machine.values[-1]
        if isinstance(last, Token) and last.kind == "RBRACE":
            self.machine.settle("LEVEL")  # the block is whole, and no longer around
        place = Place(self.source, self.tokens, at, self.machine)
        before = place.previous
        kind = tables().words.get(before.text)
        record = place.inside is not None and place.inside.kind == "LBRACE"
        field = record and self.machine.values[-1] is before and kind == "FROM"
        if not (kind and (place.name_begun or field)):
            return place
        self._drop(len(self.machine.values) - 1)
        self.tokens[at - 1] = before._replace(kind=kind)
        return Place(self.source, self.tokens, at - 1, self.machine)

    def _report(self, diagnostic: Diagnostic) -> None:
        assert diagnostic.span is not None  # syntax errors have places
        line, _ = self.source.position(diagnostic.span.start)
        if line not in self._lines:
            self._lines.add(line)
            self.found.append(diagnostic)

    def _repair(self, place: Place, repair: Repair | None) -> int | None:
        """Go on with the repair, if there is one and it leads on: the index to go on at."""
        if repair is None:
            return None
        back, remove, insert = repair
        machine, tokens, at = self.machine, self.tokens, place.at
        taken = machine.values[len(machine.values) - back :]
        if any(not isinstance(value, Token) for value in taken):
            return None
        if back == 0 and insert and not machine.accepts(insert[0].kind):
            return None
        self._drop(len(machine.values) - back)
        if place.token.kind == END:
            remove = 0
        tokens[at - back : at + remove] = insert
        return at - back

    def _skip(self, place: Place) -> int:
        """Give up the statement: the index of the token where the next one starts."""
        block, depth = self._cut(place)
        tokens, at = place.tokens, place.at
        kind = tokens[at].kind
        if kind != END and not self.machine.accepts(kind):
            depth = max(0, depth + (kind in CLOSING) - (kind in CLOSING.values()))
            at += 1
        while tokens[at].kind != END:
            kind = tokens[at].kind
            if kind in CLOSING:
                depth += 1
            elif kind in CLOSING.values():
                if kind == "RBRACE" and depth == 0 and block.brace is not None:
                    break
                depth = max(0, depth - 1)
            elif self._resumes(place, at, block, depth):
                break
            at += 1
        return at

    def _resumes(self, place: Place, at: int, block: Block, depth: int) -> bool:
        """Whether to go on at token `at`, `depth` brackets after the statement began."""
        token, before = place.tokens[at], place.tokens[at - 1]
        known = place.starts_statement(at, block.kind)
        item = place.starts_item(at)
        if not (known or item or token.kind in _BEGINNINGS):
            return False
        if not place.first_on_line(at):
            return known and depth == 0
        around = 0 if block.brace is None else place.indent(block.brace.start)
        outside = place.indent(token.start) <= around
        if item and outside:
            return True
        if known and block.kind != "file":
            return True
        # Any word that starts a line and cannot go on with the line before.
        return depth == 0 and before.kind in _ENDS and (outside or block.kind != "file")

    def _cut(self, place: Place) -> tuple[Block, int]:
        """Take the unfinished statement off the stack, but finish it where it could end here.
        Returns the block and the number of brackets that went.
        """
        with suppress(TooDeep):
            self.machine.settle("LEVEL" if place.block.brace is None else "RBRACE")
        block = Place(place.source, place.tokens, place.at, self.machine).block
        gone = self.machine.values[block.keep :]
        self._drop(block.keep)
        return block, sum(isinstance(value, Token) and value.kind in CLOSING for value in gone)

    def _drop(self, height: int) -> None:
        machine = self.machine
        for stack in (machine.states, machine.values, machine.starts, machine.ends, machine.depths):
            del stack[height:]
