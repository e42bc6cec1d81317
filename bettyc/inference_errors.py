"""What is wrong with an order of levels that could not be inferred, and the edits that mend it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from bettyc.diagnostics.model import Diagnostic, Edit, Label, Note, Suggestion
from bettyc.diagnostics.registry import report
from bettyc.diagnostics.span import Span
from bettyc.hierarchy import Hierarchy, Mentions
from bettyc.model import Read


def own_star(read: Read) -> Diagnostic:
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


def mixed_reads(mentions: Sequence[Mentions], h: Hierarchy) -> dict[tuple[str, str], Diagnostic]:
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


def _mention(h: Hierarchy, p: str, q: str) -> Read:
    for table in (h.starred, h.frozen, h.implied):
        if q in table[p]:
            return table[p][q]
    raise KeyError((p, q))


def star_cycle(mentions: Sequence[Mentions], h: Hierarchy, chain: list[str]) -> Diagnostic:
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


def implied_cycle(h: Hierarchy, chain: list[str]) -> Diagnostic:
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


def _bare(mentions: Sequence[Mentions], reader: str, level: str) -> list[Read]:
    """The bare reads of a level's values in one objective, each place once."""
    reads = next(m.reads for m in mentions if m.level == reader)
    found = {r.span: r for r in reads if r.level == level and r.mode == "value" and not r.detached}
    return list(found.values())


def undirected_pair(mentions: Sequence[Mentions], h: Hierarchy, p: str, read: Read) -> Diagnostic:
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
