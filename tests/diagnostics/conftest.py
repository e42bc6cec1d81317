"""A program under test that finds places in itself by their text."""

import pytest

from bettyc.diagnostics.span import Source, Span


class Program(Source):
    def at(self, text: str, occurrence: int = 0) -> Span:
        """The span of `text`, the first or a later occurrence."""
        start = -1
        for _ in range(occurrence + 1):
            start = self.text.index(text, start + 1)
        return Span(self.name, start, start + len(text))

    def after(self, text: str, occurrence: int = 0) -> Span:
        """The empty span behind `text`."""
        end = self.at(text, occurrence).end
        return Span(self.name, end, end)


@pytest.fixture
def program() -> type[Program]:
    return Program
