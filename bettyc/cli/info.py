"""`bettyc info`: what a program declares, with where each value came from."""

from __future__ import annotations

import json
from typing import Any

import click

from bettyc.cli.common import global_options, linked, program_options, read_program, settings, sound


@click.command("info")
@click.argument("file", metavar="FILE|-")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@program_options
@global_options("text", "json")
def command(file: str, as_json: bool, **parameters: Any) -> None:
    """Show dims, data, levels, variables, settings, Python references and imported files.

    Values come from, in rising precedence: default, file, profile, config, --set.
    """
    from bettyc.info import info

    s = settings(parameters)
    content = info(linked(sound(read_program(file, s), s), s))
    if as_json or s.format == "json":
        click.echo(json.dumps(content, ensure_ascii=False, indent=2))
    else:
        click.echo("\n".join(_text(content)))


def _text(content: dict[str, Any]) -> list[str]:
    dims = ", ".join(f"{k} = {'?' if v is None else v}" for k, v in content["dims"].items())
    lines = [f"program   {content['program']}   {content['file']}"]
    lines += [f"dims      {dims}"] if dims else []
    lines += [f"imports   {', '.join(content['imports'])}"] if content["imports"] else []
    lines += [f"profiles  {', '.join(content['profiles'])}"] if content["profiles"] else []
    if content["data"]:
        lines += [
            "",
            "data",
            *(f"  {d['name']} : {d['type']} from {d['source']}" for d in content["data"]),
        ]
    if content["externs"]:
        lines += ["", "Python"]
        lines += [f'  {e["kind"]} {e["name"]} from "{e["from"]}"' for e in content["externs"]]
    lines += ["", "levels"]
    for level in content["levels"]:
        owned = ", ".join(f"{v['name']} : {v['type']}" for v in level["variables"])
        count = "" if level["size"] is None else f"   ({level['size']} scalars)"
        lines.append(f"  {level['name']}  {level['sense']}   {owned}{count}")
    if content["params"]:
        lines += ["", "params", *_settings(content["params"])]
    everything = [s for level in content["levels"] for s in level["settings"]] + content["run"]
    return [*lines, "", "settings", *_settings([s for s in everything if s["value"] is not None])]


def _settings(found: list[dict[str, Any]]) -> list[str]:
    width = max((len(f"{s['path']} = {s['value']}") for s in found), default=0)
    return [
        f"  {s['path'] + ' = ' + str(s['value']):<{min(width, 60)}}   {s['origin']}"
        + (f" {s['line']}:{s['column']}" if s["origin"] == "file" and s["line"] else "")
        for s in found
    ]
