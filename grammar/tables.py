"""The LALR tables of the language: compiled by Lark from `mlo.lark`, kept in the user's cache.

Lark is imported only when the cache has no tables: importing it and loading its own cached parser
takes 90 ms, which a check of a short file should not pay; these tables load in 4. What is stored is
JSON, so that a damaged or foreign file can at worst be refused.
"""

from __future__ import annotations

import json
import os
import re
import sys
from functools import cache
from operator import itemgetter
from typing import Any, NamedTuple
from zlib import crc32

import bettyc

GRAMMAR = os.path.join(os.path.dirname(os.path.abspath(__file__)), "mlo.lark")
STARTS = ("file", "expression")
# The layout of the stored tables; part of the file's name.
LAYOUT = 3


class Rule(NamedTuple):
    """A production, and which symbols become children of the node it builds.

    `origin` is the nonterminal, `name` what is built (its alias, or `origin`). In `plan` an entry
    `i >= 0` is the i-th symbol, -1 an optional part that is absent, `-2 - i` the i-th symbol's
    list, spliced in. A `helper` gathers a repetition; a `unit` rule passes its one symbol on; the
    last symbol of an `ended` one is a semicolon, which is no part of what it builds.
    """

    origin: str
    size: int
    name: str
    plan: tuple[int, ...]
    helper: bool
    unit: bool
    ended: bool


class Tables(NamedTuple):
    """`actions[state][terminal]` is the state to shift to, or `~r` to reduce by rule r.

    `starts` gives the first and the final state of each start symbol; `words` and `operators`
    the terminals that are fixed strings, by their text; `patterns` the regular expressions.
    """

    actions: tuple[dict[str, int], ...]
    gotos: tuple[dict[str, int], ...]
    rules: tuple[Rule, ...]
    starts: dict[str, tuple[int, int]]
    words: dict[str, str]
    operators: dict[str, str]
    patterns: dict[str, str]


@cache
def tables() -> Tables:
    """The tables, from the cache if they are there, otherwise compiled and put there."""
    with open(GRAMMAR, encoding="utf-8") as file:
        grammar = file.read()
    path = cache_path(grammar)
    stored = _read(path)
    if stored is not None:
        return stored
    compiled = compile_grammar(grammar)
    _write(path, compiled)
    return _unpack(compiled)


def cache_path(grammar: str) -> str:
    """Where the tables of a grammar are kept; the name changes with all that they depend on."""
    digest = crc32(grammar.encode()) ^ LAYOUT
    name = (
        f"mlo-{bettyc.__version__}-lark{_lark_version()}"
        f"-py{sys.version_info.major}.{sys.version_info.minor}-{digest:08x}.json"
    )
    return os.path.join(_cache_folder(), name)


def _cache_folder() -> str:
    home = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(home):
        return os.path.join(home, "bettyc")
    if sys.platform == "win32":
        return os.path.join(
            os.environ.get("LOCALAPPDATA", os.path.expanduser("~")), "bettyc", "cache"
        )
    folder = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    return os.path.join(os.path.expanduser(folder), "bettyc")


def _lark_version() -> str:
    """Lark's version without importing it."""
    from importlib.util import find_spec

    spec = find_spec("lark")
    if spec is None or spec.origin is None:
        return "none"
    with open(spec.origin, encoding="utf-8") as file:
        found = re.search(r'__version__[^=\n]*= *"([^"\n]+)"', file.read())
    return found[1] if found else "unknown"


def _read(path: str) -> Tables | None:
    """The stored tables, or None when there are none that can be trusted."""
    try:
        with open(path, "rb") as file:
            if hasattr(os, "getuid") and os.fstat(file.fileno()).st_uid != os.getuid():
                return None
            checksum, _, body = file.read().partition(b"\n")
        if int(checksum, 16) != crc32(body):
            return None
        return _unpack(json.loads(body))
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _write(path: str, compiled: dict[str, Any]) -> None:
    """Store the tables whole or not at all; without a place to store them the next run compiles."""
    body = json.dumps(compiled, separators=(",", ":")).encode()
    folder = os.path.dirname(path)
    partial = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        if not os.path.isdir(folder):
            os.mkdir(folder, 0o700)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(b"%08x\n" % crc32(body) + body)
        os.replace(partial, path)
    except OSError:
        pass


def _unpack(stored: dict[str, Any]) -> Tables:
    return Tables(
        actions=tuple(stored["actions"]),
        gotos=tuple(stored["gotos"]),
        rules=tuple(Rule(o, s, n, tuple(p), *marks) for o, s, n, p, *marks in stored["rules"]),
        starts={name: (first, final) for name, (first, final) in stored["starts"].items()},
        words=stored["words"],
        operators=stored["operators"],
        patterns=stored["patterns"],
    )


# compiling ----------------------------------------------------------------------------------------


def compile_grammar(grammar: str) -> dict[str, Any]:
    """Compile with Lark and take over what its `save` writes, as a JSON value.

    Lark numbers the states by the order of sets; here it is that of a walk from the start states.
    """
    table, memo = _lark_tables(grammar)
    terminals = {
        row["name"]: row["pattern"] for row in memo.values() if row["__type__"] == "TerminalDef"
    }
    states = _walk([table["start_states"][name] for name in STARTS], table)
    numbers = {state: number for number, state in enumerate(states)}
    rules: dict[int, int] = {}
    actions: list[dict[str, int]] = []
    gotos: list[dict[str, int]] = []
    for state in states:
        actions.append({})
        gotos.append({})
        for name, (reduces, target) in _row(table, state):
            if reduces:
                actions[-1][name] = ~rules.setdefault(target["@"], len(rules))
            elif name in terminals or name == "$END":
                actions[-1][name] = numbers[target]
            else:
                gotos[-1][name] = numbers[target]
    fixed = {name: p["value"] for name, p in terminals.items() if p["__type__"] == "PatternStr"}
    return {
        "actions": actions,
        "gotos": gotos,
        "rules": [_rule(memo[key]) for key in rules],
        "starts": {
            name: (numbers[table["start_states"][name]], numbers[table["end_states"][name]])
            for name in STARTS
        },
        "words": {text: name for name, text in sorted(fixed.items()) if text.isalpha()},
        "operators": {text: name for name, text in sorted(fixed.items()) if not text.isalpha()},
        "patterns": {
            name: p["value"] for name, p in sorted(terminals.items()) if name not in fixed
        },
    }


def _lark_tables(grammar: str) -> tuple[dict[str, Any], dict[int, Any]]:
    """Lark's parse table, and the terminals and rules that it refers to."""
    import io
    import pickle

    from lark import Lark

    # Strict mode needs `interegular`, which users do not have; the tests have, and are strict.
    parser = Lark(
        grammar, parser="lalr", lexer="contextual", maybe_placeholders=True, start=list(STARTS)
    )
    saved = io.BytesIO()
    parser.save(saved)
    # Not a file of anybody's: the bytes that the line above wrote.
    content = pickle.loads(saved.getvalue())
    return content["data"]["parser"]["parser"], content["memo"]


def _row(table: dict[str, Any], state: int) -> list[tuple[str, Any]]:
    """What a state does at each symbol: (1, rule) to reduce, (0, state) to go there."""
    symbols: dict[int, str] = table["tokens"]
    return sorted(
        ((symbols[symbol], action) for symbol, action in table["states"][state].items()),
        key=itemgetter(0),
    )


def _walk(starts: list[int], table: dict[str, Any]) -> list[int]:
    """The states, each after the one it is first reached from."""
    found = dict.fromkeys(starts)
    waiting = list(starts)
    for state in waiting:
        for _, (reduces, target) in _row(table, state):
            if not reduces and target not in found:
                found[target] = None
                waiting.append(target)
    return list(found)


def _rule(row: dict[str, Any]) -> list[Any]:
    """A production as Lark's tree builder would read it."""
    origin: str = row["origin"]["name"]
    options = row["options"]
    # `empty_indices` has False for each symbol that is there and True for each that is not.
    present = options["empty_indices"] or [False] * len(row["expansion"])
    plan: list[int] = []
    at = 0
    for absent in present:
        if absent:
            plan.append(-1)
            continue
        symbol = row["expansion"][at]
        if symbol["__type__"] == "NonTerminal":
            plan.append(-2 - at if symbol["name"].startswith("_") else at)
        elif not symbol["filter_out"]:
            plan.append(at)
        at += 1
    unit = bool(options["expand1"] and not row["alias"] and at == 1 and plan == [0])
    ended = at > 0 and row["expansion"][-1]["name"] == "SEMICOLON"
    return [origin, at, row["alias"] or origin, plan, origin.startswith("_"), unit, ended]
