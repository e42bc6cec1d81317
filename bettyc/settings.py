"""The settings of levels and of the run block: names, what values they take, defaults.

A closed set per block, so that a typo is an error and never a silent new variable.
`bettyc.setting_values` checks values against these tables.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from bettyc.model import Call, Ref, Value
from bettyc.optimizers import OPTIMIZERS
from bettyc.strategies import STRATEGIES


@dataclass(frozen=True)
class Kind:
    """What a setting accepts. kind: count, positive, number, flag, text, texts, choice, quoted,
    call, refs, stop.

    choices: the words of a choice, the strings of a quoted one; table: the dataclasses of a call.
    Several kinds are alternatives.
    """

    kinds: tuple[str, ...]
    doc: str
    default: Value = None
    choices: tuple[str, ...] = ()
    table: str = ""


PRECISIONS = ("fp32", "fp64", "tf32", "bf16", "fp16")
LEVEL: dict[str, Kind] = {
    "optimizer": Kind(
        ("call",), "how the level's variables are updated", Call("auto"), table="optimizer"
    ),
    "lr_schedule": Kind(("call",), "learning rate over the level's own steps", table="schedule"),
    "steps": Kind(("count",), "updates per update of the level above, or per round of the run"),
    "start": Kind(
        ("start",),
        "where each inner loop begins: warm, reset, copy(level.module)",
        Call("warm"),
        choices=("warm", "reset", "copy"),
    ),
    "hypergrad": Kind(
        ("call",), "how to differentiate through this level", Call("auto"), table="strategy"
    ),
    "curvature": Kind(
        ("choice",),
        "what the Hessian of a level that stars others means",
        Call("auto"),
        choices=("auto", "direct", "total"),
    ),
    "replicas": Kind(
        ("choice",),
        "how the copies of a `foreach` level are evaluated: all at once or one after another",
        Call("auto"),
        choices=("auto", "vmap", "loop"),
    ),
    "stop": Kind(("stop",), "end of the inner loop: grad_norm < 1e-6"),
    "groups": Kind(
        ("groups",),
        'other options for some variables: group("*.bias", lr = 0.1)',
        (),
    ),
    "average": Kind(
        ("call",), "average over the updates, for metrics and exports", table="average"
    ),
    "clip": Kind(("positive",), "largest norm of the gradient"),
    "clip_value": Kind(("positive",), "largest entry of the gradient"),
    "precision": Kind(("choice",), "precision of this level", choices=PRECISIONS),
    "accumulate": Kind(("count",), "batches per update", 1),
    "warmup": Kind(
        ("natural",),
        "updates before the level above first moves; `unroll` and its like do not go through them",
        0,
    ),
    "freeze": Kind(("text", "texts"), "parameters that stay as they are, by pattern", ()),
    "recompute": Kind(
        ("flag", "text", "texts"),
        "parts of networks, by pattern, that the backward pass computes again to save memory",
        (),
    ),
}
RUN: dict[str, Kind] = {
    "steps": Kind(("count",), "updates of the top level", 100),
    "seed": Kind(("natural",), "of initial values, batches, masks", 0),
    "device": Kind(
        ("choice", "text"), "where tensors live", Call("auto"), choices=("auto", "cpu", "cuda")
    ),
    "precision": Kind(("choice",), "of the type `real`", Call("fp32"), choices=PRECISIONS),
    "compat": Kind(
        ("quoted",), "library whose formulas and schedule are reproduced", choices=("betty",)
    ),
    "cuda_graphs": Kind(
        ("choice",),
        "record periods on a GPU and launch each as one; auto is off until that has been measured",
        Call("auto"),
        choices=("auto", "on", "off"),
    ),
    "deterministic": Kind(("flag",), "refuse operations without a deterministic form", False),
    "log": Kind(("call", "calls"), "where and how often to log", table="log"),
    "eval": Kind(("call",), "how often metrics are evaluated", table="every"),
    "checkpoint": Kind(("call",), "how often to save", table="checkpoint"),
    "stop": Kind(("call",), "early stopping", table="early"),
    "export": Kind(("refs",), "variables written at the end", ()),
}
BLOCKS = {"level": LEVEL, "run": RUN}


@dataclass(frozen=True)
class Field:
    """An argument of an optimizer, strategy, schedule ...: its type and default; `required`
    without one. words: what one that is a word may be, where there are few.
    """

    name: str
    type: Any
    default: Value
    required: bool = False
    words: tuple[str, ...] = ()


def _fields(cls: type) -> tuple[Field, ...]:
    hints = typing.get_type_hints(cls)
    defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(cls)}
    words: Mapping[str, tuple[str, ...]] = getattr(cls, "words", {})
    return tuple(
        Field(n, hints[n], value, False, words.get(n, ())) for n, value in defaults.items()
    )


@cache
def table(name: str) -> Mapping[str, tuple[Field, ...]]:
    """The named choices of a call setting, each with its arguments."""
    if name == "optimizer":
        return {n: _fields(c) for n, c in OPTIMIZERS.items()}
    if name == "strategy":
        return {n: _fields(c) for n, c in STRATEGIES.items()}
    if name == "schedule":
        from bettyc.schedules import SCHEDULES

        return {n: _fields(c) for n, c in SCHEDULES.items()}
    if name == "average":
        return {
            "ema": (Field("decay", float, 0.999),),
            "swa": (Field("start", int, 0), Field("every", int, 1)),
        }
    n = Field("n", int, None, required=True)
    if name == "every":
        return {"every": (n,)}
    if name == "checkpoint":
        return {
            "every": (n, Field("keep", int, 3), Field("best", Ref, None), Field("mode", str, "max"))
        }
    if name == "early":
        return {
            "early": (
                Field("of", Ref, None, required=True),
                Field("patience", int, 10),
                Field("mode", str, "min"),
                Field("min_delta", float, 0.0),
            )
        }
    if name == "log":
        folder = Field("folder", str, None)
        return {
            "every": (n,),
            "csv": (),
            "tensorboard": (folder,),
            "wandb": (Field("project", str, None), Field("name", str, None)),
            "mlflow": (Field("experiment", str, None), folder),
        }
    raise KeyError(name)


def show(value: Value) -> str:
    """A value as the language writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Ref):
        return value.path
    if isinstance(value, tuple):
        return f"[{', '.join(map(show, value))}]"
    if isinstance(value, Call):
        if value.name == "<":
            return f"{show(value.positional[0])} < {show(value.positional[1])}"
        args = [show(v) for v in value.positional] + [f"{k} = {show(v)}" for k, v in value.named]
        return f"{value.name}({', '.join(args)})" if args else value.name
    if isinstance(value, str):
        return f'"{value}"'
    return str(value)
