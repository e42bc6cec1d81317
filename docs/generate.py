"""Write the pages that are made from the compiler's own tables, or check that they are up to date.

python docs/generate.py            write them
python docs/generate.py --check    exit with 1 and name the pages that differ
"""

from __future__ import annotations

import ast
import dataclasses
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from bettyc import ops, setting_values, settings
from bettyc.cli.list_ import DOMAINS
from bettyc.cli.main import VERBS, bettyc
from bettyc.diagnostics.explain import listing
from bettyc.diagnostics.page import page
from bettyc.diagnostics.registry import FAMILIES
from bettyc.driver import check_file
from bettyc.graph import build
from bettyc.optimizers import OPTIMIZERS
from bettyc.pictures import draw
from bettyc.schedules import SCHEDULES
from bettyc.strategies import STRATEGIES

DOCS = Path(__file__).parent
EXAMPLES = DOCS.parent / "examples"
STRATEGY_FILES = DOCS.parent / "runtime" / "strategies"
WIDTH = 100  # columns of the help texts
MADE = "<!-- Made by docs/generate.py; edit the tables it reads, not this page. -->"


def main(arguments: Sequence[str]) -> int:
    made = pages()
    if arguments == ["--check"]:
        stale = [name for name, text in made.items() if _read(name) != text]
        stale += sorted(str(p) for p in present() - made.keys())
        for name in stale:
            print(f"docs/{name} is out of date; run: python docs/generate.py", file=sys.stderr)
        return 1 if stale else 0
    for name in present() - made.keys():
        (DOCS / name).unlink()
    for name, text in made.items():
        (DOCS / name).parent.mkdir(exist_ok=True)
        (DOCS / name).write_text(text, encoding="utf-8")
    return 0


def pages() -> dict[str, str]:
    """Every generated page by its path in docs/."""
    return {
        "functions.md": functions(),
        "settings.md": settings_page(),
        "optimizers.md": optimizers(),
        "strategies.md": strategies(),
        "cli.md": command_line(),
        "errors/README.md": errors(),
        "pictures/two.svg": picture("logistic_hpo"),
        "pictures/three.svg": picture("hpo_of_hpo"),
        **{f"errors/{code}.md": error(code) for code, *_ in listing()},
    }


def present() -> set[str]:
    """The generated pages of errors that there are; codes may have gone."""
    return {f"errors/{p.name}" for p in (DOCS / "errors").glob("*.md")}


def _read(name: str) -> str | None:
    path = DOCS / name
    return path.read_text(encoding="utf-8") if path.is_file() else None


def document(title: str, intro: str, parts: Iterable[str]) -> str:
    return "\n\n".join([f"# {title}", MADE, intro.strip(), *(p.strip() for p in parts)]) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(c) for c in line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    return f"`{text}`" if text else ""


# Functions

FUNCTION_FAMILIES = {
    "pointwise": "Entry by entry",
    "reduce": "Sums, means, extremes",
    "linear": "Linear algebra",
    "shape": "Shapes",
    "loss": "Losses, per sample",
    "formulas": "Losses, distances and densities that are formulas over the others",
    "control": "Gradients, networks, randomness",
}


def functions() -> str:
    """Functions by the module of `bettyc.ops` that has their row."""
    parts, seen = [], set()
    for family, title in FUNCTION_FAMILIES.items():
        rows = getattr(ops, family).ROWS
        names = sorted(n for n in ops.FUNCTIONS if n in rows)
        seen |= set(names)
        parts.append(f"## {title}\n\n" + _functions(names))
    left = sorted(set(ops.FUNCTIONS) - seen)
    if left:
        parts.append("## Others\n\n" + _functions(left))
    rows = [
        (code(f"{n}({', '.join(map(str, i.parameters))})" if i.parameters else n), i.doc)
        for n, i in sorted(ops.INITIAL.items())
    ]
    parts.append("## Initial values\n\nAfter `=` of a `var`.\n\n" + table(["value", "means"], rows))
    return document(
        "Functions",
        """
The functions of formulas. `x...` takes any number of arguments; an argument with a default may be
left out, and is given by its name. `bettyc list functions` prints the same.

*Derivative*: empty where a function is smooth; *piecewise* where it has kinks; *flat* where it is
zero almost everywhere, so that no gradient passes ([MLO0314](errors/MLO0314.md)).""",
        parts,
    )


def _functions(names: Iterable[str]) -> str:
    rows = []
    for name in names:
        op = ops.FUNCTIONS[name]
        smooth = "" if op.smooth == "smooth" else op.smooth
        if op.smooth == "piecewise" and op.kinks:
            smooth = f"piecewise: {op.kinks}"
        rows.append((code(op.signature), op.doc, smooth))
    return table(["function", "value", "derivative"], rows)


# Settings


def settings_page() -> str:
    parts = []
    for block, title in (("level", "Of a level"), ("run", "Of the run")):
        checker = setting_values.Checker()
        rows = []
        for name, kind in settings.BLOCKS[block].items():
            default = "" if kind.default is None else code(settings.show(kind.default))
            rows.append((code(name), kind.doc, checker._expected(kind), default))
        parts.append(f"## {title}\n\n" + table(["setting", "what", "takes", "default"], rows))
    for name, title in (
        ("average", "`average` in a level"),
        ("early", "`stop` in `run`"),
        ("checkpoint", "`checkpoint` in `run`"),
        ("log", "`log` in `run`"),
    ):
        rows = [
            (code(f"{word}({', '.join(map(_field, fields))})" if fields else word),)
            for word, fields in settings.table(name).items()
        ]
        parts.append(f"## Values of {title}\n\n" + table(["value"], rows))
    rows = [(code(signature), doc) for signature, doc in DOMAINS.values()]
    parts.append("## Domains\n\nAfter `in` of a `var`.\n\n" + table(["domain", "means"], rows))
    return document(
        "Settings",
        """
`key = value` in a level or in the `run` block. Any other key is [MLO0601](errors/MLO0601.md), a
value out of range [MLO0603](errors/MLO0603.md). Each is also a path for `--set`: `fit.steps`,
`run.seed`, and an argument of a value, `fit.optimizer.lr`. `bettyc list settings` prints the
same.

Optimizers and learning-rate schedules are [here](optimizers.md), the values of `hypergrad`
[here](strategies.md).""",
        parts,
    )


def _field(field: settings.Field) -> str:
    if field.required:
        return field.name
    return f"{field.name} = {'none' if field.default is None else settings.show(field.default)}"


def signature(name: str, cls: Any) -> str:
    fields = [f"{f.name} = {settings.show(f.default)}" for f in dataclasses.fields(cls)]
    return code(f"{name}({', '.join(fields)})" if fields else name)


def doc(cls: type) -> str:
    return " ".join((cls.__doc__ or "").split())


def optimizers() -> str:
    rows = [
        (
            signature(name, cls),
            doc(cls),
            "until solved" if cls.solves else "`steps` times",
            "yes" if cls.differentiable else "no",
        )
        for name, cls in OPTIMIZERS.items()
    ]
    schedules = [(signature(name, cls), doc(cls)) for name, cls in SCHEDULES.items()]
    return document(
        "Optimizers",
        """
Values of `optimizer = …` in a level. Where torch.optim has the optimizer, names and defaults are
torch's. Updates that can be differentiated are what `unroll`, `forward`, `sama` and `fixed_point`
need. An argument that is a number may be a formula of variables of another level.""",
        [
            table(["optimizer", "what", "runs", "differentiable"], rows),
            "## Learning-rate schedules\n\nValues of `lr_schedule = …`. They count the level's own"
            " updates; a `total` of 0 is the whole run.\n\n"
            + table(["schedule", "what"], schedules),
        ],
    )


# Strategies

NEEDS = {
    "nothing": "nothing",
    "gradient": "first derivatives",
    "hvp": "products with the Hessian",
    "trajectory": "the inner steps, replayed",
}
SYMBOLS = {r"\partial": "∂", r"\nabla": "∇", r"\sum": "Σ"}


def strategies() -> str:
    rows, parts = [], []
    for name, cls in STRATEGIES.items():
        rows.append((f"[`{name}`](#{name})", doc(cls), NEEDS[cls.needs]))
        parts.append(_strategy(name, cls))
    return document(
        "Strategies",
        """
Values of `hypergrad = …` in a level: how to differentiate **through** that level.
[Hypergradients](hypergradients.md) says what the letters mean and which to take when. Each
section is the text that stands in the strategy's own source file.""",
        [table(["strategy", "what", "needs"], rows), *parts],
    )


def _strategy(name: str, cls: Any) -> str:
    text = f"## {name}\n\n{signature(name, cls)}: {doc(cls)}."
    for option, words in getattr(cls, "words", {}).items():
        text += f"\n\n`{option}`: {', '.join(map(code, words))}."
    path = STRATEGY_FILES / f"{name}.py"
    if path.is_file():
        source = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        for word, symbol in SYMBOLS.items():
            source = source.replace(word, symbol)
        text += "\n\n" + "\n".join(_indented(source))
    return text


def _indented(text: str) -> Iterator[str]:
    """Markdown takes indented lines as text when they follow prose directly: part them."""
    before = ""
    for line in text.splitlines():
        if line.startswith("    ") and before and not before.startswith("    "):
            yield ""
        yield line
        before = line


# The command line


def command_line() -> str:
    parts = [f"```text\n{_help(bettyc, 'bettyc')}\n```"]
    parent = _context(bettyc, "bettyc")
    for verb in VERBS:
        command = bettyc.get_command(parent, verb)
        assert command is not None
        parts.append(f"## {verb}\n\n```text\n{_help(command, verb, parent)}\n```")
    return document(
        "The command line",
        """
Results go to the standard output, diagnostics to the standard error. The exit code is 0 when all
is well, 1 when errors were found (or `fmt --check` would change a file), 2 for wrong usage,
configuration or files, 3 when a run failed, 101 for a fault of bettyc itself, 130 when it was
interrupted.

Values from outside, later ones win: default, file, `--profile`, `--config`, `--set`. `--data`
replaces a source of data.""",
        parts,
    )


def _help(command: click.Command, name: str, parent: click.Context | None = None) -> str:
    return command.get_help(_context(command, name, parent)).strip()


def _context(
    command: click.Command, name: str, parent: click.Context | None = None
) -> click.Context:
    known = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    return click.Context(command, parent, name, **known)


# Pictures


def picture(example: str) -> str:
    """The levels of a program of examples/."""
    checked = check_file(str(EXAMPLES / f"{example}.mlo"))
    if checked.model is None or checked.hierarchy is None:
        raise SystemExit(f"examples/{example}.mlo has errors")
    return draw(build(checked.model, checked.hierarchy, checked.sources), "svg")


# Errors

TITLES = {
    "syntax": "Syntax",
    "names": "Names",
    "hierarchy": "Hierarchy and gradients",
    "types": "Types and shapes",
    "data": "Data",
    "settings": "Settings and strategies",
    "python": "Python",
    "run": "Running",
    "lints": "Matters of taste",
}


def errors() -> str:
    parts = []
    for digits, family in FAMILIES.items():
        rows = [
            (
                f"[{number}]({number}.md)",
                name,
                severity,
                message.replace("{{", "{").replace("}}", "}"),
            )
            for number, name, severity, message in listing()
            if number[3:5] == digits
        ]
        parts.append(
            f"## {TITLES[family]}\n\n" + table(["code", "name", "severity", "message"], rows)
        )
    return document(
        "Errors and warnings",
        """
One page per code: what it means, a program that has it, the program without it. `bettyc explain
CODE` prints the same page. In the messages, what stands in braces is filled in.

A *warning* is for a program that runs and probably does not do what was meant. A *pedantic*
finding is shown with `--pedantic`. `-A CODE` hides one, `-W CODE` makes it a warning, `-E CODE`
an error; a comment `# mlo: allow(CODE)` allows it [in one
place](../language.md#silencing-a-warning). Errors cannot be allowed.""",
        parts,
    )


def error(number: str) -> str:
    """The page, and the way back."""
    title, _, rest = page(number).text.partition("\n")
    return f"{title}\n\n[All codes](README.md)\n{rest}"


if __name__ == "__main__":
    os.environ.pop("COLUMNS", None)
    sys.exit(main(sys.argv[1:]))
