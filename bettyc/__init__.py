"""bettyc, a compiler for multilevel optimization.

Importing it imports neither torch nor NetworkX; the names below are loaded when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from bettyc.api import Check, CompiledPlan, MloError, Program, load, load_plan, loads

_HOME = dict.fromkeys(
    ("Check", "CompiledPlan", "MloError", "Program", "load", "load_plan", "loads"), "bettyc.api"
)

__all__ = [
    "Check",
    "CompiledPlan",
    "MloError",
    "Program",
    "__version__",
    "load",
    "load_plan",
    "loads",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
