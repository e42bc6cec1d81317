"""Choices that only change the time, measured once per machine and remembered.

They lie beside the compiled library ($BETTYC_CACHE; see native.py), in a file of JSON named after
it, so that another processor or compiler measures anew. Where nothing can be written, the process
remembers alone.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from bettyc.kernels import native

T = TypeVar("T")
REPEATS = 5
GAIN = 0.97  # of the first candidate's time, which another has to be below: less is chance
LIMIT = 1000  # choices that are kept
_known: dict[str, int] | None = None


def choose(key: str, candidates: Sequence[T], seconds: Callable[[T], float]) -> T:
    """The candidate that takes the fewest seconds, each tried `REPEATS` times by turns; the first
    one where none is clearly faster.

    key: what the choice depends on, candidates included.
    """
    known = _read()
    position = known.get(key)
    if position is None or position >= len(candidates):
        turns = [[seconds(c) for c in candidates] for _ in range(REPEATS)]
        least = [min(times) for times in zip(*turns, strict=True)]
        best = least.index(min(least))
        position = known[key] = best if least[best] < GAIN * least[0] else 0
        _write(key, position)
    return candidates[position]


def forget() -> None:
    """Read the file again when something is asked next."""
    global _known
    _known = None


def file() -> Path | None:
    """Where the choices lie; None without a library."""
    library = native.library()
    return None if library is None else Path(library._name).with_suffix(".json")


def _read() -> dict[str, int]:
    global _known
    if _known is None:
        _known = _load()
    return _known


def _load() -> dict[str, int]:
    path = file()
    try:
        found = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, int) and v >= 0}


def _write(key: str, position: int) -> None:
    """Add a choice to the file: what other processes wrote meanwhile is kept."""
    path = file()
    if path is None:
        return
    kept = {**dict(list(_load().items())[1 - LIMIT :]), key: position}
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, suffix=".json", delete=False, encoding="utf-8"
        ) as scratch:
            json.dump(kept, scratch)
        os.replace(scratch.name, path)
    except OSError:
        pass
