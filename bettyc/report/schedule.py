"""The schedule of a plan as nested boxes: what repeats what, in which order, by which level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from bettyc.plan import Instruction, Plan, Repeat, Start
from bettyc.planner.text import call


def draw(plan: Plan) -> str:
    """Ordered lists inside ordered lists, so that a screen reader counts them, too."""
    return "\n".join(["<ol class='schedule'>", *_boxes(plan, plan.program), "</ol>"])


def _boxes(plan: Plan, program: Sequence[Instruction]) -> Iterator[str]:
    for instruction in program:
        if isinstance(instruction, Repeat):
            yield f"<li class='repeat'><span>repeat {instruction.times} times</span><ol>"
            yield from _boxes(plan, instruction.body)
            yield "</ol></li>"
            continue
        level = plan.level(instruction.level)
        colour = f"c{plan.order.index(level.name) % 8}"
        if isinstance(instruction, Start):
            yield _box(colour, "start", level.name, level.start)
            continue
        for pull in instruction.pulls:
            flow = f"{pull.level} → {', '.join(pull.into)}"
            yield _box(colour, "adjoint", flow, call(plan.level(pull.level).strategy))
        verb = type(instruction).__name__.lower()
        yield _box(colour, verb, level.name, call(level.optimizer))


def _box(colour: str, verb: str, what: str, how: str) -> str:
    return (
        f"<li class='do {colour}'><b>{verb}</b> {escape(what)} "
        f"<span class='how'>{escape(how)}</span></li>"
    )
