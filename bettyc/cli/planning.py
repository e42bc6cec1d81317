"""From a checked program to the plan that `plan`, `compile`, `run` and `gradcheck` work on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bettyc.cli.common import Failed, Settings, report, sound

if TYPE_CHECKING:
    from bettyc.api import CompiledPlan
    from bettyc.driver import Checked
    from bettyc.plan import Plan
    from bettyc.runtime.run import Run


def bound(checked: Checked, s: Settings) -> Checked:
    """The program with its dims bound by its data, as far as that is at hand.

    A plan can be looked at without the data; only what `--data` names has to be there.
    """
    from bettyc.link import link

    return sound(link(checked, complete=False, needed=[name for name, _ in s.options.data]), s)


def planned(
    checked: Checked, s: Settings, *, opt: int, device: str | None = None, seed: int | None = None
) -> Plan:
    """The plan. Leaves with exit code 1, after a report, when there is none."""
    from bettyc.planner.build import make_plan

    plan, found = make_plan(checked, opt=opt, device=device, seed=seed)
    shown = replace(checked, diagnostics=tuple(found)).shown(s.levels)
    report(shown, checked.sources, s)
    if plan is None or any(d.severity == "error" for d in shown):
        raise Failed(1)
    return plan


def start(compiled: CompiledPlan, s: Settings, **options: Any) -> Run:
    """A run on the plan's data, or on made-up data under `--mock`. Raises InputError."""
    return compiled.start(include=s.options.include, **options)
