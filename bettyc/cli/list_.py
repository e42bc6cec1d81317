"""`bettyc list`: what a program may use, printed from the same tables that the checker reads."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from bettyc.cli.common import global_options, settings

KINDS = ("functions", "optimizers", "strategies", "settings", "domains")
Row = dict[str, Any]

# Where a variable lives: `var x : real[n] in simplex`; the names of `bettyc.elaborate.levels`.
DOMAINS = {
    "positive": (
        "positive",
        "Above zero, entry by entry; a reparametrisation, so it cannot be left.",
    ),
    "unit": ("unit", "Between 0 and 1, entry by entry; a reparametrisation."),
    "interval": ("interval(a, b)", "Between a and b, entry by entry; a reparametrisation."),
    "simplex": ("simplex", "Positive and adding up to 1 along the last axis; a reparametrisation."),
    "ball": (
        "ball(p, r)",
        "Norm of order p (1, 2 or inf) at most r; a projection after each step.",
    ),
    "box": ("box(a, b)", "Between a and b, bounds included; a projection after each step."),
}


@click.command("list")
@click.argument("kind", type=click.Choice(KINDS))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@global_options("text", "json")
def command(kind: str, as_json: bool, **parameters: Any) -> None:
    """List functions, optimizers, strategies, settings or domains, with their arguments."""
    s = settings(parameters)
    rows = list(ROWS[kind]())
    if as_json or s.format == "json":
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for row in rows:
        click.echo(row["signature"])
        click.echo(f"    {row['doc']}")


def functions() -> Iterator[Row]:
    """The functions of expressions, then the initialisers of variables."""
    from bettyc.ops import FUNCTIONS, INITIAL

    for name, op in sorted(FUNCTIONS.items()):
        smooth = "" if op.smooth == "smooth" else f" [{op.smooth}]"
        yield {
            "name": name,
            "signature": op.signature,
            "doc": op.doc + smooth,
            "kind": "function",
            "smooth": op.smooth,
        }
    for name, initial in sorted(INITIAL.items()):
        arguments = ", ".join(map(str, initial.parameters))
        signature = f"{name}({arguments})" if arguments else name
        yield {"name": name, "signature": signature, "doc": initial.doc, "kind": "initialiser"}


def optimizers() -> Iterator[Row]:
    from bettyc.optimizers import OPTIMIZERS

    yield from _table(OPTIMIZERS)


def strategies() -> Iterator[Row]:
    from bettyc.strategies import STRATEGIES

    yield from _table(STRATEGIES)


def _table(table: Mapping[str, type]) -> Iterator[Row]:
    """The rows of a table of dataclasses: each field is an argument with its default."""
    from bettyc.settings import show

    for name, cls in table.items():
        fields: list[tuple[str, Any]] = [(f.name, f.default) for f in dataclasses.fields(cls)]
        listed = ", ".join(f"{key} = {show(default)}" for key, default in fields)
        yield {
            "name": name,
            "signature": f"{name}({listed})" if listed else name,
            "doc": " ".join((cls.__doc__ or "").split()),
            "arguments": dict(fields),
        }


def settings_() -> Iterator[Row]:
    from bettyc.settings import BLOCKS, show

    for block, kinds in BLOCKS.items():
        for name, kind in kinds.items():
            default = "" if kind.default is None else f" = {show(kind.default)}"
            path = f"run.{name}" if block == "run" else f"LEVEL.{name}"
            yield {
                "name": path,
                "signature": f"{path}{default}",
                "doc": kind.doc,
                "block": block,
                "choices": list(kind.choices),
            }


def domains() -> Iterator[Row]:
    for name, (signature, doc) in DOMAINS.items():
        yield {"name": name, "signature": signature, "doc": doc}


ROWS = {
    "functions": functions,
    "optimizers": optimizers,
    "strategies": strategies,
    "settings": settings_,
    "domains": domains,
}
