"""Where else the numbers of a run go: `log = [every(50), csv, tensorboard("runs/mwn")]`.

A logger of another package is loaded when a program asks for it, and missing packages are named.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import click

from bettyc.cli.common import write
from bettyc.model import Call

if TYPE_CHECKING:
    from bettyc.plan import Plan
    from bettyc.runtime.run import Output


KNOWN = "loggers.json"  # in the folder of a run: what it is called elsewhere


class Logger(Protocol):
    """Takes the numbers of an update by name: `loss/tune`, `metric/test_acc`, `grad_norm/tune`."""

    def log(self, step: int, numbers: dict[str, float]) -> None: ...

    def close(self, failed: bool) -> None: ...


def interval(plan: Plan) -> int:
    """Updates of the top level between two lines of the log."""
    n = next((c.get("n") for c in _calls(plan) if c.name == "every"), 1)
    return n if isinstance(n, int) else 1


def loggers(plan: Plan, folder: str, done: int | None = None) -> list[Logger]:
    """Those that the program asks for; `done`: updates after which a run goes on in its folder.

    Raises `click.UsageError` where a package is missing or refuses to begin.
    """
    calls = [c for c in _calls(plan) if c.name in LOGGERS]
    return [_opened(c, folder, plan.model.name, done) for c in calls]


def _opened(call: Call, folder: str, program: str, done: int | None) -> Logger:
    """A package of others may refuse for many reasons (no key, no such store), in its own words."""
    try:
        logger: Logger = LOGGERS[call.name](call, folder, program, done)
    except (OSError, click.ClickException):
        raise
    except Exception as error:
        raise click.UsageError(f"`log = {call.name}` cannot begin: {error}") from error
    return logger


def _calls(plan: Plan) -> Iterator[Call]:
    setting = plan.model.setting("log")
    for value in setting if isinstance(setting, tuple) else (setting,):
        if isinstance(value, Call):
            yield value


def numbers(output: Output) -> dict[str, float]:
    """The numbers of an update by name."""
    groups = (("loss", output.loss), ("metric", output.metrics), ("grad_norm", output.grad_norm))
    return {f"{kind}/{name}": value for kind, found in groups for name, value in found.items()}


class Csv:
    """`metrics.csv` in the folder of the run: step, name, value; one number per row."""

    def __init__(self, call: Call, folder: str, program: str, done: int | None) -> None:
        path = os.path.join(folder, "metrics.csv")
        new = done is None or not os.path.isfile(path)
        self._file = open(path, "x" if new else "a", newline="")  # noqa: SIM115
        self._writer = csv.writer(self._file)
        if new:
            self._writer.writerow(["step", "name", "value"])

    def log(self, step: int, numbers: dict[str, float]) -> None:
        self._writer.writerows([step, name, value] for name, value in numbers.items())
        self._file.flush()

    def close(self, failed: bool) -> None:
        self._file.close()


class TensorBoard:
    """`tensorboard(folder)`: a folder of the run's name inside; without one, the run's own.

    Of a run that goes on, what was logged after its checkpoint is hidden (`purge_step`).
    """

    def __init__(self, call: Call, folder: str, program: str, done: int | None) -> None:
        module = _load("torch.utils.tensorboard", "tensorboard")
        chosen = _text(call, "folder")
        inside = os.path.join(chosen, _name(folder)) if chosen else folder
        self._writer = module.SummaryWriter(log_dir=inside, purge_step=done)

    def log(self, step: int, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self, failed: bool) -> None:
        self._writer.close()


class Wandb:
    """`wandb(project, name)`. A run that goes on in its folder goes on there too."""

    def __init__(self, call: Call, folder: str, program: str, done: int | None) -> None:
        module = _load("wandb", "wandb")
        project, name = _text(call, "project") or program, _text(call, "name") or _name(folder)
        known = None if done is None else _known(folder, "wandb")
        resume = None if known is None else "allow"
        self._run = module.init(project=project, name=name, dir=folder, id=known, resume=resume)
        _keep(folder, "wandb", self._run.id)

    def log(self, step: int, numbers: dict[str, float]) -> None:
        self._run.log(numbers, step=step)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=1 if failed else 0)


class MLflow:
    """`mlflow(experiment, folder)`: a folder gets a data base, since MLflow 3 refuses plain files;
    an address (`sqlite:///…`, `http://…`) is taken as it is. A run that goes on in its folder goes
    on there too.
    """

    def __init__(self, call: Call, folder: str, program: str, done: int | None) -> None:
        self._module = _load("mlflow", "mlflow")
        store = _text(call, "folder")
        if store and "://" not in store:
            os.makedirs(store, exist_ok=True)
            store = f"sqlite:///{os.path.abspath(store)}/mlflow.db"
        if store:
            self._module.set_tracking_uri(store)
        self._module.set_experiment(_text(call, "experiment") or program)
        known = None if done is None else _known(folder, "mlflow")
        if known is None:
            found = self._module.start_run(run_name=_name(folder))
        else:
            found = self._module.start_run(run_id=known)
        _keep(folder, "mlflow", found.info.run_id)

    def log(self, step: int, numbers: dict[str, float]) -> None:
        self._module.log_metrics(numbers, step=step)

    def close(self, failed: bool) -> None:
        self._module.end_run("FAILED" if failed else "FINISHED")


LOGGERS: dict[str, Any] = {
    "csv": Csv,
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": MLflow,
}


def _known(folder: str, logger: str) -> str | None:
    """By what number a logger knows the run of this folder; None where it never heard of it."""
    path = os.path.join(folder, KNOWN)
    if not os.path.isfile(path):
        return None
    with open(path, encoding="utf-8") as file:
        found = json.load(file).get(logger)
    return found if isinstance(found, str) else None


def _keep(folder: str, logger: str, number: str) -> None:
    path, found = os.path.join(folder, KNOWN), {}
    if os.path.isfile(path):
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    write(path, json.dumps({**found, logger: number}, indent=2) + "\n")


def _name(folder: str) -> str:
    """The name of the run: that of its folder."""
    return os.path.basename(os.path.abspath(folder))


def _text(call: Call, name: str) -> str | None:
    value = call.get(name)
    return value if isinstance(value, str) else None


def _load(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        message = f"`log = {package}` needs the package {package}: pip install {package}"
        raise click.UsageError(message) from None
