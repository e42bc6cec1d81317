"""The ways to differentiate through a level, by the name a program writes.

SOLVES: u of H u = a; the cross products are taken for them. PULLS: the cross terms themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bettyc.runtime.strategies import cg, exact, finite_diff, minres, neumann, none, unroll
from bettyc.runtime.strategies.system import Pulled, Solution, System

SOLVES: dict[str, Callable[[System, Any], Solution]] = {
    "cg": cg.solve,
    "exact": exact.solve,
    "minres": minres.solve,
    "neumann": neumann.solve,
}

PULLS: dict[str, Callable[[System, Any], Pulled]] = {
    "finite_diff": finite_diff.pull,
    "none": none.pull,
    "unroll": unroll.pull,
}

# These replay the inner steps of all replicas of a level at once.
REPLAYS = frozenset({"unroll"})
