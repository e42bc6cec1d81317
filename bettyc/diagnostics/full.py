"""The full format: the message, the source with marks, notes, and previews of the fixes.

The shape is that of rustc, which users of compilers know (rustc-dev-guide, "Errors and lints").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bettyc.diagnostics.excerpt import excerpt, margin, mark
from bettyc.diagnostics.model import Diagnostic, Edit, Label
from bettyc.diagnostics.preview import last_line, preview
from bettyc.diagnostics.span import Source, Span
from bettyc.diagnostics.text import Row, paint


def full(
    diagnostic: Diagnostic,
    sources: Mapping[str, Source],
    color: bool,
    explain_hint: bool,
    width: int | None,
) -> str:
    """One diagnostic in the full format, without a line break at the end."""
    return _Page(diagnostic, sources, color, width).compose(explain_hint)


class _Page:
    """The lines of one diagnostic; every margin in it is equally wide."""

    def __init__(
        self,
        diagnostic: Diagnostic,
        sources: Mapping[str, Source],
        color: bool,
        width: int | None,
    ) -> None:
        self.diagnostic = diagnostic
        self.sources = sources
        self.color = color
        self.width = width
        self.gutter = len(str(max(self._numbers(), default=1)))
        self.lines: list[str] = []

    def _numbers(self) -> Iterable[int]:
        """The line numbers that will be printed."""
        d = self.diagnostic
        spans = [d.span, *(label.span for label in d.secondary), *(note.span for note in d.notes)]
        for span in spans:
            if span and span.file in self.sources:
                source = self.sources[span.file]
                yield source.position(max(span.start, span.end - 1))[0]
        for suggestion in d.suggestions:
            for file, edits in by_file(suggestion.edits).items():
                if file in self.sources:
                    yield last_line(self.sources[file], edits)

    def compose(self, explain_hint: bool) -> str:
        d = self.diagnostic
        head = paint(f"{d.severity}[{d.code}]", d.severity, self.color)
        self.lines.append(head + paint(f": {d.message}", "message", self.color))
        if d.span:
            self._place(d.span, d.label, d.severity, d.secondary)
        else:
            self._elsewhere(d.secondary, set())
        if len(self.lines) > 1 and (d.notes or d.suggestions or explain_hint):
            self._rows([margin(self.gutter)])
        for note in d.notes:
            self._remark("note", note.text)
            if note.span:
                self._place(note.span, "", "note", ())
        for suggestion in d.suggestions:
            self._remark("help", suggestion.message)
            self._fixes(suggestion.edits)
        if explain_hint:
            row = Row().put(self.gutter + 1, "=", "gutter")
            self._rows([row.put(self.gutter + 3, f"see `bettyc explain {d.code}`")])
        return "\n".join(self.lines)

    def _rows(self, rows: Iterable[Row]) -> None:
        self.lines += (row.render(self.color) for row in rows)

    def _remark(self, kind: str, text: str) -> None:
        """A note or help; further lines of its text are indented under the first."""
        indented = text.replace("\n", "\n" + " " * (len(kind) + 2))
        self.lines.append(f"{paint(kind, kind, self.color)}: {indented}")

    def _arrow(self, arrow: str, span: Span) -> None:
        place = span.file
        if span.file in self.sources:
            line, column = self.sources[span.file].position(span.start)
            place = f"{place}:{line}:{column}"
        self._rows([Row().put(self.gutter, arrow, "gutter").put(self.gutter + 4, place)])

    def _place(self, span: Span, text: str, style: str, secondary: Sequence[Label]) -> None:
        """An excerpt around a span, and one for each other file that labels point into."""
        self._arrow("-->", span)
        if span.file not in self.sources:
            return self._elsewhere(secondary, {span.file})
        source = self.sources[span.file]
        here = [label for label in secondary if label.span.file == span.file]
        marks = [mark(source, span, text, style)]
        marks += [mark(source, label.span, label.text, "secondary") for label in here]
        self._rows([margin(self.gutter), *excerpt(source, marks, self.gutter, self.width)])
        self._elsewhere(secondary, {span.file})

    def _elsewhere(self, labels: Sequence[Label], done: set[str]) -> None:
        """Excerpts of the files that are not among those `done`."""
        for file in dict.fromkeys(label.span.file for label in labels):
            if file in done:
                continue
            here = [label for label in labels if label.span.file == file]
            self._arrow(":::", here[0].span)
            if file in self.sources:
                source = self.sources[file]
                marks = [mark(source, label.span, label.text, "secondary") for label in here]
                self._rows([margin(self.gutter), *excerpt(source, marks, self.gutter, self.width)])

    def _fixes(self, edits: Sequence[Edit]) -> None:
        span = self.diagnostic.span
        for file, own in by_file(edits).items():
            if file not in self.sources:
                continue
            if span is None or file != span.file:
                self._arrow("-->", own[0].span)
            self._rows([margin(self.gutter), *preview(self.sources[file], own, self.gutter)])


def by_file(edits: Sequence[Edit]) -> dict[str, list[Edit]]:
    """The edits of a suggestion, file by file, in their order."""
    files: dict[str, list[Edit]] = {}
    for edit in edits:
        files.setdefault(edit.span.file, []).append(edit)
    return files
