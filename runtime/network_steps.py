"""Steps of networks from Python as operators of the language.

A network's `forward`, as torch.fx follows it, is a list of steps: layers, functions and methods of
torch. Those that the language has too are written as terms; any other is an Untraceable.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from bettyc.expr import Graph
from bettyc.ops.term import Term
from bettyc.runtime.modules import Network
from bettyc.types import number
from bettyc.types import product as product_of


class Untraceable(Exception):
    """Why a network stays one opaque call."""


Step = Callable[..., Any]


class Reader:
    """Writes the steps of one network as operators of a graph."""

    def __init__(self, graph: Graph, network: Network, parameters: Mapping[str, int]) -> None:
        self.graph = graph
        self.module = network.module
        self._terms = {
            id(p): Term(graph, parameters[name])
            for name, (_, p) in zip(network.names, self.module.named_parameters(), strict=True)
        }

    def parameter(self, tensor: Tensor) -> Term:
        return self._terms[id(tensor)]

    def write(self, steps: fx.Graph, inputs: Sequence[int]) -> int:
        """The output's node. Raises Untraceable and ShapeError."""
        values: dict[fx.Node, Any] = {}
        given = iter(inputs)
        for step in steps.nodes:
            if step.op == "placeholder":
                index = next(given, None)
                if index is None:
                    raise Untraceable("its `forward` takes more inputs")
                values[step] = Term(self.graph, index)
            elif step.op == "get_attr":
                values[step] = self._attribute(str(step.target))
            elif step.op == "output":
                found = fx.node.map_arg(step.args[0], values.__getitem__)
                if not isinstance(found, Term):
                    raise Untraceable("it returns something else than one tensor")
                return found.index
            else:
                args = fx.node.map_arg(step.args, values.__getitem__)
                named = fx.node.map_arg(step.kwargs, values.__getitem__)
                values[step] = self._step(step, args, named)
        raise Untraceable("it returns nothing")

    def _attribute(self, path: str) -> Term:
        found: Any = self.module
        for part in path.split("."):
            found = getattr(found, part)
        if not isinstance(found, nn.Parameter):
            raise Untraceable(f"`{path}` is no parameter")
        return self.parameter(found)

    def _step(self, step: fx.Node, args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        write, first = self._writer(step)
        if write is None or not any(isinstance(a, Term | tuple) for a in args):
            raise Untraceable(f"{step.target} is no operator of the language")
        try:
            return write(*first, *args, **named)
        except TypeError as error:
            raise Untraceable(f"{step.target} with these arguments: {error}") from error

    def _writer(self, step: fx.Node) -> tuple[Step | None, tuple[Any, ...]]:
        """What writes a step, and its first arguments."""
        if step.op == "call_method":
            return METHODS.get(str(step.target)), ()
        if step.op == "call_function":
            return FUNCTIONS.get(step.target), ()
        layer = self.module.get_submodule(str(step.target))
        if getattr(layer, "inplace", False) and len(step.all_input_nodes[0].users) > 1:
            raise Untraceable("a layer overwrites what is used again")
        return LAYERS.get(type(layer)), (self, layer)


# Steps over terms. What they do not name they refuse: a TypeError is an Untraceable.


def _unary(op: str, x: Term, /) -> Term:
    return x.call(op)


def _binary(op: str, x: Any, y: Any, /) -> Term:
    if not isinstance(x, Term):
        return y.constant(x).call(op, y)  # type: ignore[no-any-return]
    if not isinstance(y, Term | int | float):
        raise TypeError(f"an operand {y!r}")
    return x.call(op, y)


def _affine(x: Term, weight: Term, bias: Term | None = None) -> Term:
    found = x @ weight.mT()
    return found if bias is None else found + bias


def _linear(reader: Reader, layer: nn.Linear, x: Term) -> Term:
    bias = None if layer.bias is None else reader.parameter(layer.bias)
    return _affine(x, reader.parameter(layer.weight), bias)


def _layer(op: str, reader: Reader, layer: nn.Module, x: Term) -> Term:
    return x.call(op)


def _gelu(x: Term, approximate: str = "none") -> Term:
    if approximate != "none":
        raise TypeError("the approximate gelu")
    return x.call("gelu")


def _softplus(x: Term, beta: float = 1.0, threshold: float = 20.0) -> Term:
    if beta != 1:
        raise TypeError("a softplus with a beta")
    return x.call("softplus")


def _relu(x: Term, inplace: bool = False) -> Term:
    return _unary(_kept("relu", inplace), x)


def _silu(x: Term, inplace: bool = False) -> Term:
    return _unary(_kept("silu", inplace), x)


def _elu(x: Term, alpha: float = 1.0, inplace: bool = False) -> Term:
    return x.call(_kept("elu", inplace), alpha=float(alpha))


def _leaky_relu(x: Term, negative_slope: float = 0.01, inplace: bool = False) -> Term:
    return x.call(_kept("leaky_relu", inplace), slope=float(negative_slope))


def _kept(op: str, inplace: bool) -> str:
    if inplace:
        raise TypeError("it overwrites its input")
    return op


def _softmax(op: str, x: Term, dim: int | None = None) -> Term:
    if dim is None:
        raise TypeError("no dim")
    return x.call(op, axis=dim % len(x.shape))


def _dropout(reader: Reader, layer: nn.Dropout, x: Term) -> Term:
    if layer.p:
        raise Untraceable("dropout draws random masks")
    return x


def _sizes(x: Term) -> tuple[int, ...]:
    values = [d.value for d in x.shape]
    if None in values:
        raise TypeError("a shape that is not known")
    return tuple(v for v in values if v is not None)


def _size(x: Term, dim: int | None = None) -> Any:
    return _sizes(x) if dim is None else _sizes(x)[dim]


def _get(x: Any, name: str) -> Any:
    if isinstance(x, Term) and name == "shape":
        return _sizes(x)
    raise TypeError(f"its attribute {name}")


def _item(x: Any, key: Any) -> Any:
    if isinstance(x, tuple):
        return x[key]
    raise TypeError("an index")


def _reshape(x: Term, *shape: Any) -> Term:
    wanted = list(shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape)
    if not all(isinstance(s, int) for s in wanted):
        raise TypeError("a shape that is not known")
    if -1 in wanted:
        rest, have = 1, 1
        for s in wanted:
            rest *= s if s != -1 else 1
        for s in _sizes(x):
            have *= s
        wanted[wanted.index(-1)] = have // rest
    return x.reshape_to(tuple(map(number, wanted)))


def _flatten(x: Term, start_dim: int = 0, end_dim: int = -1) -> Term:
    rank = len(x.shape)
    first, last = start_dim % rank, end_dim % rank
    return x.reshape_to(
        (*x.shape[:first], product_of(x.shape[first : last + 1]), *x.shape[last + 1 :])
    )


def _transpose(x: Term, dim0: int, dim1: int) -> Term:
    axes = list(range(len(x.shape)))
    axes[dim0], axes[dim1] = axes[dim1], axes[dim0]
    return x.call("permute", axes=tuple(axes))


def _t(x: Term) -> Term:
    return x.mT() if len(x.shape) == 2 else x


def _unsqueeze(x: Term, dim: int) -> Term:
    return x.new_axis(dim)


LAYERS: dict[type[nn.Module], Step] = {
    nn.Linear: _linear,
    nn.Identity: lambda reader, layer, x: x,
    nn.Dropout: _dropout,
    nn.Flatten: lambda reader, layer, x: _flatten(x, layer.start_dim, layer.end_dim),
    nn.ReLU: partial(_layer, "relu"),
    nn.Tanh: partial(_layer, "tanh"),
    nn.Sigmoid: partial(_layer, "sigmoid"),
    nn.SiLU: partial(_layer, "silu"),
    nn.GELU: lambda reader, layer, x: _gelu(x, layer.approximate),
    nn.ELU: lambda reader, layer, x: _elu(x, layer.alpha),
    nn.LeakyReLU: lambda reader, layer, x: _leaky_relu(x, layer.negative_slope),
    nn.Softplus: lambda reader, layer, x: _softplus(x, layer.beta),
    nn.Softmax: lambda reader, layer, x: _softmax("softmax", x, layer.dim),
    nn.LogSoftmax: lambda reader, layer, x: _softmax("log_softmax", x, layer.dim),
}

_UNARY = ("tanh", "sigmoid", "exp", "log", "log1p", "expm1", "sqrt", "abs", "square", "sin", "cos")
_UNARY += ("erf", "neg", "detach")
_BINARY = {"add": "add", "sub": "sub", "mul": "mul", "div": "div", "matmul": "matmul"}
_BINARY |= {"maximum": "maximum", "minimum": "minimum"}
_SHARED: dict[str, Step] = {
    **{name: partial(_unary, name) for name in _UNARY},
    **{name: partial(_binary, op) for name, op in _BINARY.items()},
    "relu": _relu, "reshape": _reshape, "flatten": _flatten, "transpose": _transpose, "t": _t,
    "unsqueeze": _unsqueeze, "softmax": partial(_softmax, "softmax"),
    "log_softmax": partial(_softmax, "log_softmax"),
}  # fmt: skip
METHODS: dict[str, Step] = {**_SHARED, "view": _reshape, "size": _size}
FUNCTIONS: dict[Any, Step] = {
    **{getattr(torch, name): step for name, step in _SHARED.items()},
    operator.add: partial(_binary, "add"),
    operator.sub: partial(_binary, "sub"),
    operator.mul: partial(_binary, "mul"),
    operator.truediv: partial(_binary, "div"),
    operator.matmul: partial(_binary, "matmul"),
    operator.neg: partial(_unary, "neg"),
    operator.getitem: _item,
    getattr: _get,
    F.linear: _affine, F.relu: _relu, F.silu: _silu, F.gelu: _gelu, F.softplus: _softplus,
    F.elu: _elu, F.leaky_relu: _leaky_relu, F.softmax: partial(_softmax, "softmax"),
    F.log_softmax: partial(_softmax, "log_softmax"),
    F.tanh: partial(_unary, "tanh"), F.sigmoid: partial(_unary, "sigmoid"),
}  # fmt: skip
