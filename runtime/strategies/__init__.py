"""The ways to differentiate through a level, by the name a program writes.

SOLVES: u of H u = a; the cross products are taken for them. PULLS: the cross terms themselves.
COMPAT: what other libraries mean by some of the names. LAUNCHES: those that can be queued without
a look at the device (`bettyc.runtime.strategies.launched`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bettyc.runtime.strategies import (
    betty,
    cg,
    danskin,
    exact,
    finite_diff,
    fixed_point,
    forward,
    gmres,
    minres,
    neumann,
    none,
    nystrom,
    one_step,
    penalty,
    sama,
    score,
    single_loop,
    unroll,
    zeroth_order,
)
from bettyc.runtime.strategies.launched import Launch
from bettyc.runtime.strategies.system import Pulled, Solution, System

SOLVES: dict[str, Callable[[System, Any], Solution]] = {
    "cg": cg.solve,
    "exact": exact.solve,
    "gmres": gmres.solve,
    "minres": minres.solve,
    "neumann": neumann.solve,
    "nystrom": nystrom.solve,
    "one_step": one_step.solve,
    "single_loop": single_loop.solve,
}

PULLS: dict[str, Callable[[System, Any], Pulled]] = {
    "danskin": danskin.pull,
    "finite_diff": finite_diff.pull,
    "fixed_point": fixed_point.pull,
    "forward": forward.pull,
    "none": none.pull,
    "penalty": penalty.pull,
    "sama": sama.pull,
    "score": score.pull,
    "unroll": unroll.pull,
    "zeroth_order": zeroth_order.pull,
}

LAUNCHES: dict[str, Launch] = {
    "cg": cg.launch,
    "danskin": danskin.launch,
    "finite_diff": finite_diff.launch,
    "neumann": neumann.launch,
    "none": none.launch,
    "one_step": one_step.launch,
    "single_loop": single_loop.launch,
    "unroll": unroll.launch,
}

COMPAT: dict[str, dict[str, Callable[[System, Any], Any]]] = {
    "": {},
    "betty": {
        "cg": betty.cg,
        "finite_diff": betty.finite_diff,
        "neumann": betty.neumann,
        "sama": betty.sama,
    },
}

# These take all replicas of a level at once.
WHOLE = frozenset({"fixed_point", "forward", "penalty", "sama", "unroll", "zeroth_order"})
