"""The shift-reduce machine that runs Lark's tables.

It differs from Lark's own parser where that pays: a keyword that cannot stand where it does is a
name; no tree is built between the text and the syntax tree; the stack is open to error recovery.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

from bettyc.grammar.lex import END, Token
from bettyc.grammar.tables import Rule, Tables, tables

# How a rule's children become a value: (children, start, end) -> value.
Action: TypeAlias = Callable[[list[Any], int, int], Any]

# The deepest nesting of nodes. Passes over the tree recurse, with some three calls a node.
DEEPEST = 200
# The highest stack; nothing of the depth above comes near.
HIGHEST = 10 * DEEPEST


class TooDeep(Exception):
    """A node would have more than `DEEPEST` nodes above one another."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__()
        self.start, self.end = start, end


class Machine:
    """The state of a parse: parallel stacks of states, of the values of their symbols, of where
    those start and end in the text, and of how deep they are nested.
    """

    def __init__(self, start: str, actions: dict[str, Action]) -> None:
        self.tables: Tables = tables()
        first, self.final = self.tables.starts[start]
        self.states = [first]
        self.values: list[Any] = [None]
        self.starts = [0]
        self.ends = [0]
        self.depths = [0]
        self._actions = [
            _pass if rule.unit or rule.helper else actions[rule.name] for rule in self.tables.rules
        ]

    def run(self, tokens: list[Token], at: int = 0, careful: bool = False) -> int:
        """Feed `tokens` from index `at` on. Returns the index of the first that does not fit, or
        their number when all did; then `values[-1]` is the result. Words that turn out to be names
        change their kind in `tokens`. Raises `TooDeep`.

        The merged states of LALR(1) may reduce before they see that a token does not fit; when
        `careful`, at twice the time, the stack is as the last token that fits left it.
        """
        actions, words = self.tables.actions, _word_kinds()
        states, values = self.states, self.values
        starts, ends, depths = self.starts, self.ends, self.depths
        count = len(tokens)
        while at < count:
            token = tokens[at]
            kind = token[0]
            if kind in words and not self.accepts(kind) and self.accepts("NAME"):
                kind = "NAME"
                tokens[at] = token = Token(kind, *token[1:])
            action = actions[states[-1]].get(kind)
            if careful and not self.accepts(kind):
                action = None
            while action is not None and action < 0:
                self.reduce(~action)
                if kind == END and states[-1] == self.final:
                    return count
                action = actions[states[-1]].get(kind)
            if action is None:
                if kind == "GE" and self.accepts("GT"):  # `int<C>= 3`
                    _, _, start, end = token
                    tokens[at : at + 1] = [
                        Token("GT", ">", start, start + 1),
                        Token("ASSIGN", "=", start + 1, end),
                    ]
                    count += 1
                    continue
                return at
            if len(states) > HIGHEST:
                raise TooDeep(token[2], token[3])
            states.append(action)
            values.append(token)
            starts.append(token[2])
            ends.append(token[3])
            depths.append(0)
            at += 1
        return count

    def reduce(self, number: int) -> None:
        """Replace the symbols of a rule by what it builds."""
        rule = self.tables.rules[number]
        states, values = self.states, self.values
        size = rule.size
        if rule.unit:
            states[-1] = self.tables.gotos[states[-2]][rule.origin]
            return
        if size == 0:
            start = end = self.ends[-1]
            depth = 0
            value = self._actions[number]([None] * len(rule.plan), start, end)
        else:
            start, end = self.starts[-size], self.ends[-1]
            depth = max(self.depths[-size:])
            below = values[-size:]
            if rule.helper:
                value = _gather(rule, below)
            else:
                last = self.ends[-2] if rule.ended else end
                value = self._actions[number](_children(rule, below), start, last)
                # Statements have a `doc`; they nest no deeper than the grammar says.
                depth = 0 if hasattr(value, "doc") else depth + 1
                if depth > DEEPEST:
                    raise TooDeep(start, end)
            for stack in (states, values, self.starts, self.ends, self.depths):
                del stack[-size:]
        states.append(self.tables.gotos[states[-1]][rule.origin])
        values.append(value)
        self.starts.append(start)
        self.ends.append(end)
        self.depths.append(depth)

    def settle(self, kind: str) -> None:
        """Make the reductions that a token of this kind would cause, if it could come next."""
        if self.accepts(kind):
            actions = self.tables.actions
            while (action := actions[self.states[-1]][kind]) < 0:
                self.reduce(~action)

    def accepts(self, kind: str) -> bool:
        """Whether a token of this kind could come next. (A state's row alone also holds reductions
        that lead nowhere.)
        """
        actions, gotos, rules = self.tables.actions, self.tables.gotos, self.tables.rules
        action = actions[self.states[-1]].get(kind)
        if action is None or action >= 0:
            return action is not None
        # The stack is self.states[:kept] + pushed.
        kept, pushed = len(self.states), list[int]()
        while action is not None and action < 0:
            rule = rules[~action]
            drop = rule.size - len(pushed)
            if drop >= 0:
                kept -= drop
                pushed.clear()
            else:
                del pushed[-rule.size :]
            top = pushed[-1] if pushed else self.states[kept - 1]
            pushed.append(gotos[top][rule.origin])
            if kind == END and pushed[-1] == self.final:
                return True
            action = actions[pushed[-1]].get(kind)
        return action is not None


@cache
def _word_kinds() -> frozenset[str]:
    return frozenset(tables().words.values())


def _children(rule: Rule, symbols: list[Any]) -> list[Any]:
    out: list[Any] = []
    for at in rule.plan:
        if at >= 0:
            out.append(symbols[at])
        elif at == -1:
            out.append(None)
        else:
            out += symbols[-2 - at]
    return out


def _gather(rule: Rule, symbols: list[Any]) -> list[Any]:
    """The list of a repetition; its beginning is extended in place, for it has one owner."""
    if rule.plan and rule.plan[0] < -1:
        gathered: list[Any] = symbols[-2 - rule.plan[0]]
        gathered += [symbols[at] for at in rule.plan[1:]]
        return gathered
    return _children(rule, symbols)


def _pass(children: list[Any], start: int, end: int) -> Any:
    """Stands in for the action of rules that build nothing."""
    return children[0]
