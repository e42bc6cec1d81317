"""Python objects that a program names: `from "pkg.mod:attr"`.

Looked up beside the program first, then on `sys.path`. Everything that can be wrong with them is a
diagnostic at the declaration; what the user's own code raises is shown with its line.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn

from bettyc.diagnostics.registry import report
from bettyc.failures import InputError
from bettyc.model import Call, Extern, Value


@dataclass(frozen=True)
class Function:
    """An `extern fn`. `constant` are the positions of parameters that carry no gradient."""

    call: Callable[..., Any]
    constant: frozenset[int]


def load(extern: Extern, folder: str, given: Mapping[str, Any], include: Sequence[str] = ()) -> Any:
    """The object that an extern names. `given` replaces it by name (Python callers, tests).

    Raises InputError with MLO0701 or MLO0702.
    """
    if extern.name in given:
        return given[extern.name]
    module_name, _, attribute = extern.origin.partition(":")
    folders = [folder, *include]
    with _searching(folders, module_name.partition(".")[0]):
        try:
            found: Any = importlib.import_module(module_name)
        except Exception as error:
            # whatever the user's module raises while it is imported is theirs to see
            raise InputError(_import_failed(extern, module_name, folders, error)) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise InputError(
                report(
                    "MLO0702",
                    extern.span,
                    module=module_name,
                    name=part,
                    notes=[f"did you mean `{n}`?" for n in get_close_matches(part, dir(found), 3)],
                )
            )
        found = getattr(found, part)
    return found


@contextmanager
def _searching(folders: Sequence[str], top: str) -> Iterator[None]:
    """sys.path with `folders` first. A module of the same name from another program's folder, still
    loaded, makes way.
    """
    paths = [str(Path(f).resolve()) for f in folders if f]
    here = next((p for p in paths if _holds(p, top)), None)
    loaded = sys.modules.get(top)
    origin = getattr(loaded, "__file__", None) or next(iter(getattr(loaded, "__path__", [])), None)
    if here and loaded is not None and not str(origin).startswith(here):
        for name in [n for n in sys.modules if n == top or n.startswith(f"{top}.")]:
            del sys.modules[name]
    sys.path[:0] = paths
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for path in paths:
            sys.path.remove(path)


def _holds(folder: str, top: str) -> bool:
    base = Path(folder)
    return (base / f"{top}.py").is_file() or (base / top).is_dir()


def _import_failed(extern: Extern, module: str, folders: Sequence[str], error: Exception) -> Any:
    notes = [f"{type(error).__name__}: {error}"]
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    if frames and frames[-1].filename != __file__:
        notes.append(f"raised at {frames[-1].filename}:{frames[-1].lineno}")
    if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
        notes.append("searched " + ", ".join([*(f or "." for f in folders), "sys.path"]))
        names = [
            p.stem for f in folders if Path(f or ".").is_dir() for p in Path(f or ".").glob("*.py")
        ]
        notes += [f"did you mean `{n}`?" for n in get_close_matches(module, names, 3)]
    return report("MLO0701", extern.span, module=module, notes=notes)


def function(extern: Extern, found: Any) -> Function:
    """An `extern fn`. Raises InputError with MLO0703 when it cannot be called."""
    if not callable(found):
        raise InputError(report("MLO0703", extern.span, name=extern.name, expected="a function"))
    constant = (k for k, p in enumerate(extern.parameters) if p in getattr(extern, "nondiff", ()))
    return Function(found, frozenset(constant))


def arguments(extern: Extern, call: Call) -> dict[str, Value]:
    """The arguments of a call of an extern by its declared parameters."""
    given = dict(zip(extern.parameters, call.positional, strict=False))
    return {**given, **dict(call.named)}


def network(extern: Extern, found: Any, call: Call) -> nn.Module:
    """Build an `extern module`. Raises InputError with MLO0701, MLO0703 or MLO0704."""
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise InputError(report("MLO0703", extern.span, name=extern.name, expected="an nn.Module"))
    built = construct(extern, found, arguments(extern, call))
    if not isinstance(built, nn.Module):
        note = f"it returned a {type(built).__name__}"
        raise InputError(
            report("MLO0703", extern.span, name=extern.name, expected="an nn.Module", notes=[note])
        )
    return built


def construct(extern: Extern, found: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """Call the user's factory, with what it raises as a diagnostic."""
    _check_parameters(extern, found, given)
    try:
        return found(**given)
    except Exception as error:
        # the user's code: report it, with its place
        raise InputError(_import_failed(extern, f"{extern.origin}(...)", [], error)) from error


def _check_parameters(extern: Extern, found: Callable[..., Any], given: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):
        return
    kinds = {p.kind for p in signature.parameters.values()}
    for name in given:
        if name not in signature.parameters and inspect.Parameter.VAR_KEYWORD not in kinds:
            raise InputError(
                report(
                    "MLO0704",
                    extern.span,
                    name=extern.origin.partition(":")[2],
                    argument=name,
                    notes=[f"its signature is {signature}"],
                )
            )
