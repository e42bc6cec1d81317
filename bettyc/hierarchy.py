"""Who is above whom: the order of the levels, inferred from how each objective mentions the others.

    P reads `Q*.v`            Q is below P                       l2u edge (frozen inside `detach`)
    P reads `Q.v`             legal only if Q is above P         u2l edge
    P stars L, L reads R's value, and R's value reads lead back to P:
                              L's response passes through R's solution, so R is below P     implied

NetworkX holds the graph that users see (`bettyc.graph`); this pass is on sets because importing
NetworkX takes 0.17 s, most of what `bettyc check` may take.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter

from bettyc.diagnostics.model import Diagnostic, Edit, Label, Note, Suggestion
from bettyc.diagnostics.registry import report
from bettyc.diagnostics.span import Span
from bettyc.model import Read


@dataclass(frozen=True)
class Mentions:
    """What one level's objective mentions of the others, in the order of the text.

    lets: name and span of the level's `let`s, for MLO0307. feels: its own variables are in its
    objective. inner: how much else speaks for a level that others are above (it says how to
    differentiate through it, how it starts, how many steps it takes); only for wording.
    """

    level: str
    reads: tuple[Read, ...]
    lets: tuple[tuple[str, Span], ...] = ()
    feels: bool = True
    inner: int = 0


@dataclass
class Hierarchy:
    """The order of the levels. `below[p]` are all levels under p; `order` is from lowest to
    highest.

    starred[p][q] and value[p][q]: the first mention that makes q's response / value part of p's
    objective; frozen[p][q]: starred inside `detach`; implied[p][r]: the read of r by the starred
    level.
    """

    levels: tuple[str, ...]
    starred: dict[str, dict[str, Read]] = field(default_factory=dict)
    frozen: dict[str, dict[str, Read]] = field(default_factory=dict)
    value: dict[str, dict[str, Read]] = field(default_factory=dict)
    implied: dict[str, dict[str, Read]] = field(default_factory=dict)
    below: dict[str, frozenset[str]] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    _moves: dict[tuple[str, str], bool] = field(default_factory=dict, repr=False, compare=False)
    _inputs: dict[str, frozenset[str]] = field(default_factory=dict, repr=False, compare=False)

    def direct(self, level: str) -> set[str]:
        """The levels right below one: those it stars, frozen or not, and those implied."""
        return {*self.starred[level], *self.frozen[level], *self.implied[level]}

    def depends(self, level: str, on: str) -> bool:
        """Does the level's solution move with the variables of `on`, levels between them
        included?
        """
        key = (level, on)
        if key not in self._moves:
            self._moves[key] = self._depends(level, on)
        return self._moves[key]

    def readers(self, level: str) -> tuple[str, ...]:
        """The levels that star one, outside `detach`."""
        return self._starring.get(level, ())

    @cached_property
    def _starring(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for p in self.levels:
            for q in self.starred[p]:
                found[q] = (*found.get(q, ()), p)
        return found

    @cached_property
    def lower(self) -> frozenset[str]:
        """The levels that are below another."""
        return frozenset(q for p in self.levels for q in self.direct(p))

    @cached_property
    def constant(self) -> frozenset[str]:
        """The levels whose response some level takes as a constant."""
        return frozenset(q for p in self.levels for q in self.frozen[p])

    @cached_property
    def _read(self) -> frozenset[str]:
        """The levels whose value is read anywhere."""
        return frozenset(r for reads in self.value.values() for r in reads)

    def _depends(self, level: str, on: str) -> bool:
        """Follow what enters the level's solution: values that it and its starred levels read."""
        if on not in self._read:
            return False
        below = self.below[on]
        seen = {level}
        stack = [level]
        while stack:
            current = stack.pop()
            if on in self.value[current]:
                return True
            # a value above `on` is held fixed while `on` moves
            entering = [r for r in self.value[current] if r in below]
            for other in (*self.starred[current], *entering):
                if other not in seen:
                    seen.add(other)
                    stack.append(other)
        return False

    def arrow(self, root: str, level: str) -> tuple[str, ...]:
        """Where the adjoint of a level below `root` flows: level => R (DESIGN 3), R inside.

        The level reads R's value, or stars R and R's solution does not move with the level's
        variables.
        """
        below = self.below[root]
        reads = {r for r in self.value[level] if r == root or r in below}
        reads |= {r for r in self.starred[level] if r in below and not self.depends(r, level)}
        return tuple(sorted(reads))

    def walk(self, root: str, level: str) -> tuple[str, ...]:
        """Where an adjoint flows in Betty, which follows stars whatever moves with what, and values
        of the root alone.
        """
        reads = set(self.starred[level])
        return tuple(sorted(reads | ({root} & set(self.value[level]))))

    def arrows(self, root: str) -> dict[str, tuple[str, ...]]:
        """The relation of `arrow` on all levels below `root`."""
        return {level: self.arrow(root, level) for level in sorted(self.below[root])}

    def inputs(self, level: str) -> frozenset[str]:
        """The levels that the reduced objective of `level` is a function of, besides itself: its
        own reads, and those of the levels whose solutions move with it.
        """
        waiting = [level]  # no recursion: a chain may have thousands of levels
        while waiting:
            before = self._note_inputs(waiting[-1])
            if before is None:
                waiting.pop()
            else:
                waiting.append(before)
        return self._inputs[level]

    def _note_inputs(self, level: str) -> str | None:
        """Find the inputs of a level; gives a level below it that has to come first, if any."""
        if level in self._inputs:
            return None
        inner: set[str] = set()
        found: set[str] = set()
        stack = [*self.starred[level], *self.value[level]]
        while stack:
            q = stack.pop()
            if q == level or q in inner or q in found:
                continue
            if q in self.below[level] and self.depends(q, level):
                if q not in self._inputs:
                    return q
                inner.add(q)
                stack.extend(self._inputs[q])
            else:
                found.add(q)
        self._inputs[level] = frozenset(found)
        return None

    def sweep(
        self, root: str, total: frozenset[str] = frozenset(), walk: bool = False
    ) -> list[tuple[str, tuple[str, ...]]]:
        """Levels in the order of the adjoint sweep, each with where its adjoint flows; from those
        in `total` to everything their reduced objective is a function of; with `walk` as in Betty.

        Only levels that the root's starred reads reach and from which the root can be reached.
        Raises CycleError when the relation is cyclic.
        """
        arrows: dict[str, tuple[str, ...]] = {}
        into: dict[str, list[str]] = {root: []}
        stack = list(self.starred[root])
        while stack:
            level = stack.pop()
            if level in arrows:
                continue
            arrows[level] = self.walk(root, level) if walk else self.arrow(root, level)
            if level in total:
                inside = self.inputs(level) & (self.below[root] | {root})
                arrows[level] = tuple(sorted(inside))
            for r in arrows[level]:
                into.setdefault(r, []).append(level)
                if r != root:
                    stack.append(r)
        useful = {root}
        stack = [root]
        while stack:
            for level in into.get(stack.pop(), ()):
                if level not in useful:
                    useful.add(level)
                    stack.append(level)
        useful.discard(root)
        graph = {q: {r for r in arrows[q] if r in useful} for q in sorted(useful)}
        # static_order gives what others depend on first: R before Q, so the sweep is its reverse
        order = stable_order(graph)[::-1]
        return [(q, tuple(r for r in arrows[q] if r in useful or r == root)) for q in order]


def stable_order(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """A topological order (predecessors first) that depends on names alone, not on the order of
    the text.
    """
    sorter: TopologicalSorter[str] = TopologicalSorter(graph)
    sorter.prepare()
    order: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        order.extend(ready)
        sorter.done(*ready)
    return order


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
                    diagnostics.append(_own_star(read))
                continue
            if read.mode == "response":
                (h.frozen if read.detached else h.starred)[m.level].setdefault(read.level, read)
            elif not read.detached:
                h.value[m.level].setdefault(read.level, read)
    if diagnostics:
        return h, diagnostics
    mixed = _mixed_reads(mentions, h)
    diagnostics += mixed.values()
    _imply(h)
    cycle = _cycles(mentions, h)
    if cycle:
        return h, cycle
    h.below = _closure(h)
    h.order = tuple(stable_order({p: h.direct(p) for p in sorted(names)}))
    return h, diagnostics


def _own_star(read: Read) -> Diagnostic:
    return report(
        "MLO0302",
        read.span,
        level=read.level,
        label="its own solution",
        suggestions=[
            Suggestion(
                f"inside its own level a variable is just `{read.name}`",
                (Edit(read.span, read.name),),
                "machine-applicable",
            )
        ],
    )


def _mixed_reads(mentions: Sequence[Mentions], h: Hierarchy) -> dict[tuple[str, str], Diagnostic]:
    """MLO0213, keyed by (reader, level)."""
    found = {}
    for m in mentions:
        for q, star in h.starred[m.level].items():
            bare = h.value[m.level].get(q)
            if bare is None:
                continue
            others = _bare(mentions, m.level, q)
            found[m.level, q] = report(
                "MLO0213",
                bare.span,
                level=q,
                starred=f"{q}*.{star.name}",
                bare=f"{q}.{bare.name}",
                label="a current value",
                secondary=[Label(star.span, "a response")],
                notes=["a level is solved jointly: all of its variables are its response, or none"],
                suggestions=[
                    *_starring("star both" if len(others) == 1 else "star all of them", others),
                    *_detaching("or take what is not starred as a constant", others, star=True),
                ],
            )
            del h.value[m.level][q]
    return found


def star_edit(read: Read) -> Edit:
    """Insert the star into a bare mention `q.v`, before its dot."""
    at = read.span.end - len(read.name) - 1
    return Edit(Span(read.span.file, at, at), "*")


def unstar_edit(read: Read) -> Edit:
    """Take the star out of `q*.v`."""
    at = read.span.end - len(read.name) - 2
    return Edit(Span(read.span.file, at, at + 1), "")


def detach_edits(read: Read, star: bool) -> tuple[Edit, ...]:
    """Wrap a bare mention in `detach(...)`, starring it first if wanted."""
    file, start, end = read.span
    wrap = (Edit(Span(file, start, start), "detach("), Edit(Span(file, end, end), ")"))
    return (wrap[0], star_edit(read), wrap[1]) if star else wrap


def _starring(message: str, reads: Sequence[Read]) -> list[Suggestion]:
    """The suggestion to star these mentions; none where one can take no star."""
    return _rewriting(message, reads, [star_edit(r) for r in reads])


def _detaching(message: str, reads: Sequence[Read], star: bool) -> list[Suggestion]:
    """As `_starring`, of `detach(...)`."""
    return _rewriting(message, reads, [e for r in reads for e in detach_edits(r, star)])


def _rewriting(message: str, reads: Sequence[Read], edits: Sequence[Edit]) -> list[Suggestion]:
    if any(r.copied for r in reads):
        return []
    return [Suggestion(message, tuple(edits), "maybe-incorrect")]


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
        return [_star_cycle(mentions, h, chain)]
    with_implied = {p: down[p] | set(h.implied[p]) for p in h.levels}
    try:
        list(stable_order(with_implied))
    except CycleError as error:
        chain = error.args[1][::-1]
        return [_implied_cycle(h, chain)]
    return []


def _mention(h: Hierarchy, p: str, q: str) -> Read:
    for table in (h.starred, h.frozen, h.implied):
        if q in table[p]:
            return table[p][q]
    raise KeyError((p, q))


def _star_cycle(mentions: Sequence[Mentions], h: Hierarchy, chain: list[str]) -> Diagnostic:
    reads = [(p, _mention(h, p, q)) for p, q in itertools.pairwise(chain)]
    for p, read in reads:
        lets = next(m.lets for m in mentions if m.level == p)
        for name, span in lets:
            if span.file == read.span.file and span.start <= read.span.start < span.end:
                return report(
                    "MLO0307",
                    read.span,
                    name=name,
                    level=p,
                    upper=read.level,
                    label="a response of a level above",
                    secondary=[
                        Label(r.span, f"`{q}` stars `{r.level}` here")
                        for q, r in reads
                        if r is not read
                    ],
                    suggestions=[
                        Suggestion(
                            f"read its current value, `{read.level}.{read.name}`",
                            (unstar_edit(read),),
                            "maybe-incorrect",
                        )
                    ],
                )
    text = ", ".join(f"`{p}` stars `{read.level}`" for p, read in reads)
    first = reads[0][1]
    return report(
        "MLO0301",
        first.span,
        chain=text,
        label=f"`{reads[0][0]}` stars `{first.level}`",
        secondary=[Label(r.span, f"`{p}` stars `{r.level}`") for p, r in reads[1:]],
        notes=["a loop of responses has no top"],
        suggestions=[
            Suggestion(
                f"drop this star: `{p}` then reads the current value of `{r.level}`",
                (unstar_edit(r),),
                "maybe-incorrect",
            )
            for p, r in reads
        ],
    )


def _implied_cycle(h: Hierarchy, chain: list[str]) -> Diagnostic:
    first, second = chain[0], chain[1]
    both = (set(h.starred[first]) | set(h.frozen[first])) & (
        set(h.starred[second]) | set(h.frozen[second])
    )
    lower = min(both, default=min({**h.starred[first], **h.frozen[first]}, default=second))
    read = h.value[first].get(second) or _mention(h, first, second)
    back = h.value[second].get(first)
    return report(
        "MLO0305",
        read.span,
        first=first,
        second=second,
        lower=lower,
        label=f"`{read.level}.{read.name}` is read here",
        secondary=[Label(back.span, "and here the other way round")] if back else [],
        notes=[
            f"both would be below the other, since the response of `{lower}` passes through both"
        ],
        suggestions=[
            s
            for r in (read, back)
            if r is not None and r.mode == "value"
            for s in _starring(f"put `{r.level}` below: read its response", [r])
        ],
    )


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
    return [_undirected_pair(mentions, h, p, read) for p, read in pairs]


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


def _bare(mentions: Sequence[Mentions], reader: str, level: str) -> list[Read]:
    """The bare reads of a level's values in one objective, each place once."""
    reads = next(m.reads for m in mentions if m.level == reader)
    found = {r.span: r for r in reads if r.level == level and r.mode == "value" and not r.detached}
    return list(found.values())


def _undirected_pair(mentions: Sequence[Mentions], h: Hierarchy, p: str, read: Read) -> Diagnostic:
    q = read.level
    back = h.value[q].get(p)
    here, there = _bare(mentions, p, q), _bare(mentions, q, p)
    notes: list[Note | str] = []
    suggestions = _starring(
        f"if `{q}` is solved below `{p}`, read its response (differentiated)", here
    )
    if back is not None:
        notes.append(Note(f"`{q}` reads `{p}.{back.name}` in turn", back.span))
        suggestions += [
            *_starring(
                f"if `{p}` is solved below `{q}`, read the response of `{p}` in `{q}`", there
            ),
            *_detaching(
                "if the two play simultaneously, say so on both reads", [*here, *there], star=False
            ),
        ]
    else:
        suggestions += _detaching(
            "or take its solution as a constant (first order)", here, star=True
        )
        word = "or, if" if suggestions else "if"
        suggestions.append(
            Suggestion(
                f"{word} `{q}` is above `{p}`, let `{q}` star a variable of `{p}`",
                (),
                "has-placeholders",
            )
        )
    return report(
        "MLO0319",
        read.span,
        read=f"{q}.{read.name}",
        reader=p,
        level=q,
        label="a bare read is a current value and carries no gradient",
        notes=notes,
        suggestions=suggestions,
    )
