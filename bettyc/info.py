"""What a program declares, as data: `bettyc info --json` and `Program.info()`.

The keys are a contract: they are added to, never changed.
"""

from __future__ import annotations

from typing import Any

import bettyc
from bettyc.diagnostics.span import Span
from bettyc.driver import Checked
from bettyc.grammar import ast
from bettyc.graph import size, variables
from bettyc.model import DataSet, Draw, Extern, Level, Model, Part, Setting
from bettyc.settings import show

SCHEMA = 1
Json = dict[str, Any]


def info(checked: Checked) -> Json:
    """Dims, params, data, levels, variables with types, settings with where each value came from,
    Python references, imported files.

    Values are in the language's own syntax. Of a program with errors only what is known without
    analysis is given, and `errors` is true.
    """
    found: Json = {
        "schema": SCHEMA,
        "type": "info",
        "bettyc": bettyc.__version__,
        "file": checked.name,
        "folder": checked.folder,
        "errors": checked.errors,
        "imports": [name for name in checked.sources if name != checked.name and name[:1] != "<"],
        "profiles": _profiles(checked),
    }
    return found | (_model(checked, checked.model) if checked.model is not None else {})


def _profiles(checked: Checked) -> list[str]:
    items = checked.file.items if checked.file is not None else ()
    return [item.name.text for item in items if isinstance(item, ast.Profile)]


def _model(checked: Checked, m: Model) -> Json:
    return {
        "program": m.name,
        "order": list(checked.hierarchy.order) if checked.hierarchy is not None else [],
        "dims": dict(m.dims),
        "params": [_setting(checked, s) for s in m.params],
        "data": [_data(checked, d) for d in m.data],
        "splits": [
            {"of": s.of, "parts": {p.name: _part(p) for p in s.parts}, **_at(checked, s.span)}
            for s in m.splits
        ],
        "draws": [_draw(checked, d) for d in m.draws],
        "externs": [_extern(checked, e) for e in m.externs],
        "levels": [_level(checked, m, level) for level in m.levels],
        "metrics": [{"name": metric.name, **_at(checked, metric.span)} for metric in m.metrics],
        "run": [_setting(checked, s) for s in m.run],
    }  # fmt: skip


def _at(checked: Checked, span: Span | None) -> Json:
    """1-based place, or nulls for what was not written anywhere."""
    if span is None or span.file not in checked.sources:
        return {"file": None, "line": None, "column": None}
    line, column = checked.sources[span.file].position(span.start)
    return {"file": span.file, "line": line, "column": column}


def _setting(checked: Checked, s: Setting) -> Json:
    value = None if s.value is None else show(s.value)
    return {"path": s.path, "value": value, "origin": s.origin, **_at(checked, s.span)}


def _data(checked: Checked, d: DataSet) -> Json:
    return {
        "name": d.name,
        "type": str(d.type),
        "source": show(d.source),
        "rows": None if d.rows is None else str(d.rows),
        **_at(checked, d.span),
    }


def _part(p: Part) -> Json:
    return {"fraction": p.fraction, "rows": str(p.rows)}


def _draw(checked: Checked, d: Draw) -> Json:
    return {
        "name": d.name,
        "of": d.of,
        "type": str(d.type),
        "options": {key: show(value) for key, value in d.options},
        **_at(checked, d.span),
    }


def _extern(checked: Checked, e: Extern) -> Json:
    return {
        "kind": e.kind,
        "name": e.name,
        "from": e.origin,
        "parameters": list(e.parameters),
        **_at(checked, e.span),
    }


def _level(checked: Checked, m: Model, level: Level) -> Json:
    domains = {v.name: show(v.domain) for v in level.variables if v.domain is not None}
    return {
        "name": level.name,
        "sense": level.sense,
        "task": None if level.task is None else _draw(checked, level.task),
        "size": size(level, dict(m.dims)),
        "variables": [
            {"name": name, "type": type_, "domain": domains.get(name)}
            for name, type_ in variables(level)
        ],
        "reads": [
            {"level": r.level, "name": r.name, "mode": r.mode, "detached": r.detached,
             **_at(checked, r.span)}
            for r in level.reads
        ],
        "settings": [_setting(checked, s) for s in level.settings],
        **_at(checked, level.span),
    }  # fmt: skip
