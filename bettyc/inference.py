"""Who is above whom: the order of the levels, inferred from how each objective mentions the others.

P reads `Q*.v`            Q is below P                       l2u edge (frozen inside `detach`)
P reads `Q.v`             legal only if Q is above P         u2l edge
P stars L, L reads R's value, and R's value reads lead back to P:
                          L's response passes through R's solution, so R is below P     implied
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from graphlib import CycleError

from bettyc.diagnostics.model import Diagnostic
from bettyc.hierarchy import Hierarchy, Mentions, stable_order
from bettyc.inference_errors import (
    implied_cycle,
    mixed_reads,
    own_star,
    star_cycle,
    undirected_pair,
)
from bettyc.model import Read


def infer(mentions: Sequence[Mentions]) -> tuple[Hierarchy, list[Diagnostic]]:
    """The hierarchy and what is wrong with it. With errors, `order` is empty where it has no
    meaning.
    """
    h, diagnostics = infer_once(mentions)
    if h.order:
        mixed = {(d.span, d.code) for d in diagnostics}
        skip = {
            (m.level, r.level) for m in mentions for r in m.reads if (r.span, "MLO0213") in mixed
        }
        diagnostics += _undirected(mentions, h, skip)
    return h, diagnostics


def infer_once(mentions: Sequence[Mentions]) -> tuple[Hierarchy, list[Diagnostic]]:
    """The hierarchy by stars alone; reads whose order is not decided are not looked for."""
    names = tuple(m.level for m in mentions)
    h = Hierarchy(names)
    diagnostics: list[Diagnostic] = []
    for m in mentions:
        h.starred[m.level], h.frozen[m.level] = {}, {}
        h.value[m.level], h.implied[m.level], h.below[m.level] = {}, {}, frozenset()
        for read in m.reads:
            if read.level == m.level:
                if read.mode == "response":
                    diagnostics.append(own_star(read))
                continue
            if read.mode == "response":
                (h.frozen if read.detached else h.starred)[m.level].setdefault(read.level, read)
            elif not read.detached:
                h.value[m.level].setdefault(read.level, read)
    if diagnostics:
        return h, diagnostics
    mixed = mixed_reads(mentions, h)
    diagnostics += mixed.values()
    _imply(h)
    cycle = _cycles(mentions, h)
    if cycle:
        return h, cycle
    h.below = _closure(h)
    h.order = tuple(stable_order({p: h.direct(p) for p in sorted(names)}))
    return h, diagnostics


def _imply(h: Hierarchy) -> None:
    """Levels that a starred level reads, and whose own value reads lead back to the one that
    stars.
    """
    for p in h.levels:
        pending = [*h.starred[p], *(q for q in h.frozen[p] if q not in h.starred[p])]
        leading = _leading(h, pending, p)
        seen = set(pending)
        while pending:
            lower = pending.pop()
            for r, read in h.value.get(lower, {}).items():
                if r == p or r in seen or r not in leading:
                    continue
                seen.add(r)
                if r not in h.starred[p] and r not in h.frozen[p]:
                    h.implied[p].setdefault(r, read)
                pending.append(r)


def _leading(h: Hierarchy, starts: Iterable[str], goal: str) -> set[str]:
    """The levels on paths of value reads from `starts` to `goal`."""
    readers: dict[str, list[str]] = {}
    seen = set(starts)
    stack = list(seen)
    while stack:
        current = stack.pop()
        for r in h.value.get(current, {}):
            readers.setdefault(r, []).append(current)
            if r != goal and r not in seen:
                seen.add(r)
                stack.append(r)
    leading: set[str] = set()
    stack = [goal]
    while stack:
        for current in readers.get(stack.pop(), ()):
            if current not in leading:
                leading.add(current)
                stack.append(current)
    return leading


def _cycles(mentions: Sequence[Mentions], h: Hierarchy) -> list[Diagnostic]:
    """MLO0301 and MLO0307 for cycles of stars, MLO0305 for pairs that are each implied below the
    other.
    """
    down = {p: set(h.starred[p]) | set(h.frozen[p]) for p in h.levels}
    try:
        list(stable_order(down))
    except CycleError as error:
        # graphlib lists predecessors: each level of the chain is starred by the next
        chain: list[str] = error.args[1][::-1]
        return [star_cycle(mentions, h, chain)]
    with_implied = {p: down[p] | set(h.implied[p]) for p in h.levels}
    try:
        list(stable_order(with_implied))
    except CycleError as error:
        chain = error.args[1][::-1]
        return [implied_cycle(h, chain)]
    return []


def _closure(h: Hierarchy) -> dict[str, frozenset[str]]:
    down = {p: h.direct(p) for p in h.levels}
    below: dict[str, frozenset[str]] = {}
    for p in stable_order(down):
        below[p] = frozenset(down[p]).union(*(below[q] for q in down[p]))
    return below


def _undirected(
    mentions: Sequence[Mentions], h: Hierarchy, skip: set[tuple[str, str]]
) -> list[Diagnostic]:
    """MLO0319, one per pair of levels: a bare read is legal only of a level above."""
    pairs = _undirected_pairs(mentions, h, skip)
    if len(pairs) > 1:
        # one forgotten star also leaves undecided what its response passes through: name it only
        cause = next((pair for pair in pairs if _star_cures_all(mentions, *pair)), None)
        pairs = [cause] if cause is not None else pairs
    return [undirected_pair(mentions, h, p, read) for p, read in pairs]


def _star_cures_all(mentions: Sequence[Mentions], p: str, read: Read) -> bool:
    """Would starring what `p` reads of that level leave nothing undecided?"""
    starred = [
        replace(
            m,
            reads=tuple(
                replace(r, mode="response") if m.level == p and r.level == read.level else r
                for r in m.reads
            ),
        )
        for m in mentions
    ]
    changed, wrong = infer_once(starred)
    return not wrong and not _undirected_pairs(starred, changed, set())


def _undirected_pairs(
    mentions: Sequence[Mentions], h: Hierarchy, skip: set[tuple[str, str]]
) -> list[tuple[str, Read]]:
    """(reader, first mention) of each pair of levels whose order is not decided.

    Of two levels that read each other, the reader is the one that is more likely above.
    """
    by_name = {m.level: m for m in mentions}
    starred = {q for p in h.levels for q in (*h.starred[p], *h.frozen[p])}
    found = []
    done: set[frozenset[str]] = {frozenset(pair) for pair in skip}
    for m in mentions:
        for q, read in h.value[m.level].items():
            pair = frozenset((m.level, q))
            if m.level in h.below[q] or pair in done:
                continue
            done.add(pair)
            back = h.value[q].get(m.level)
            if back is not None and _inner(m, starred) > _inner(by_name[q], starred):
                found.append((q, back))
            else:
                found.append((m.level, read))
    return found


def _inner(m: Mentions, starred: set[str]) -> tuple[bool, int]:
    """How much speaks for a level being the lower one: its objective is its own, others star it."""
    return m.feels, m.inner + 2 * (m.level in starred)
