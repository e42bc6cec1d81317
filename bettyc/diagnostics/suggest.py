"""Did you mean: the known words nearest to one that is unknown."""

from __future__ import annotations

from collections.abc import Iterable

# What Betty calls them: people who come from there type these.
ELSEWHERE = {
    "cg_iterations": "iters",
    "darts": "finite_diff",
    "darts_alpha": "eps",
    "early_stopping": "stop",
    "gradient_accumulation": "accumulate",
    "gradient_clipping": "clip",
    "neumann_alpha": "lr",
    "neumann_iterations": "terms",
    "sama_adam_alpha": "eps",
    "scheduler": "lr_schedule",
    "train_iters": "steps",
    "type": "hypergrad",
    "unroll_steps": "steps",
    "valid_step": "eval",
    "warmup_steps": "warmup",
}


def closest(word: str, candidates: Iterable[str], n: int = 1) -> list[str]:
    """At most `n` of the candidates that `word` may be a typing error for, nearest first.

    Near is one edit per three letters (at least one), counted as in `distance` with case ignored;
    of equally near ones case decides, then the first letter, then the order of `candidates`. A word
    of one letter is near nothing, and `word` itself is no suggestion. Another library's word comes
    first.
    """
    candidates = list(dict.fromkeys(candidates))
    theirs = [name for name in candidates if name == ELSEWHERE.get(word)]
    lower = word.lower()
    limit = max(1, len(word) // 3)
    near: list[tuple[int, int, bool, int, str]] = []
    for order, candidate in enumerate(candidates):
        if candidate == word or len(word) < 2 or abs(len(candidate) - len(word)) > limit:
            continue
        edits = distance(lower, candidate.lower())
        if edits <= limit and edits < max(len(word), len(candidate)):
            other = candidate[:1].lower() != lower[:1]
            near.append((edits, distance(word, candidate), other, order, candidate))
    return list(dict.fromkeys([*theirs, *(candidate for *_, candidate in sorted(near))]))[:n]


def distance(a: str, b: str) -> int:
    """The fewest insertions, deletions, replacements and swaps of neighbours that make `a` into
    `b`.

    No place is edited twice (optimal string alignment). Damerau, Communications of the ACM 7(3),
    1964; the recurrence of Wagner and Fischer with a second row for swaps.
    """
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, last, row = row, before, [i]
        for j, y in enumerate(b, 1):
            edits = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and y == a[i - 2]:
                edits = min(edits, last[j - 2] + 1)
            row.append(edits)
    return row[-1]
