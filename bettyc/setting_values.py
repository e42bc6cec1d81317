"""Checks the value of a setting against its kind; optimizers, strategies and schedules against the
fields of their tables.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

from bettyc.diagnostics.model import Diagnostic, Edit, Suggestion
from bettyc.diagnostics.registry import report
from bettyc.diagnostics.span import Span
from bettyc.diagnostics.suggest import closest
from bettyc.model import Call, Formula, Ref, Value
from bettyc.optimizers import OPTIMIZERS
from bettyc.settings import BLOCKS, Field, Kind, show, table

RANGES: dict[str, tuple[str, Any]] = {
    "lr": ("positive", lambda v: v > 0),
    "eps": ("positive", lambda v: v > 0),
    "tol": ("positive", lambda v: v > 0),
    "momentum": ("in [0, 1)", lambda v: 0 <= v < 1),
    "weight_decay": ("at least 0", lambda v: v >= 0),
    "damping": ("at least 0", lambda v: v >= 0),
    "iters": ("at least 0", lambda v: v >= 0),
    "terms": ("at least 0", lambda v: v >= 0),
    "steps": ("at least 0", lambda v: v >= 0),
    "truncate": ("at least 0", lambda v: v >= 0),
    "rank": ("at least 1", lambda v: v >= 1),
    "samples": ("at least 1", lambda v: v >= 1),
    "sigma": ("positive", lambda v: v > 0),
    "betas": ("two numbers in [0, 1)", lambda v: len(v) == 2 and all(0 <= b < 1 for b in v)),
    "n": ("at least 1", lambda v: v >= 1),
    "every": ("at least 1", lambda v: v >= 1),
    "decay": ("in [0, 1)", lambda v: 0 <= v < 1),
    "patience": ("at least 1", lambda v: v >= 1),
    "alpha": ("in [0, 1]", lambda v: 0 <= v <= 1),
    "mode": ("`min` or `max`", lambda v: v in ("min", "max")),
}
# strategies read an iteration count or learning rate of 0 as "choose it for me"
ZERO_IS_AUTO = {("strategy", "lr")}


class Checker:
    """Checks one setting against its kind; collects diagnostics. `spans` places each argument of a
    call.
    """

    def __init__(self) -> None:
        self.found: list[Diagnostic] = []

    def check(
        self, block: str, path: str, key: str, value: Value, span: Span, spans: Mapping[str, Span]
    ) -> Value:
        """The value in canonical form (calls with all their arguments named), or None after a
        diagnostic.
        """
        kind = BLOCKS[block][key]
        before = len(self.found)
        for name in kind.kinds:
            done, result = getattr(self, f"_{name}")(kind, path, value, span, spans)
            if done:
                return result  # type: ignore[no-any-return]
        if len(self.found) == before:
            self._range(path, value, span, self._expected(kind))
        return None

    def unknown(self, block: str, where: str, key: str, span: Span) -> None:
        """MLO0601."""
        near = closest(key, BLOCKS[block])
        suggestions = [
            Suggestion(f"did you mean `{n}`?", (Edit(span, n),), "maybe-incorrect") for n in near
        ]
        self.found.append(
            report(
                "MLO0601",
                span,
                name=key,
                block=where,
                label="no such setting",
                suggestions=suggestions,
                notes=[
                    f"settings of {'a level' if block == 'level' else 'the run block'}: "
                    + ", ".join(sorted(BLOCKS[block]))
                ],
            )
        )

    def _expected(self, kind: Kind) -> str:
        words = {
            "count": "a whole number of at least 1",
            "natural": "a whole number of at least 0",
            "positive": "a positive number",
            "flag": "`true` or `false`",
            "text": "a string",
            "texts": "a list of strings",
            "refs": "a list of variables",
            "stop": "`grad_norm < number`",
            "call": f"one of {', '.join(table(kind.table))}" if kind.table else "a call",
            "calls": "a list of those",
            "groups": 'a list of `group("pattern", option = ...)`',
            "choice": "one of " + ", ".join(f"`{c}`" for c in kind.choices),
            "quoted": "one of " + ", ".join(f'`"{c}"`' for c in kind.choices),
            "start": "`warm`, `reset` or `copy(level.module)`",
        }
        return " or ".join(words[k] for k in kind.kinds)

    def _range(self, path: str, value: Value, span: Span, expected: str) -> None:
        self.found.append(
            report(
                "MLO0603",
                span,
                setting=path,
                value=show(value),
                expected=expected,
                label=f"expected {expected}",
            )
        )

    def _count(
        self, kind: Kind, path: str, value: Value, span: Span, spans: Any
    ) -> tuple[bool, Value]:
        return (isinstance(value, int) and not isinstance(value, bool) and value >= 1), value

    def _natural(
        self, kind: Kind, path: str, value: Value, span: Span, spans: Any
    ) -> tuple[bool, Value]:
        return (isinstance(value, int) and not isinstance(value, bool) and value >= 0), value

    def _positive(
        self, kind: Kind, path: str, value: Value, span: Span, spans: Any
    ) -> tuple[bool, Value]:
        return (isinstance(value, int | float) and not isinstance(value, bool) and value > 0), value

    def _flag(
        self, kind: Kind, path: str, value: Value, span: Span, spans: Any
    ) -> tuple[bool, Value]:
        return isinstance(value, bool), value

    def _text(
        self, kind: Kind, path: str, value: Value, span: Span, spans: Any
    ) -> tuple[bool, Value]:
        return isinstance(value, str), value

    def _texts(
        self, kind: Kind, path: str, value: Value, span: Span, spans: Any
    ) -> tuple[bool, Value]:
        return isinstance(value, tuple) and all(isinstance(v, str) for v in value), value

    def _refs(
        self, kind: Kind, path: str, value: Value, span: Span, spans: Any
    ) -> tuple[bool, Value]:
        if isinstance(value, Ref):
            value = (value,)
        return isinstance(value, tuple) and all(isinstance(v, Ref) for v in value), value

    def _choice(
        self, kind: Kind, path: str, value: Value, span: Span, spans: Any
    ) -> tuple[bool, Value]:
        if not isinstance(value, Call) or value.positional or value.named:
            return False, value
        if value.name not in kind.choices:
            self._unknown_choice(path.rsplit(".", 1)[-1], value.name, kind.choices, span)
            return False, value
        return True, value

    def _quoted(
        self, kind: Kind, path: str, value: Value, span: Span, spans: Any
    ) -> tuple[bool, Value]:
        return value in kind.choices, value

    def _start(
        self, kind: Kind, path: str, value: Value, span: Span, spans: Any
    ) -> tuple[bool, Value]:
        if isinstance(value, Call) and value.name == "copy":
            return len(value.positional) == 1 and isinstance(value.positional[0], Ref), value
        return self._choice(kind, path, value, span, spans)

    def _stop(
        self, kind: Kind, path: str, value: Value, span: Span, spans: Any
    ) -> tuple[bool, Value]:
        ok = (
            isinstance(value, Call)
            and value.name == "<"
            and value.positional[0] == Call("grad_norm")
            and isinstance(value.positional[1], int | float)
            and value.positional[1] > 0
        )
        return ok, value

    def _calls(
        self, kind: Kind, path: str, value: Value, span: Span, spans: Any
    ) -> tuple[bool, Value]:
        if not isinstance(value, tuple):
            return False, value
        results = [self._call(kind, path, v, span, spans) for v in value]
        return all(done for done, _ in results), tuple(v for _, v in results)

    def _groups(
        self, kind: Kind, path: str, value: Value, span: Span, spans: Any
    ) -> tuple[bool, Value]:
        groups = value if isinstance(value, tuple) else (value,)
        good = all(
            isinstance(g, Call)
            and g.name == "group"
            and len(g.positional) == 1
            and isinstance(g.positional[0], str)
            for g in groups
        )
        return good, groups

    def group_options(self, path: str, groups: Value, optimizer: Value, span: Span) -> Value:
        """The groups of a level, their options checked against its optimizer's."""
        assert isinstance(groups, tuple)
        assert isinstance(optimizer, Call)
        if groups and OPTIMIZERS[optimizer.name].solves:
            steps = [n for n, rows in OPTIMIZERS.items() if not rows.solves]
            used = f"used with `{optimizer.name}`"
            expected = "used with an optimizer that takes steps"
            notes = [f"those are {', '.join(steps)}"]
            self.found.append(
                report("MLO0603", span, setting=path, value=used, expected=expected, notes=notes)
            )
            return groups
        known = {f.name: f for f in table("optimizer")[optimizer.name]}
        found: list[Value] = []
        for group in groups:
            assert isinstance(group, Call)
            values: list[tuple[str, Value]] = []
            for name, v in group.named:
                if name not in known:
                    self._strange(f"argument of `{optimizer.name}`", name, known, span)
                    continue
                field = known[name]
                _, v = self._argument("optimizer", f"{path}.{name}", field, v, span)
                values.append((name, v))
            found.append(Call("group", group.positional, tuple(values)))
        return tuple(found)

    def _strange(self, kind: str, name: str, known: typing.Iterable[str], span: Span) -> None:
        """MLO0602 of a name whose own place is not known, so that no edit can be offered."""
        known = tuple(known)
        notes = [f"did you mean `{n}`?" for n in closest(name, known)]
        notes.append("known: " + ", ".join(known))
        self.found.append(report("MLO0602", span, kind=kind, name=name, notes=notes))

    def _unknown_choice(
        self, kind: str, name: str, choices: typing.Iterable[str], span: Span
    ) -> None:
        choices = tuple(choices)
        word = Span(span.file, span.start, span.start + len(name))
        suggestions = [
            Suggestion(f"did you mean `{n}`?", (Edit(word, n),), "maybe-incorrect")
            for n in closest(name, choices)
        ]
        self.found.append(
            report(
                "MLO0602",
                span,
                kind=kind,
                name=name,
                suggestions=suggestions,
                label="no such argument"
                if kind == "argument"
                else f"not one of the {_plural(kind)}",
                notes=["known: " + ", ".join(choices)],
            )
        )

    def _call(
        self, kind: Kind, path: str, value: Value, span: Span, spans: Mapping[str, Span]
    ) -> tuple[bool, Value]:
        if not isinstance(value, Call):
            return False, value
        rows = table(kind.table)
        noun = {"every": "interval", "early": "stopping rule", "log": "logger"}.get(
            kind.table, kind.table
        )
        if value.name not in rows:
            self._unknown_choice(noun, value.name, rows, span)
            return False, value
        return self._arguments(kind.table, path, value, rows[value.name], span, spans)

    def _arguments(
        self,
        where: str,
        path: str,
        call: Call,
        fields: tuple[Field, ...],
        span: Span,
        spans: Mapping[str, Span],
    ) -> tuple[bool, Value]:
        known = {f.name: f for f in fields}
        if len(call.positional) > len(fields):
            expected = f"at most {len(fields)} argument{'s' if len(fields) != 1 else ''}"
            self.found.append(
                report(
                    "MLO0209", span, name=call.name, expected=expected, given=len(call.positional)
                )
            )
            return False, call
        given = dict(zip(known, call.positional, strict=False))
        for name, v in call.named:
            if name not in known:
                self._unknown_argument(call.name, name, known, spans.get(name, span))
                return False, call
            given[name] = v
        ok = True
        values: list[tuple[str, Value]] = []
        for field in fields:
            if field.name not in given:
                if field.required:
                    self.found.append(
                        report(
                            "MLO0209",
                            span,
                            name=call.name,
                            expected=f"`{field.name}`",
                            given="none",
                        )
                    )
                    ok = False
                values.append((field.name, field.default))
                continue
            at = spans.get(field.name, span)
            good, v = self._argument(where, f"{path}.{field.name}", field, given[field.name], at)
            ok = ok and good
            values.append((field.name, v))
        return ok, Call(call.name, (), tuple(values))

    def _unknown_argument(
        self, function: str, name: str, known: typing.Iterable[str], span: Span
    ) -> None:
        known = tuple(known)
        near = closest(name, known) or [
            k for k in known if name[:4] == k[:4] or (k == "lr" and "rate" in name)
        ]
        word = Span(span.file, span.start, span.start + len(name))
        self.found.append(
            report(
                "MLO0602",
                span,
                kind=f"argument of `{function}`",
                name=name,
                label="no such argument",
                suggestions=[
                    Suggestion(f"did you mean `{n}`?", (Edit(word, n),), "maybe-incorrect")
                    for n in near
                ],
                notes=["arguments: " + (", ".join(known) or "none")],
            )
        )

    def _argument(
        self, where: str, path: str, field: Field, value: Value, span: Span
    ) -> tuple[bool, Value]:
        if isinstance(value, Formula) and field.type in (float, float | None):
            return True, value
        if (where, field.name) == ("schedule", "schedules"):
            return self._schedules(path, value, span)
        expected = typing.get_args(field.type) or (field.type,)
        if isinstance(value, Call) and not value.positional and not value.named and str in expected:
            value = value.name  # a bare word where a string is expected
        if isinstance(value, Ref) and field.name == "function":
            value = value.path  # an `extern fn`
        if typing.get_origin(field.type) is tuple:
            good = isinstance(value, tuple) and all(isinstance(v, int | float) for v in value)
            if good and isinstance(value, tuple) and float in expected:
                value = tuple(float(v) for v in value if isinstance(v, int | float))
        elif field.type is float:
            good = isinstance(value, int | float) and not isinstance(value, bool)
            if isinstance(value, int | float) and good:
                value = float(value)
        elif field.type is int:
            good = isinstance(value, int) and not isinstance(value, bool)
        elif field.type is bool:
            good = isinstance(value, bool)
        elif field.type is Ref:
            if isinstance(value, Call) and not value.positional and not value.named:
                value = Ref(value.name)
            good = isinstance(value, Ref)
        else:
            good = isinstance(value, expected)
        if not good:
            self._range(path, value, span, f"a {_noun(field.type)}")
            return False, value
        if field.words and value not in field.words:
            self._strange(field.name, str(value), field.words, span)
            return False, value
        text, holds = RANGES.get(field.name, ("", None))
        if (where, field.name) in ZERO_IS_AUTO and value == 0:
            return True, value
        if holds is not None and not holds(value):
            self._range(path, value, span, text)
            return False, value
        return True, value

    def _schedules(self, path: str, value: Value, span: Span) -> tuple[bool, Value]:
        """The schedules inside another one. `plateau` looks at losses, so it stands alone."""
        rows = {n: f for n, f in table("schedule").items() if n != "plateau"}
        if not isinstance(value, tuple) or not value or not all(isinstance(v, Call) for v in value):
            self._range(path, value, span, "a list of schedules")
            return False, value
        good, found = True, []
        for call in value:
            assert isinstance(call, Call)
            if call.name not in rows:
                self._strange("schedule", call.name, rows, span)
                return False, value
            done, v = self._arguments("schedule", path, call, rows[call.name], span, {})
            good = good and done
            found.append(v)
        return good, tuple(found)


def _noun(type_: Any) -> str:
    names = {
        float: "number",
        int: "whole number",
        bool: "`true` or `false`",
        str: "word or string",
        Ref: "variable or metric",
    }
    return names.get(type_, "list of numbers" if typing.get_origin(type_) is tuple else "value")


def _plural(noun: str) -> str:
    return noun if noun.endswith("s") else f"{noun}s"
