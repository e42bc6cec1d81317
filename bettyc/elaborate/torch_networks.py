"""Built-in networks that torch.nn builds: `conv`, `resnet`, `transformer`.

The program sees their types, checked like any other; the module itself is made when the program
runs (`bettyc.runtime.networks`). To everything else they are networks from Python, without any
Python of the user's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bettyc.diagnostics.model import Edit, Suggestion
from bettyc.diagnostics.suggest import closest
from bettyc.elaborate import arguments, constants
from bettyc.elaborate.constants import NotConstant
from bettyc.elaborate.context import Context
from bettyc.elaborate.scope import LevelDecl, Scope
from bettyc.elaborate.values import Signature
from bettyc.grammar import ast
from bettyc.model import Call, Network, Value
from bettyc.settings import show
from bettyc.types import Dim, Module, Tensor, symbol

B, H, W, T = (symbol(name) for name in ("B", "H", "W", "T"))
NORMS = ("none", "batch", "group")
SMOOTH = ("relu", "gelu", "silu", "tanh")


@dataclass(frozen=True)
class Parameter:
    """kind: dim, dims, count, counts, number, flag or word; `words` are the words there are."""

    name: str
    kind: str
    default: Value = None
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class TorchNetwork:
    """The first `required` parameters have no default."""

    parameters: tuple[Parameter, ...]
    required: int
    doc: str


TORCH: dict[str, TorchNetwork] = {
    "conv": TorchNetwork(
        (
            Parameter("channels", "dims"),
            Parameter("outputs", "dim"),
            Parameter("kernel", "count", 3),
            Parameter("pool", "count", 2),
            Parameter("act", "word", "relu", SMOOTH),
            Parameter("norm", "word", "none", NORMS),
            Parameter("dropout", "number", 0.0),
        ),
        2,
        "Convolutions with pooling between them, the mean over positions, and a linear layer.",
    ),
    "resnet": TorchNetwork(
        (
            Parameter("channels", "dim"),
            Parameter("outputs", "dim"),
            Parameter("blocks", "counts", (1, 1, 1)),
            Parameter("width", "count", 16),
            Parameter("act", "word", "relu", SMOOTH),
            Parameter("norm", "word", "batch", NORMS),
        ),
        2,
        "A residual network for small images: stages of blocks, each of half the size.",
    ),
    "transformer": TorchNetwork(
        (
            Parameter("inputs", "dim"),
            Parameter("width", "count"),
            Parameter("heads", "count"),
            Parameter("layers", "count"),
            Parameter("outputs", "dim"),
            Parameter("feedforward", "count"),
            Parameter("act", "word", "relu", ("relu", "gelu")),
            Parameter("dropout", "number", 0.0),
            Parameter("norm_first", "flag", False),
        ),
        4,
        "A transformer encoder; with `outputs`, the mean over positions and a linear layer.",
    ),
}


def declare(ctx: Context, level: LevelDecl, node: ast.Module, call: ast.Call, scope: Scope) -> None:
    """Fills `ctx.networks` and `ctx.signatures`. Raises NotConstant after reporting."""
    assert isinstance(call.function, ast.Name)
    name = call.function.id
    row = TORCH[name]
    names = [p.name for p in row.parameters]
    given = arguments.arguments(
        ctx, name, names, set(names[: row.required]), call, scope, f"{name}({', '.join(names)})"
    )
    if given is None:
        raise NotConstant
    values: dict[str, Value] = {}
    dims: dict[str, Dim] = {}
    for parameter in row.parameters:
        if parameter.name not in given:
            values[parameter.name] = parameter.default
            continue
        reader = _Reader(ctx, scope, parameter, given[parameter.name].value)
        values[parameter.name] = reader.read(dims)
    _check(ctx, name, values, given, scope)
    inputs, output = _types(name, dims)
    key = (level.name, node.name.text)
    generic = frozenset({"B", "H", "W"} if name != "transformer" else {"B", "T"})
    ctx.signatures[key] = Signature((), (inputs,), output, generic)
    built = Call(name, (), tuple(values.items()))
    ctx.networks[key] = Network(
        node.name.text, Module((inputs,), output), name, built, (), node.name.span
    )


def _types(name: str, dims: Mapping[str, Dim]) -> tuple[Tensor, Tensor]:
    if name == "transformer":
        output = (B, dims["outputs"]) if "outputs" in dims else (B, T, dims["width"])
        return Tensor("real", (B, T, dims["inputs"])), Tensor("real", output)
    channels = dims["channels"]
    return Tensor("real", (B, channels, H, W)), Tensor("real", (B, dims["outputs"]))


class _Reader:
    """Reads one argument."""

    def __init__(self, ctx: Context, scope: Scope, parameter: Parameter, node: ast.Expr) -> None:
        self.ctx, self.scope, self.parameter, self.node = ctx, scope, parameter, node

    def read(self, dims: dict[str, Dim]) -> Value:
        """The value; sizes that types speak of are also put into `dims`."""
        kind = self.parameter.kind
        if kind in ("dim", "count"):
            found = self._size(self.node)
            dims[self.parameter.name] = found
            return found.value if found.value is not None else str(found)
        if kind in ("dims", "counts"):
            least = 2 if kind == "dims" else 1
            if not isinstance(self.node, ast.List) or len(self.node.items) < least:
                raise self._wrong("this", f"a list of at least {least} sizes")
            sizes = [self._size(item) for item in self.node.items]
            dims[self.parameter.name] = sizes[0]
            return tuple(s.value if s.value is not None else str(s) for s in sizes)
        if kind == "word":
            return self._word()
        value = constants.value(self.ctx, self.node, self.scope)
        good = isinstance(value, bool) if kind == "flag" else _share(value)
        if not good:
            expected = "`true` or `false`" if kind == "flag" else "in [0, 1)"
            raise self._wrong(show(value), expected)
        return float(value) if _share(value) else value  # type: ignore[arg-type]

    def _size(self, node: ast.Expr) -> Dim:
        found = constants.dim(self.ctx, node, self.scope)
        if found.value is not None and found.value < 1:
            raise self._wrong(str(found), "at least 1")
        return found

    def _word(self) -> str:
        words = self.parameter.words
        text = self.node.id if isinstance(self.node, ast.Name) else "this"
        if text in words:
            return text
        self.ctx.report(
            "MLO0602",
            self.node.span,
            self.scope,
            kind=f"`{self.parameter.name}`",
            name=text,
            label="not one of them",
            suggestions=[
                Suggestion(f"did you mean `{n}`?", (Edit(self.node.span, n),), "maybe-incorrect")
                for n in closest(text, words)
            ],
            notes=["known: " + ", ".join(words)],
        )
        raise NotConstant

    def _wrong(self, value: str, expected: str) -> NotConstant:
        self.ctx.report(
            "MLO0603",
            self.node.span,
            self.scope,
            setting=self.parameter.name,
            value=value,
            expected=expected,
        )
        return NotConstant()


def _share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1


def _check(
    ctx: Context, name: str, values: Mapping[str, Value], given: Mapping[str, Any], scope: Scope
) -> None:
    """What the arguments must satisfy together. Raises NotConstant after reporting."""
    wrong: tuple[str, str] | None = None
    width, heads, kernel = values.get("width"), values.get("heads"), values.get("kernel")
    if name == "transformer" and isinstance(width, int) and isinstance(heads, int):
        if width % heads:
            wrong = "heads", f"a divisor of `width`, which is {width}"
    elif name == "conv" and isinstance(kernel, int) and not kernel % 2:
        wrong = "kernel", "odd, so that images keep their size"
    if wrong is None:
        return
    key, expected = wrong
    ctx.report(
        "MLO0603", given[key].value.span, scope, setting=key, value=values[key], expected=expected
    )
    raise NotConstant


def too_small(network: Network, bound: Mapping[str, Dim]) -> str:
    """What images have to be, where those at hand are too small for a network; or nothing."""
    named = dict(network.arguments.named)
    if network.extern == "conv":
        channels, pool = named["channels"], named["pool"]
        assert isinstance(channels, tuple)
        least = int(pool) ** (len(channels) - 1) if isinstance(pool, int) else 1
    elif network.extern == "resnet":
        least = 1
    else:
        return ""
    sizes = [bound[n].value for n in ("H", "W") if n in bound]
    if any(s is not None and s < least for s in sizes):
        return f"images of at least {least} x {least}"
    return ""
