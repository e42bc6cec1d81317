"""A level below the root as it stands now: what a sweep needs of it besides its objective."""

from __future__ import annotations

from bettyc.runtime.adjoint import Lower
from bettyc.runtime.response import Point, Reduced
from bettyc.runtime.stage import Stage


def lower_of(stage: Stage, point: Point) -> Lower:
    """The level of `stage` at `point`, with the strategy that the point has for it."""
    name, plan = stage.name, stage.plan
    compat = stage.linked.plan.compat
    total = plan.total == "total" and point.nest.inner(name)
    return Lower(
        point.strategies[name],
        mu=plan.mu,
        lr=stage.rate(),
        scale=stage.scale(),
        trajectory=stage.trajectory,
        reduced=Reduced(name, point) if total else None,
        sampling=stage.sampling,
        compat=compat,
        jacobian=stage.jacobian() if compat else None,
    )
