"""Which findings are shown, and how severe: flags for the whole run, comments for a place.

An error cannot be allowed: the program behind it has no meaning to go on with.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from bettyc.diagnostics.model import Diagnostic, Edit, Severity, Suggestion
from bettyc.diagnostics.registry import report, row
from bettyc.diagnostics.span import Source, Span

_ALLOW = re.compile(r"#+\s*mlo:\s*allow\(([^)]*)\)")


@dataclass(frozen=True)
class Levels:
    """The flags -W, -A and -E with a code each, `--error-on-warning` and `--pedantic`.

    A code named by several flags obeys the strictest. `-W` and `-E` also turn on a pedantic code.
    With `error_on_warning` all that is shown and is not allowed is an error.
    """

    warn: frozenset[str] = frozenset()
    allow: frozenset[str] = frozenset()
    error: frozenset[str] = frozenset()
    error_on_warning: bool = False
    pedantic: bool = False

    def __post_init__(self) -> None:
        """Raises `ValueError` for a code that does not exist or an error that cannot be lowered."""
        for code in sorted(self.warn | self.allow | self.error):
            try:
                severity = row(code).severity
            except KeyError:
                raise ValueError(f"unknown code {code}") from None
            if severity == "error" and code not in self.error:
                raise ValueError(f"{code} is an error, which cannot be allowed or lowered")

    def severity(self, diagnostic: Diagnostic) -> Severity | None:
        """The final severity, or None when the finding is not shown."""
        code, severity = diagnostic.code, diagnostic.severity
        if severity == "error" or code in self.error:
            return "error"
        if code in self.warn:
            severity = "warning"
        elif code in self.allow or (severity == "pedantic" and not self.pedantic):
            return None
        return "error" if self.error_on_warning else severity


class _Allow(NamedTuple):
    """One code in one comment, and the lines it covers; None is the whole file."""

    code: str
    span: Span
    comment: Span
    lines: range | None


def suppress(
    diagnostics: Iterable[Diagnostic],
    comments: Mapping[str, Sequence[tuple[Span, str]]],
    sources: Mapping[str, Source],
    statements: Sequence[Span] = (),
    levels: Levels | None = None,
) -> list[Diagnostic]:
    """The findings to show, with final severities, in order; unused comments are reported last.

    `comments` are those of each parsed file with their text from `#` on. A comment
    `# mlo: allow(MLO0416, MLO0902)` covers the line it ends, or the next line of code when it
    stands alone, or the file when it stands above all code. A covered line that lies in one of
    `statements` covers that statement whole, however many lines it has.
    """
    levels = levels or Levels()
    allows = [
        allow
        for file, found in comments.items()
        if file in sources
        for allow in _allows(sources[file], found, statements)
    ]
    used: set[_Allow] = set()
    shown: list[Diagnostic] = []
    for diagnostic in diagnostics:
        matching = [allow for allow in allows if _covers(allow, diagnostic, sources)]
        used.update(matching)
        if not matching:
            shown.append(diagnostic)
    unused = [_unused(allow, allows, sources) for allow in allows if allow not in used]
    shown += [d for d in unused if not any(_covers(allow, d, sources) for allow in allows)]
    final = [(d, levels.severity(d)) for d in shown]
    return [replace(d, severity=severity) for d, severity in final if severity]


def _allows(
    source: Source, comments: Sequence[tuple[Span, str]], statements: Sequence[Span]
) -> Iterable[_Allow]:
    """The allowances that the comments of one file make."""
    commented = {source.position(span.start)[0]: span for span, _ in comments}
    code_lines = [n for n in range(1, source.lines + 1) if _has_code(source, n, commented.get(n))]
    ranges = [
        range(source.position(s.start)[0], source.position(max(s.start, s.end - 1))[0] + 1)
        for s in statements
        if s.file == source.name
    ]
    for span, text in comments:
        matched = _ALLOW.match(text)
        if not matched:
            continue
        line = source.position(span.start)[0]
        after = bisect_left(code_lines, line)
        lines: range | None = None
        # Above all code it is about the file; below all code it is about nothing.
        if after or line in code_lines:
            covered = code_lines[after] if after < len(code_lines) else 0
            around = [r for r in ranges if covered in r]
            lines = min(around, key=len, default=range(covered, covered + 1))
        for code in re.finditer(r"[^\s,]+", matched[1]):
            start = span.start + matched.start(1) + code.start()
            place = Span(span.file, start, start + len(code[0]))
            yield _Allow(code[0], place, span, lines)


def _has_code(source: Source, number: int, comment: Span | None) -> bool:
    line = source.line(number)
    if comment:
        line = line[: source.position(comment.start)[1] - 1]
    return bool(line.strip())


def _covers(allow: _Allow, diagnostic: Diagnostic, sources: Mapping[str, Source]) -> bool:
    span = diagnostic.span
    if allow.code != diagnostic.code or diagnostic.severity == "error" or not span:
        return False
    if span.file != allow.span.file:
        return False
    return allow.lines is None or sources[span.file].position(span.start)[0] in allow.lines


def _unused(allow: _Allow, allows: Sequence[_Allow], sources: Mapping[str, Source]) -> Diagnostic:
    """The report of an allowance that suppressed nothing, with the edit that removes it."""
    try:
        label = "an error cannot be allowed" if row(allow.code).severity == "error" else ""
    except KeyError:
        label = "no such code"
    suggestions: tuple[Suggestion, ...] = ()
    if sum(other.comment == allow.comment for other in allows) == 1:
        edit = Edit(_removable(sources[allow.span.file], allow.comment), "")
        suggestions = (Suggestion("remove the comment", (edit,), "machine-applicable"),)
    return report("MLO0906", allow.span, label=label, suggestions=suggestions, allowed=allow.code)


def _removable(source: Source, comment: Span) -> Span:
    """What goes with a comment: its whole line, or the blanks between the code and it."""
    line, column = source.position(comment.start)
    before = source.line(line)[: column - 1]
    if not before.strip():
        end = source.offset(line + 1, 1) if line < source.lines else comment.end
        return Span(comment.file, source.offset(line, 1), end)
    return Span(comment.file, comment.start - len(before) + len(before.rstrip()), comment.end)
