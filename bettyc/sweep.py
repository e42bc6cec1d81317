"""The values of `--sweep PATH=VALUES` and the grid that several of them span.

    tune.optimizer.lr=log(1e-3..1e-1, 5)     five values, evenly spaced by factors, ends included
    fit.steps=linear(10..50, 5)              evenly spaced; whole where the ends are and it fits
    fit.optimizer=[sgd(lr = 0.1), adam]      these, as a program writes them

Values stay text: each is given to the program as `--set` would give it, and checked there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from bettyc.diagnostics.model import Diagnostic, Suggestion
from bettyc.diagnostics.registry import report
from bettyc.diagnostics.span import Source, Span
from bettyc.diagnostics.suggest import closest

RANGES = ("log", "linear")
FORMS = "log(a..b, n), linear(a..b, n) or a list [a, b, c]"
_PATH = re.compile(r"\s*[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\s*\Z")
_NUMBER = re.compile(r"[+-]?\d[\d_]*(\.\d+)?([eE][+-]?\d+)?")
_PAIRS = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True)
class Axis:
    """A path and the values that it takes, as text in the language's own syntax."""

    path: str
    values: tuple[str, ...]


class _Bad(Exception):
    """A mistake between two offsets of the option."""

    def __init__(self, problem: str, start: int, end: int, cure: str = "") -> None:
        super().__init__(problem)
        self.problem, self.start, self.end, self.cure = problem, start, end, cure


def axes(options: Sequence[str]) -> tuple[list[Axis], list[Diagnostic], list[Source]]:
    """The axes of all `--sweep` options; MLO0808 with the place inside the option that is wrong."""
    found: list[Axis] = []
    diagnostics: list[Diagnostic] = []
    sources: list[Source] = []
    for k, text in enumerate(options):
        source = Source("<--sweep>" if k == 0 else f"<--sweep {k + 1}>", text)
        sources.append(source)
        try:
            axis = _axis(text)
            if axis.path in {a.path for a in found}:
                raise _Bad(f"sweeps `{axis.path}` a second time", 0, len(text.split("=")[0]))
            found.append(axis)
        except _Bad as bad:
            span = Span(source.name, bad.start, max(bad.end, bad.start))
            cures = [Suggestion(bad.cure)] if bad.cure else []
            diagnostics.append(report("MLO0808", span, problem=bad.problem, suggestions=cures))
    return found, diagnostics, sources


def grid(found: Sequence[Axis]) -> Iterator[tuple[tuple[str, str], ...]]:
    """Every combination as (path, value) pairs, the last axis fastest; one, empty, of no axes."""
    for values in product(*(axis.values for axis in found)):
        yield tuple(zip((axis.path for axis in found), values, strict=True))


def _axis(text: str) -> Axis:
    path, sign, rest = text.partition("=")
    if not sign:
        raise _Bad("has no `=`", 0, len(text), f"write PATH=VALUES, with {FORMS}")
    if not _PATH.match(path):
        what = f"cannot set `{path.strip()}`" if path.strip() else "has no path before `=`"
        raise _Bad(what, 0, len(path) or 1, "name a param, dim or setting: tune.optimizer.lr")
    start = len(path) + 1 + len(rest) - len(rest.lstrip())
    end = len(text.rstrip())
    if start >= end:
        raise _Bad("has no values", len(text) - 1, len(text), f"write {FORMS}")
    if text[start] == "[":
        values = _list(text, start, end)
    elif re.match(r"\w+\s*\(", text[start:end]):
        values = _range(text, start, end)
    else:
        raise _Bad(f"has no such values: `{text[start:end]}`", start, end, f"write {FORMS}")
    return Axis(path.strip(), values)


def _list(text: str, start: int, end: int) -> tuple[str, ...]:
    """The items between brackets; commas inside brackets and strings part nothing."""
    items: list[str] = []
    for first, last in _items(text, start, end):
        item = text[first:last].strip()
        if not item:
            raise _Bad("has an empty value in its list", first, last + 1)
        if item in items:
            place = first + text[first:last].index(item)
            raise _Bad(f"lists `{item}` twice", place, place + len(item))
        items.append(item)
    return tuple(items)


def _items(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The places between the top commas of the bracket at `start`, which has to close at `end`."""
    opened: list[int] = []
    first, quoted = start + 1, False
    for k in range(start, end):
        letter = text[k]
        if letter == '"' and text[k - 1] != "\\":
            quoted = not quoted
        elif quoted:
            continue
        elif letter in _PAIRS:
            opened.append(k)
        elif letter in _PAIRS.values():
            if _PAIRS[text[opened[-1]]] != letter:
                raise _Bad(f"has `{letter}` without its opening", k, k + 1)
            opened.pop()
            if not opened:
                yield first, k
                if k + 1 < end:
                    raise _Bad(f"goes on after `{letter}`", k + 1, end)
                return
        elif letter == "," and len(opened) == 1:
            yield first, k
            first = k + 1
    raise _Bad(f"never closes `{text[opened[-1]]}`", opened[-1], opened[-1] + 1)


def _range(text: str, start: int, end: int) -> tuple[str, ...]:
    opening = text.index("(", start)
    name = text[start:opening].strip()
    if name not in RANGES:
        near = closest(name, RANGES)
        cure = f"did you mean `{near[0]}`?" if near else f"write {FORMS}"
        raise _Bad(f"knows no range `{name}`", start, opening, cure)
    places = list(_items(text, opening, end))
    form = f"write {name}(a..b, n)"
    if len(places) != 2:
        raise _Bad(f"wants the ends and the count in `{name}`", opening, end, form)
    (left, right), counted = places
    dots = text.find("..", left, right)
    if dots < 0:
        raise _Bad("has no `..` between the ends of its range", left, right, form)
    ends = [_number(text, left, dots), _number(text, dots + 2, right)]
    count = text[slice(*counted)].strip()
    if not count.isdecimal() or not 2 <= int(count) <= 10_000:
        raise _Bad("wants a whole number of values, at least 2", *_trimmed(text, *counted), form)
    low, high = map(float, ends)
    if low == high:
        raise _Bad("has a range whose ends are the same", left, right)
    if name == "log" and min(low, high) <= 0:
        raise _Bad("has a `log` range with an end that is not positive", left, right,
                   "write linear(a..b, n)")  # fmt: skip
    whole = all(re.fullmatch(r"[+-]?\d+", e) for e in ends)
    return _spaced(low, high, int(count), name == "log", whole)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The place without the spaces around it."""
    piece = text[start:end]
    inner = start + len(piece) - len(piece.lstrip())
    return (inner, inner + len(piece.strip())) if piece.strip() else (start, end)


def _number(text: str, start: int, end: int) -> str:
    first, last = _trimmed(text, start, end)
    word = text[first:last]
    if not _NUMBER.fullmatch(word):
        found = f"`{word}`" if word.strip() else "nothing"
        raise _Bad(f"expects a number, not {found}, at an end of its range", first, last)
    return word.replace("_", "")


def _spaced(low: float, high: float, count: int, log: bool, whole: bool) -> tuple[str, ...]:
    """The values as text: six digits, or all where six do not tell them apart."""
    shares = [k / (count - 1) for k in range(count)]
    if log:
        values = [low ** (1 - s) * high**s for s in shares]
    else:
        values = [low * (1 - s) + high * s for s in shares]
    if whole and not log and (high - low) % (count - 1) == 0:
        return tuple(str(round(v)) for v in values)
    short = tuple(repr(float(f"{v:.6g}")) for v in values)
    return short if len(set(short)) == count else tuple(repr(v) for v in values)
