"""The passes in order, and nothing else: text to a checked program.

Pure but for reading imported files, through `read`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bettyc import overrides
from bettyc.diagnostics.apply import apply_edits
from bettyc.diagnostics.model import Diagnostic, Label
from bettyc.diagnostics.registry import report
from bettyc.diagnostics.span import Source, Span
from bettyc.diagnostics.suppress import Levels, suppress
from bettyc.elaborate.program import elaborate
from bettyc.elaborate.scope import Unit, collect
from bettyc.expr import Graph
from bettyc.grammar import ast
from bettyc.grammar.parse import Parsed, parse
from bettyc.hierarchy import Hierarchy
from bettyc.model import Model
from bettyc.options import Options

Comments = tuple[tuple[Span, str], ...]


@dataclass(frozen=True)
class Checked:
    """A program after all passes that need no data.

    sources: every text a span may point into. model is None when there are errors that prevent it,
    hierarchy when there is no order. file: the tree with all overrides applied, written: as it
    stands.
    folder: where relative paths resolve against.
    """

    name: str
    source: Source
    sources: Mapping[str, Source]
    file: ast.File | None
    unit: Unit | None
    model: Model | None
    graph: Graph
    spans: Mapping[int, Span]
    hierarchy: Hierarchy | None
    diagnostics: tuple[Diagnostic, ...]
    comments: Mapping[str, Comments]
    written: ast.File | None
    folder: str
    options: Options
    sizes: Mapping[str, int] = field(default_factory=dict)
    read: Callable[[str], str] | None = None

    @property
    def errors(self) -> bool:
        return any(d.severity == "error" for d in self.diagnostics)

    @property
    def resolved(self) -> str:
        """The program text with all overrides applied, formatted; "" when it does not parse."""
        from bettyc.grammar.printer import format as format_file

        if self.file is None or self.written is None:
            return ""
        changes = list(overrides.edits(self.written, self.file))
        parsed = parse(apply_edits(self.source.text, changes), self.name)
        return (
            format_file(parsed.file, parsed.source)
            if parsed.file and not parsed.diagnostics
            else ""
        )

    def shown(self, levels: Levels | None = None) -> list[Diagnostic]:
        """The findings to show, after `# mlo: allow` comments and the flags."""
        statements = (
            []
            if self.file is None
            else [
                s.span
                for item in self.file.items
                for s in (item, *(item.body if isinstance(item, ast.Level) else ()))
            ]
        )
        return suppress(self.diagnostics, self.comments, self.sources, statements, levels)

    def rebind(self, sizes: Mapping[str, int]) -> Checked:
        """The same program with dims bound from outside."""
        return check(
            self.source.text,
            self.name,
            self.options,
            folder=self.folder,
            read=self.read,
            sizes={**self.sizes, **sizes},
        )


def check_file(path: str, options: Options | None = None) -> Checked:
    """Check the program in a file. Raises OSError when it cannot be read."""
    raw = Path(path).read_bytes()
    folder = str(Path(path).resolve().parent)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        found = report(
            "MLO0101",
            None,
            character=f"\\x{raw[error.start]:02x}",
            notes=[f"`{path}` is not UTF-8 text (line {line})"],
        )
        return _failed(path, "", folder, options or Options(), [found])
    return check(text, path, options, folder=folder)


def check(
    text: str,
    name: str,
    options: Options | None = None,
    *,
    folder: str | None = None,
    read: Callable[[str], str] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Checked:
    """Check a program text. `read` gives the text of an imported file by its path (default: the
    file system).
    """
    options = options or Options()
    folder = folder if folder is not None else "."
    read = read or (lambda path: Path(path).read_bytes().decode("utf-8-sig"))
    parsed = parse(text, name)
    sources = {name: parsed.source}
    comments: dict[str, Comments] = {}
    found: list[Diagnostic] = list(parsed.diagnostics)
    if parsed.file is None or any(d.severity == "error" for d in found):
        comments[name] = tuple(parsed.file.comments) if parsed.file else ()
        return _failed(name, text, folder, options, found, comments, parsed.file)
    changed, problems = _override(parsed.file, options, name, sources)
    found += problems
    file = changed.file
    comments[name] = tuple(file.comments)
    unit, wrong = collect(name, file)
    found += wrong
    path = posixpath.normpath(posixpath.join(folder, posixpath.basename(name)))
    _imports(unit, folder, read, (path,), sources, comments, found)
    bound = {**dict(options.mock or ()), **(sizes or {})}
    result = elaborate(
        unit, Path(name).stem if name != "<stdin>" else "stdin", bound, changed.origins
    )
    found += result.diagnostics
    fine = not any(d.severity == "error" for d in found)
    return Checked(
        name,
        parsed.source,
        sources,
        file,
        unit,
        result.model if fine else None,
        result.graph,
        result.spans,
        result.hierarchy if fine else None,
        tuple(in_order(found, name)),
        comments,
        parsed.file,
        folder,
        options,
        bound,
        read,
    )


def _failed(
    name: str,
    text: str,
    folder: str,
    options: Options,
    found: Sequence[Diagnostic],
    comments: Mapping[str, Comments] | None = None,
    file: ast.File | None = None,
) -> Checked:
    source = Source(name, text)
    return Checked(
        name,
        source,
        {name: source},
        None,
        None,
        None,
        Graph(),
        {},
        None,
        tuple(found),
        comments or {},
        None,
        folder,
        options,
    )


def in_order(found: Sequence[Diagnostic], main: str) -> list[Diagnostic]:
    """By place, the main file first; those without a place last."""

    def key(d: Diagnostic) -> tuple[bool, bool, str, int]:
        return (
            d.span is None,
            d.span is not None and d.span.file != main,
            d.span.file if d.span else "",
            d.span.start if d.span else 0,
        )

    return sorted(found, key=key)


def _override(
    file: ast.File, options: Options, name: str, sources: dict[str, Source]
) -> tuple[overrides.Rewritten, list[Diagnostic]]:
    found: list[Diagnostic] = []
    values: list[overrides.Override] = []
    for item in file.items:
        if isinstance(item, ast.Profile) and item.name.text != options.profile:
            tried, _ = overrides.from_profile(file, item.name.text)
            found += overrides.rewrite(file, tried, []).diagnostics
    if options.profile is not None:
        more, problems = overrides.from_profile(file, options.profile)
        values += more
        found += problems
    groups = [overrides.from_text(options.set, "--set")]
    if options.config is not None:
        groups.insert(0, overrides.from_config(*options.config))
    for more, problems, texts in groups:
        values += more
        found += problems
        sources.update({t.name: t for t in texts})
    data, problems, texts = overrides.from_text(
        [overrides.data_override(n, uri) for n, uri in options.data], "--data"
    )
    sources.update({t.name: t for t in texts})
    changed = overrides.rewrite(file, values, data)
    return changed, [*found, *problems, *changed.diagnostics]


def _imports(
    unit: Unit,
    folder: str,
    read: Callable[[str], str],
    chain: tuple[str, ...],
    sources: dict[str, Source],
    comments: dict[str, Comments],
    found: list[Diagnostic],
) -> None:
    """Read the imported files, their imports included. `chain` are the paths of those being
    read.
    """
    for item in unit.file.items:
        if not isinstance(item, ast.Import):
            continue
        path = posixpath.normpath(posixpath.join(folder, item.path.value))
        # what messages call it: beside the importing file, as the user named that
        name = posixpath.normpath(posixpath.join(posixpath.dirname(unit.name), item.path.value))
        alias = item.alias.text if item.alias is not None else Path(path).stem
        if path in chain:
            shown = " → ".join(Path(p).name for p in (*chain[chain.index(path) :], path))
            found.append(report("MLO0211", item.path.span, name=item.path.value, chain=shown))
            continue
        parsed = _read(item, path, name, read, found)
        if parsed is None:
            continue
        sources[name] = parsed.source
        found += parsed.diagnostics
        if parsed.file is None:
            continue
        comments[name] = tuple(parsed.file.comments)
        inner, wrong = collect(name, parsed.file)
        inner.prefix = f"{unit.prefix}{alias}."
        found += wrong
        for level in inner.levels.values():
            found.append(
                report(
                    "MLO0204",
                    level.node.name.span,
                    name=level.name,
                    label="levels cannot be imported",
                    secondary=[Label(item.span, "imported here")],
                )
            )
        unit.imports[alias] = inner
        _imports(inner, posixpath.dirname(path), read, (*chain, path), sources, comments, found)


def _read(
    item: ast.Import, path: str, name: str, read: Callable[[str], str], found: list[Diagnostic]
) -> Parsed | None:
    """An imported file, or None after MLO0506."""
    try:
        return parse(read(path), name)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        found.append(
            report(
                "MLO0506",
                item.path.span,
                path=item.path.value,
                problem=f"cannot be read: {reason}",
                notes=["paths are relative to the program"],
            )
        )
        return None
