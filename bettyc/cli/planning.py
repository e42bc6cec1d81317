"""From a checked program to the plan that `plan`, `compile`, `run` and `gradcheck` work on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bettyc.cli.common import Failed, Settings, report, said

if TYPE_CHECKING:
    from bettyc.driver import Checked
    from bettyc.plan import Plan


def bound(checked: Checked, s: Settings) -> Checked:
    """The program with its dims bound by its data, as far as that is at hand.

    A plan can be looked at without the data; only what `--data` names has to be there.
    """
    from bettyc.link import link

    linked = link(checked, complete=False)
    new = [d for d in linked.diagnostics if d not in checked.diagnostics]
    errors = [d for d in new if d.severity == "error"]
    if not errors:
        return linked
    if s.options.data or any(not d.code.startswith("MLO05") for d in errors):
        report(linked.shown(s.levels), linked.sources, s)
        raise Failed(1)
    if not s.quiet:
        said(f"note: sizes are not known, since the data was not read: {errors[0].message}")
    return checked


def planned(
    checked: Checked, s: Settings, *, opt: int, device: str | None = None, seed: int | None = None
) -> Plan:
    """The plan. Leaves with exit code 1, after a report, when there is none."""
    from bettyc.planner import make_plan

    plan, found = make_plan(checked, opt=opt, device=device, seed=seed)
    shown = replace(checked, diagnostics=tuple(found)).shown(s.levels)
    report(shown, checked.sources, s)
    if plan is None or any(d.severity == "error" for d in shown):
        raise Failed(1)
    return plan
