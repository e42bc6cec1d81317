"""The derivative functions that a plan runs, as text: for `bettyc compile --emit python`.

They are written by `bettyc.runtime.closed`, as in a run, from the plan alone: nothing is imported
and no data are read. Levels with opaque parts have none; their derivatives are autograd's.
"""

from __future__ import annotations

import torch

from bettyc.model import Call, Level
from bettyc.plan import Instruction, Plan, Repeat, Solve, Step
from bettyc.runtime.closed import Closed, closed
from bettyc.runtime.closed_replicas import of_all
from bettyc.runtime.closed_text import Texts
from bettyc.runtime.layout import layout
from bettyc.runtime.link import DTYPES, Linked
from bettyc.strategies import STRATEGIES

SECOND = frozenset({"newton", "exact"})  # solvers that use second derivatives


def derivatives(plan: Plan) -> dict[str, str]:
    """Text by name of function, those of one level together, lowest level first. Empty at -O0, and
    where a dim has no size yet.
    """
    sizes = {name: size for name, size in plan.model.dims if size is not None}
    if not plan.opt or len(sizes) < len(plan.model.dims):
        return {}
    layouts = {
        level.name: layout(level, plan.level(level.name).freeze, sizes, {})
        for level in plan.model.levels
    }
    linked = Linked(
        plan, plan.graph(), sizes, layouts, {}, {}, {}, {}, torch.device("cpu"),
        DTYPES[plan.precision],
    )  # fmt: skip
    found = {level.name: _form(linked, level) for level in plan.model.levels}
    forms = {name: form for name, form in found.items() if form is not None}
    _write(plan, plan.program, forms)
    return {
        name: text
        for level in plan.order
        for name, text in (forms[level].texts if level in forms else {}).items()
    }


def _form(linked: Linked, level: Level) -> Texts | None:
    """That of all replicas at once for a `foreach` level, unless the program says `loop`."""
    form = closed(linked, level)
    if form is None or level.task is None or level.setting("replicas") == Call("loop"):
        return form
    return of_all(form) or form


def _write(plan: Plan, program: tuple[Instruction, ...], forms: dict[str, Texts]) -> None:
    """Have the functions written in the order in which a run comes to them."""
    for instruction in program:
        if isinstance(instruction, Repeat):
            _write(plan, instruction.body, forms)
        elif isinstance(instruction, Step | Solve):
            _level(plan, instruction, forms)


def _level(plan: Plan, instruction: Step | Solve, forms: dict[str, Texts]) -> None:
    name, pulls = instruction.level, plan.sweep(instruction.level)
    form = forms.get(name)
    if isinstance(form, Closed):  # of all replicas it is written as a whole
        reads = [p.level for p in pulls if p.level in form.levels]
        if isinstance(instruction, Step) and not pulls:
            form.write_slope()
        form.write_gradients((name, *reads))
        if plan.level(name).optimizer.name in SECOND and form.leaves[name]:
            form.write_products(())
    for pull in pulls:
        lower, needs = forms.get(pull.level), STRATEGIES[plan.level(pull.level).strategy.name].needs
        if not isinstance(lower, Closed) or any(n not in lower.levels for n in pull.into):
            continue
        if needs == "hvp" and lower.leaves[pull.level]:
            lower.write_products(pull.into)
        elif needs == "gradient":
            lower.write_nearby(pull.into)
