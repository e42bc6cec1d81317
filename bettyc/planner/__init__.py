"""The planner: which optimizer, which way to differentiate, in which order.

`make_plan` is loaded when first asked for: a check needs `choose` and `facts`, but not NetworkX.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "make_plan":
        from bettyc.planner.build import make_plan

        return make_plan
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
