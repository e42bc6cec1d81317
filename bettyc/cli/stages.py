"""`--emit`: what each stage of the compiler makes of a program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bettyc.cli.common import Failed, Settings, report, sound
from bettyc.options import OPT

if TYPE_CHECKING:
    from bettyc.driver import Checked

EARLY = ("tokens", "ast")  # shown of programs with errors too


def emit(checked: Checked, s: Settings, *, opt: int = OPT) -> None:
    """Print the stages that `--emit` names, under a heading each where there are several."""
    if any(stage not in EARLY for stage in s.emit):
        sound(checked, s)
    else:
        report(checked.shown(s.levels), checked.sources, s)
    for stage in s.emit:
        if len(s.emit) > 1:
            click.echo(f"# {stage}")
        click.echo(_stage(stage, checked, s, opt).rstrip("\n"))


def _stage(stage: str, checked: Checked, s: Settings, opt: int) -> str:
    if stage == "tokens":
        return _tokens(checked)
    if stage == "ast":
        if checked.file is None:
            raise Failed(1)
        return "\n".join(_tree(checked.file, 0))
    if stage == "typed":
        return _typed(checked)
    if stage == "graph":
        from bettyc.graph import build
        from bettyc.pictures import draw

        assert checked.model is not None
        assert checked.hierarchy is not None
        return draw(build(checked.model, checked.hierarchy, checked.sources), "json")
    from bettyc.cli.planning import planned

    plan = planned(checked, s, opt=opt)
    if stage == "plan":
        return plan.to_json()
    from bettyc.cli.python import source

    return source(plan)


def _tokens(checked: Checked) -> str:
    """One token per line: place, kind, text."""
    from bettyc.grammar.parse import tokens

    lines = []
    for token in tokens(checked.source.text):
        line, column = checked.source.position(token.start)
        lines.append(f"{line}:{column}\t{token.kind}\t{token.text}")
    return "\n".join(lines)


def _tree(node: Any, depth: int, name: str = "") -> list[str]:
    """The syntax tree, one node per line, fields indented; spans are left out."""
    import dataclasses

    indent = "  " * depth
    label = f"{indent}{name + ': ' if name else ''}"
    if isinstance(node, tuple):
        inner = [line for item in node for line in _tree(item, depth + 1)]
        return [f"{label}[{'' if inner else ']'}", *inner, *([f"{indent}]"] if inner else [])]
    if not dataclasses.is_dataclass(node):
        return [f"{label}{node!r}"]
    fields = [
        (f.name, getattr(node, f.name))
        for f in dataclasses.fields(node)
        if f.name not in ("span", "comments", "grouped")
    ]
    simple = all(not isinstance(v, tuple) and not dataclasses.is_dataclass(v) for _, v in fields)
    title = f"{label}{type(node).__name__}"
    if simple:
        return [f"{title}({', '.join(f'{k}={v!r}' for k, v in fields)})"]
    return [title, *(line for k, v in fields for line in _tree(v, depth + 1, k))]


def _typed(checked: Checked) -> str:
    """The typed expression graph of every objective and metric; equal expressions are one node."""
    from bettyc.expr import show

    model = checked.model
    assert model is not None
    roots = [(f"{level.name}: {level.sense}", level.objective) for level in model.levels]
    roots += [(f"metric {metric.name}", metric.node) for metric in model.metrics]
    heads = [f"{title} %{node}" for title, node in roots]
    return "\n".join([*heads, show(checked.graph, [node for _, node in roots])])
