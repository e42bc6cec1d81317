"""The part of a program that brings one level, and those below it, to a response."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from bettyc.plan import Instruction, Repeat, Solve, Start, Step

Program = tuple[Instruction, ...]


class Fragment(NamedTuple):
    """warmups: what goes before the first time. body: what happens each time."""

    warmups: Program
    body: Program


def fragment(
    program: Program, level: str, group: Collection[str], *, repeated: bool, start: bool
) -> Fragment:
    """What `program` does to the levels of `group`, from a start of `level` to its response.

    repeated: whether the repeat around the level's update is its own; otherwise the level moves
    once. start: whether the level begins anew each time.
    """
    main = max(j for j, i in enumerate(program) if isinstance(i, Repeat))
    around = _around(program, level)
    inner = around[-1]
    body: Program = (_kept(inner, group),) if repeated else _only(inner.body, group)
    body = tuple(i for i in body if not (isinstance(i, Start) and i.level == level))
    return Fragment(
        _only(program[:main], group),
        (Start(level), *body) if start else body,
    )


def _around(program: Program, level: str) -> list[Repeat]:
    """The repeats around the level's last update, outermost first; empty where there is none."""
    for instruction in reversed(program):
        if isinstance(instruction, Repeat):
            inside = _around(instruction.body, level)
            found = any(isinstance(i, Step | Solve) and i.level == level for i in instruction.body)
            if inside or found:
                return [instruction, *inside]
    return []


def _kept(repeat: Repeat, group: Collection[str]) -> Repeat:
    return Repeat(repeat.times, _only(repeat.body, group))


def _only(body: Program, group: Collection[str]) -> Program:
    """The instructions for levels of the group, repeats that are left empty gone."""
    found: list[Instruction] = []
    for instruction in body:
        if isinstance(instruction, Repeat):
            kept = _kept(instruction, group)
            if kept.body:
                found.append(kept)
        elif instruction.level in group:
            found.append(instruction)
    return tuple(found)
