"""The Python interface: load a program, check it, compile it, run it.

prog = bettyc.load("hpo.mlo", set={"tune.optimizer.lr": 0.02}, profile="smoke")
prog.check().raise_if_errors()
plan = prog.compile(data={"all": {"x": X, "y": y}}, device="cpu")
run = plan.start(seed=0)
for out in run:
    print(out.step, out.loss["tune"])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bettyc import driver
from bettyc.diagnostics.model import Diagnostic
from bettyc.diagnostics.render import render
from bettyc.driver import Checked
from bettyc.failures import InputError
from bettyc.model import DataSet
from bettyc.options import OPT, Options
from bettyc.plan import Plan, from_json
from bettyc.types import Type

if TYPE_CHECKING:
    import networkx

    from bettyc.runtime.layer import Layer
    from bettyc.runtime.run import Run


class MloError(Exception):
    """A program that cannot be used. `diagnostics` says why; str() is the rendered text."""

    def __init__(self, diagnostics: Sequence[Diagnostic], text: str) -> None:
        super().__init__(text)
        self.diagnostics = tuple(diagnostics)


def load(
    path: str | Path,
    *,
    set: Mapping[str, Any] | None = None,
    profile: str | None = None,
    data: Mapping[str, str] | None = None,
    mock: Mapping[str, int] | None = None,
    include: Sequence[str] = (),
) -> Program:
    """Read a program from a file.

    set: values by path (`{"fit.optimizer.lr": 0.1}`); strings are taken as the language's own
    syntax.
    profile: a `profile` block of the file. data: sources by data set, as `--data` takes them.
    mock: sizes of dims; data are then made from their types. include: folders for Python modules.
    Raises OSError when the file cannot be read. What is wrong with the program is in `check()`.
    """
    return Program(driver.check_file(str(path), _options(set, profile, data, mock, include)))


def loads(
    text: str,
    *,
    filename: str = "<text>",
    folder: str | None = None,
    set: Mapping[str, Any] | None = None,
    profile: str | None = None,
    data: Mapping[str, str] | None = None,
    mock: Mapping[str, int] | None = None,
    imports: Mapping[str, str] | None = None,
    include: Sequence[str] = (),
) -> Program:
    """Read a program from a string. imports: texts of the files it imports, by path."""
    read = None
    if imports is not None:
        texts = {str(Path(folder or ".") / k) if folder else k: v for k, v in imports.items()}

        def read(path: str) -> str:
            if path not in texts:
                raise FileNotFoundError(2, "not among `imports`", path)
            return texts[path]

    options = _options(set, profile, data, mock, include)
    return Program(driver.check(text, filename, options, folder=folder, read=read))


def load_plan(path: str | Path) -> CompiledPlan:
    """Read a plan that `CompiledPlan.save` or `bettyc compile` wrote. Raises ValueError when it
    is none.
    """
    return CompiledPlan(from_json(Path(path).read_text(encoding="utf-8")))


def _options(
    set_: Mapping[str, Any] | None,
    profile: str | None,
    data: Mapping[str, str] | None,
    mock: Mapping[str, int] | None,
    include: Sequence[str],
) -> Options:
    return Options(
        set=tuple((k, _text(v)) for k, v in (set_ or {}).items()),
        profile=profile,
        data=tuple((data or {}).items()),
        mock=tuple(mock.items()) if mock is not None else None,
        include=tuple(include),
    )


def _text(value: Any) -> str:
    """A Python value in the language's syntax; a string is taken to be that already."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    return str(value)


class Check:
    """The findings for a program: `diagnostics`, and `errors` among them."""

    def __init__(self, checked: Checked) -> None:
        self._checked = checked
        self.diagnostics = tuple(checked.shown())

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        return tuple(d for d in self.diagnostics if d.severity == "error")

    def text(self, color: bool = False) -> str:
        """As the command line shows them."""
        return render(list(self.diagnostics), self._checked.sources, "full", color)

    def raise_if_errors(self) -> Check:
        """Raises MloError."""
        if self.errors:
            raise MloError(self.diagnostics, self.text())
        return self


class Program:
    """A program that was read. What can be told without data is told without importing torch."""

    def __init__(self, checked: Checked) -> None:
        self.checked = checked

    def check(self) -> Check:
        """Everything that is wrong with it."""
        return Check(self.checked)

    @cached_property
    def graph(self) -> networkx.MultiDiGraph:
        """The levels and the edges between them. Raises MloError when the program has errors."""
        from bettyc.graph import build

        self.check().raise_if_errors()
        assert self.checked.model is not None
        assert self.checked.hierarchy is not None
        return build(self.checked.model, self.checked.hierarchy, self.checked.sources)

    def info(self) -> dict[str, Any]:
        """Dims, data, levels, variables, settings with where each value came from: `bettyc info
        --json`.
        """
        from bettyc.info import info

        return info(self.checked)

    def plan(self, *, opt: int = OPT, device: str | None = None, seed: int | None = None) -> Plan:
        """The plan with dims bound as far as files tell; for looking at. Raises MloError."""
        from bettyc.link import link
        from bettyc.planner import make_plan

        self.check().raise_if_errors()
        return _planned(link(self.checked, complete=False), make_plan, opt, device, seed)

    def compile(
        self,
        data: Mapping[str, Any] | None = None,
        externs: Mapping[str, Any] | None = None,
        *,
        device: str | None = None,
        opt: int = OPT,
        seed: int | None = None,
    ) -> CompiledPlan:
        """Bind the data and plan.

        data: values by data set name (a record of arrays or tensors, or a torch Dataset), in
        place of the declared sources. externs: Python objects by the name of their declaration.
        Raises MloError when something does not fit.
        """
        from bettyc.link import link
        from bettyc.planner import make_plan

        self.check().raise_if_errors()
        shapes = self._shapes(dict(data or {}), dict(externs or {}))
        plan = _planned(link(self.checked, shapes), make_plan, opt, device, seed)
        made: dict[str, Any] = {}
        sources: dict[str, Any] = {}
        if self.checked.options.mock is not None:
            from bettyc.runtime.data.mock import mocked

            made, sources = mocked(plan.model)
        return CompiledPlan(
            plan, {**made, **(data or {})}, {**sources, **(externs or {})}, self.checked
        )

    def _shapes(self, data: dict[str, Any], externs: dict[str, Any]) -> Any:
        """Sizes of data in memory and of sources from Python, found by the runtime's own loader."""
        model = self.checked.model
        assert model is not None
        python = {e.name for e in model.externs if e.kind == "source"}
        if not data and not any(d.source.name in python for d in model.data):
            return None
        from bettyc.runtime.sizes import shapes_of

        known: dict[str, Type] = {}

        def shapes(dataset: DataSet) -> tuple[Type | None, list[Diagnostic]]:
            if dataset.name not in data and dataset.source.name not in python:
                return None, []
            try:
                if dataset.name not in known:
                    known.update(
                        shapes_of(
                            model, self.checked.folder, data, externs, self.checked.options.include
                        )
                    )
            except InputError as error:
                return None, list(error.diagnostics)
            return known.get(dataset.name), []

        return shapes


def _planned(
    linked: Checked, make_plan: Any, opt: int, device: str | None, seed: int | None
) -> Plan:
    Check(linked).raise_if_errors()
    plan, found = make_plan(linked, opt=opt, device=device, seed=seed)
    if plan is None:
        failed = replace(linked, diagnostics=(*linked.diagnostics, *found))
        Check(failed).raise_if_errors()
    return plan  # type: ignore[no-any-return]


class CompiledPlan:
    """A plan with what it was compiled for. `plan` is the immutable data."""

    def __init__(
        self,
        plan: Plan,
        data: Mapping[str, Any] | None = None,
        externs: Mapping[str, Any] | None = None,
        checked: Checked | None = None,
    ) -> None:
        self.plan = plan
        self._data, self._externs, self._checked = dict(data or {}), dict(externs or {}), checked

    def start(self, seed: int | None = None, **options: Any) -> Run:
        """Begin a run: an iterator of one output per update of the top level.

        options go to `bettyc.runtime.run.Run`: data, externs, device, ...
        """
        from bettyc.runtime.run import Run

        given = {"data": self._data, "externs": self._externs, **options}
        return Run(self.plan, seed=seed if seed is not None else self.plan.seed, **given)

    def resume(self, path: str | Path, **options: Any) -> Run:
        """Continue from a checkpoint. Raises InputError (MLO0803) for a checkpoint of another
        program.
        """
        run = self.start(**options)
        run.load(path)
        return run

    def layer(
        self, level: str, *, warm: bool | None = None, seed: int | None = None, **options: Any
    ) -> Layer:
        """A level as a differentiable `torch.nn.Module`: see `bettyc.runtime.layer.Layer`.

        warm: whether each call begins where the last one ended; None does as the program says.
        options as of `start`. Raises InputError for a level that is not there.
        """
        from bettyc.runtime.layer import Layer

        given = {"data": self._data, "externs": self._externs, **options}
        return Layer(self.plan, level, warm=warm, seed=seed, **given)

    def hypergrad(self, level: str, **options: Any) -> Any:
        """The hypergradient of a level where a fresh run begins: see `Run.hypergrad`."""
        return self.start().hypergrad(level, **options)

    def to_json(self) -> str:
        """Canonical JSON; the same program gives the same bytes."""
        return self.plan.to_json()

    def save(self, path: str | Path) -> None:
        """Write the plan; `bettyc.load_plan` reads it. Data in memory and Python objects are not
        in it.
        """
        Path(path).write_text(self.to_json(), encoding="utf-8")
