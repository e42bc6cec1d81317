"""Drawing a program's graph: one file per format, each a pure function from the graph to text."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import networkx

FORMATS = ("text", "dot", "mermaid", "json", "svg")


def draw(graph: networkx.MultiDiGraph[str], format: str) -> str:
    """The graph of `bettyc.graph.build` in one of `FORMATS`, ending in a line break.

    Raises `ValueError` for another format.
    """
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; formats: {', '.join(FORMATS)}")
    text: str = import_module(f"bettyc.pictures.{format}").draw(graph)
    return text if text.endswith("\n") else text + "\n"
