"""Patterns that name a level's parameters: `freeze = "bn.*"`, `group("*.bias", lr = 0.1)`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from bettyc.diagnostics.model import Diagnostic
from bettyc.diagnostics.registry import report
from bettyc.diagnostics.span import Span
from bettyc.model import Call, Level


def matches(name: str, pattern: str) -> bool:
    """`bn.*` matches parameters of any network of the level: with or without the network's own
    name.
    """
    return fnmatchcase(name, pattern) or fnmatchcase(name.partition(".")[2], pattern)


def written(level: Level) -> Iterator[tuple[str, str, Span | None]]:
    """Every pattern of `freeze` and `groups`, with its setting and place."""
    for setting in level.settings:
        key = setting.path.rpartition(".")[2]
        if key not in ("freeze", "groups") or setting.value is None:
            continue
        values = setting.value if isinstance(setting.value, tuple) else (setting.value,)
        for value in values:
            pattern = value.positional[0] if isinstance(value, Call) else value
            yield key, str(pattern), setting.span


def unmatched(level: Level, names: Iterable[str]) -> list[Diagnostic]:
    """MLO0618: patterns that match none of the level's parameters."""
    known = list(names)
    return [
        nothing(setting, pattern, level.name, span, known)
        for setting, pattern, span in written(level)
        if not any(matches(name, pattern) for name in known)
    ]


def nothing(
    setting: str, pattern: str, level: str, span: Span | None, known: Iterable[str]
) -> Diagnostic:
    """The diagnostic of one pattern. known: what there is to match."""
    listed = ", ".join(list(known)[:12]) or "none"
    return report(
        "MLO0618",
        span,
        setting=setting,
        pattern=pattern,
        level=level,
        label="matches nothing",
        notes=[f"names here: {listed}"],
    )
