"""Mistakes made on purpose in every good program: each gets the code that names it.

Every operator below makes one edit whose meaning is known, so the answer is known too.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import pytest
from reading import GOOD, read, shown

from bettyc.diagnostics.model import Diagnostic
from bettyc.diagnostics.span import Span
from bettyc.grammar import ast
from bettyc.grammar.parse import parse
from bettyc.settings import LEVEL, RUN

# Where other reads already say that the level stands above, a read without its star moves nothing.
UNMOVED = "MLO0321"
UNDECIDED = {"MLO0319", "MLO0213", UNMOVED}
UNKNOWN = {"MLO0201", "MLO0202", "MLO0203", "MLO0208"}
MISFIT = {"MLO0401", "MLO0402", "MLO0403", "MLO0404", "MLO0405", "MLO0412", "MLO0417", "MLO0418"}


class Mutant(NamedTuple):
    """A program with one mistake. cure: the word that a suggestion must offer."""

    name: str
    text: str
    codes: set[str]
    cure: str = ""


def edited(text: str, *edits: tuple[Span, str]) -> str:
    for span, new in sorted(edits, reverse=True):
        text = text[: span.start] + new + text[span.end :]
    return text


def levels(file: ast.File) -> list[ast.Level]:
    return [i for i in file.items if isinstance(i, ast.Level)]


def objectives(file: ast.File) -> list[ast.Expr]:
    return [s.value for lv in levels(file) for s in lv.body if isinstance(s, ast.Objective)]


def drop_a_star(text: str, file: ast.File) -> Iterator[Mutant]:
    """Not in `detach`, where the value and the response are the same but for the order."""
    detached = [
        node.span
        for node in ast.walk(file)
        if isinstance(node, ast.Call)
        and isinstance(node.function, ast.Name)
        and node.function.id == "detach"
    ]
    for node in ast.walk(file):
        if isinstance(node, ast.Response):
            if any(s.start <= node.star.start < s.end for s in detached):
                continue
            star = Span("", node.star.start, node.star.start + 1)
            yield Mutant("star", edited(text, (star, "")), UNDECIDED, "*")


def rename_a_use(text: str, file: ast.File) -> Iterator[Mutant]:
    """A name inside a formula, misspelt by a letter at its end."""
    places = [*objectives(file)]
    places += [i.value for i in file.items if isinstance(i, ast.Metric)]
    places += [s.value for lv in levels(file) for s in lv.body if isinstance(s, ast.Let)]
    called = {n.function.id for n in ast.walk(file)
              if isinstance(n, ast.Call) and isinstance(n.function, ast.Name)}  # fmt: skip
    places += [i.body for i in file.items if isinstance(i, ast.Def) and i.name.text in called]
    for place in places:
        for node in ast.walk(place):
            if isinstance(node, ast.Name) and node.id not in ("new", "true", "false"):
                yield Mutant(node.id, edited(text, (node.span, node.id + "q")), UNKNOWN, node.id)
            elif isinstance(node, ast.Field | ast.Response):
                name, text_ = node.name, node.name.text + "q"
                yield Mutant(name.text, edited(text, (name.span, text_)), UNKNOWN, name.text)


def swap_two_dims(text: str, file: ast.File) -> Iterator[Mutant]:
    """In the types of variables and of data; not where the two are the same."""
    types = [s.type for lv in levels(file) for s in lv.body if isinstance(s, ast.Var)]
    for item in file.items:
        if isinstance(item, ast.Data) and isinstance(item.type, ast.RecordType):
            types += [f.type for f in item.type.fields]
    for type_ in types:
        if not isinstance(type_, ast.ScalarType) or len(type_.dims) < 2:
            continue
        a, b = type_.dims[:2]
        words = [text[d.span.start : d.span.end] for d in (a, b)]
        if words[0] != words[1]:
            yield Mutant("dims", edited(text, (a.span, words[1]), (b.span, words[0])), MISFIT)


def remove_mean(text: str, file: ast.File) -> Iterator[Mutant]:
    """Around a tensor in an objective, or in a `def` that makes one."""
    bodies = [i.body for i in file.items if isinstance(i, ast.Def)]
    used = {n.id for o in objectives(file) for n in ast.walk(o) if isinstance(n, ast.Name)}
    bodies = [i.body for i in file.items if isinstance(i, ast.Def) and i.name.text in used]
    for place in [*objectives(file), *bodies]:
        divisors = [
            n.right.span for n in ast.walk(place) if isinstance(n, ast.Binary) and n.op == "/"
        ]
        for node in ast.walk(place):
            if not isinstance(node, ast.Call) or not isinstance(node.function, ast.Name):
                continue
            if not node.args or any(s.start <= node.span.start < s.end for s in divisors):
                continue  # one may also divide by a tensor, entry by entry
            plain = len(node.args) == 1 and isinstance(node.args[0], ast.Arg)
            inside = [n for n in ast.walk(node.args[0]) if isinstance(n, ast.Call)]
            reduced = any(isinstance(n.function, ast.Name) and n.function.id == "mean"
                          for n in inside)  # fmt: skip
            if node.function.id == "mean" and plain and not reduced:
                yield Mutant("mean", edited(text, (node.function.span, "")), MISFIT)


def detach_the_only_link(text: str, file: ast.File) -> Iterator[Mutant]:
    """Of a level whose own variables are not in its objective."""
    for level in levels(file):
        objective = next(s.value for s in level.body if isinstance(s, ast.Objective))
        own = {s.name.text for s in level.body if isinstance(s, ast.Var | ast.Module)}
        reads = [n for n in ast.walk(objective) if isinstance(n, ast.Response)]
        lets = {s.name.text for s in level.body if isinstance(s, ast.Let)}
        bare = {n.id for n in ast.walk(objective) if isinstance(n, ast.Name)}
        if not reads or bare & (own | lets):
            continue
        edits = []
        for node in reads:
            whole = text[node.span.start : node.span.end]
            edits.append((node.span, f"detach({whole})"))
        yield Mutant("detach", edited(text, *edits), {"MLO0310", "MLO0312"})


def swap_a_star(text: str, file: ast.File) -> Iterator[Mutant]:
    """The lower level stars the upper one too: neither is on top."""
    names = {lv.name.text for lv in levels(file)}
    above: dict[str, set[str]] = {}
    for level in levels(file):
        for node in ast.walk(level):
            if isinstance(node, ast.Response) and node.base.id in names:  # type: ignore[union-attr]
                above.setdefault(node.base.id, set()).add(level.name.text)  # type: ignore[union-attr]
    for level in levels(file):
        for statement in level.body:
            if not isinstance(statement, ast.Objective):
                continue
            for node in ast.walk(statement):
                base = node.base if isinstance(node, ast.Field) else None
                if isinstance(base, ast.Name) and base.id in above.get(level.name.text, ()):
                    end = Span("", base.span.end, base.span.end)
                    yield Mutant("swap", edited(text, (end, "*")), {"MLO0301"})


def misspell_a_setting(text: str, file: ast.File) -> Iterator[Mutant]:
    blocks: list[tuple[tuple[ast.Node, ...], dict]] = [(lv.body, LEVEL) for lv in levels(file)]
    blocks += [(i.settings, RUN) for i in file.items if isinstance(i, ast.Run)]
    for body, known in blocks:
        for s in body:
            if isinstance(s, ast.Setting):
                word = s.name.text
                wrong = word[:-2] + word[-1] + word[-2]
                assert wrong not in known
                yield Mutant(word, edited(text, (s.name.span, wrong)), {"MLO0601"}, word)


OPERATORS = [
    drop_a_star,
    rename_a_use,
    swap_two_dims,
    remove_mean,
    detach_the_only_link,
    swap_a_star,
    misspell_a_setting,
]
# How many mutants each operator makes at least: a walk that finds nothing tests nothing.
LEAST = [20, 200, 15, 20, 8, 10, 60]


@cache
def answered(operator) -> list[tuple[Mutant, list[Diagnostic]]]:
    """Every mutant of every good program with its errors."""
    found = []
    for text in GOOD.values():
        file = parse(text, "p.mlo").file
        assert file is not None
        for mutant in operator(text, file):
            found.append((mutant, [d for d in shown(mutant.text) if d.severity == "error"]))
    return found


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: o.__name__)
def test_every_mutant_is_answered_with_its_code(operator):
    survivors = []
    for mutant, found in answered(operator):
        offered = [e.text for d in found for s in d.suggestions for e in s.edits]
        right = {d.code for d in found} & mutant.codes
        cured = not mutant.cure or mutant.cure in offered or right == {UNMOVED}
        if not right or not cured:
            survivors.append((mutant.name, [d.code for d in found], offered, mutant.text))
    assert survivors == []
    assert len(answered(operator)) >= LEAST[OPERATORS.index(operator)]


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: o.__name__)
def test_a_mutant_gets_one_diagnostic_for_its_one_mistake(operator):
    """A type or a `def` that is wrong may be wrong for several uses, each once and in one way: for
    operators MLO0401 or MLO0402, for parameters of functions from Python MLO0404.
    """
    declared = operator in (swap_two_dims, remove_mean)
    several = []
    for mutant, found in answered(operator):
        codes = {d.code for d in found} - ({"MLO0508"} if declared else set())
        if declared and codes & {"MLO0401", "MLO0402"}:
            codes = codes - {"MLO0402", "MLO0404"} | {"MLO0401"}
        once = len({d.span for d in found}) == len(found) and len(codes) == 1
        if not once or (len(found) > 1 and not declared):
            several.append((mutant.name, [(d.code, d.message) for d in found], mutant.text))
    assert several == []


def test_the_good_programs_have_no_findings():
    assert {name: [d.code for d in shown(text)] for name, text in GOOD.items() if shown(text)} == {}
    assert all(read(text).resolved for text in GOOD.values())
