"""Networks from Python that are formulas: the compiler sees through them as through `mlp`.

torch.fx follows a network's `forward` once. Where every step is an operator of the language, the
network's place in an objective is taken by those operators over its parameters. It stays one opaque
call where a step is something else (convolutions, batch norm, dropout, a branch that looks at
data), where it has buffers or hooks, where `forward` changes the module or draws random numbers,
and where the operators do not reproduce what the module returns on random inputs.
"""

from __future__ import annotations

import inspect
import operator
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from bettyc import emit
from bettyc.expr import Graph, Node
from bettyc.ops import ShapeError
from bettyc.ops.term import Term
from bettyc.runtime.layout import concrete
from bettyc.runtime.modules import Network
from bettyc.types import Dim, bind, number
from bettyc.types import Tensor as TensorType
from bettyc.types import product as product_of

ROWS = 3  # of the random inputs that a network is compared on
CLOSE = {torch.float32: 1e-4, torch.float64: 1e-10}  # of the largest entry
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Untraceable(Exception):
    """Why a network stays one opaque call."""


Step = Callable[..., Any]


def follow(network: Network) -> fx.Graph:
    """The steps of the network's `forward` in training. Raises Untraceable."""
    module = network.module
    if network.buffers or network.forgetful or network.compiled:
        raise Untraceable("it has buffers, is compiled, or does not keep its activations")
    for part in module.modules():
        if any(getattr(part, name, None) for name in HOOKS) or "forward" in vars(part):
            raise Untraceable("it has hooks")
    kinds = {p.kind for p in inspect.signature(module.forward).parameters.values()}
    if kinds - {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY}:
        raise Untraceable("its `forward` has parameters of other kinds than positional")
    with _unchanged(module), _same_random_numbers():
        try:
            found, again = (fx.Tracer().trace(module) for _ in range(2))
        except Exception as error:
            # whatever a forward that is not made for it does with symbols in place of tensors
            raise Untraceable(f"{type(error).__name__}: {error}") from error
    if str(found) != str(again):
        raise Untraceable("its `forward` is not the same twice")
    return found


def attributes(module: nn.Module) -> list[dict[str, Any]]:
    """The plain values that its parts hold, as its `forward` may read them."""
    plain = (bool, int, float, str, type(None), list, dict, tuple, set)
    return [
        {
            k: v.copy() if isinstance(v, list | dict | set) else v
            for k, v in vars(part).items()
            if isinstance(v, plain) and not k.startswith("_") and k != "training"
        }
        for part in module.modules()
    ]


@contextmanager
def _unchanged(module: nn.Module) -> Iterator[None]:
    """In training mode. What the module holds is put back; Untraceable where that was needed."""
    before = [(part, dict(vars(part)), part.training) for part in module.modules()]
    held = [(v, _entries(v)) for _, values, _ in before for v in values.values()]
    module.train(True)
    try:
        yield
    finally:
        changed = False
        for part, values, mode in before:
            part.training = mode
            now = vars(part)
            if list(now) != list(values) or any(now[k] is not v for k, v in values.items()):
                changed = True
                now.clear()
                now.update(values)
                part.training = mode
        for container, entries in held:
            if not _same(_entries(container), entries):
                changed = True
                container.clear()
                (container.update if isinstance(container, dict) else container.extend)(entries)
    if changed:
        raise Untraceable("its `forward` changes the module")


def _entries(value: Any) -> Any:
    """What a list or a dictionary holds."""
    return value.copy() if isinstance(value, list | dict) else ()


def _same(left: Any, right: Any) -> bool:
    """The same objects in the same places."""
    if len(left) != len(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and _same(list(left.values()), list(right.values()))
    return all(a is b for a, b in zip(left, right, strict=True))


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Raises Untraceable at the end where random numbers were drawn."""

    def state() -> tuple[Any, ...]:
        numpy = sys.modules.get("numpy")
        theirs = numpy and numpy.random.get_state(legacy=False)["state"]
        return random.getstate(), torch.get_rng_state().tolist(), repr(theirs)

    before = state()
    yield
    if state() != before:
        raise Untraceable("its `forward` draws random numbers")


class _Reader:
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


def _linear(reader: _Reader, layer: nn.Linear, x: Term) -> Term:
    bias = None if layer.bias is None else reader.parameter(layer.bias)
    return _affine(x, reader.parameter(layer.weight), bias)


def _layer(op: str, reader: _Reader, layer: nn.Module, x: Term) -> Term:
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


def _dropout(reader: _Reader, layer: nn.Dropout, x: Term) -> Term:
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


_followed: WeakKeyDictionary[Network, fx.Graph | None] = WeakKeyDictionary()


def steps(network: Network, sizes: Mapping[str, Dim]) -> fx.Graph | None:
    """The network's steps, None where it stays opaque; followed and compared once."""
    if network not in _followed:
        try:
            _followed[network] = _compared(network, follow(network), sizes)
        except (Untraceable, ShapeError):
            _followed[network] = None
    return _followed[network]


def _compared(network: Network, found: fx.Graph, sizes: Mapping[str, Dim]) -> fx.Graph:
    """The steps, after the operators gave what the module gives. Raises Untraceable."""
    graph, values = Graph(), {}
    types = [bind(t, sizes) for t in network.inputs]
    generator = torch.Generator().manual_seed(0)
    parameters, inputs = {}, []
    for name, p in zip(network.names, network.module.parameters(), strict=True):
        type_ = TensorType("real", tuple(map(number, p.shape)))
        parameters[name] = graph.leaf("var", type_, level="", name=f"p{len(parameters)}")
        values[f"p{len(values)}"] = p.detach()
    example = next(network.module.parameters(), torch.zeros(0))
    for k, type_ in enumerate(types):
        if not isinstance(type_, TensorType) or type_.kind != "real":
            raise Untraceable("its inputs are not all real tensors")
        bound = bind(type_, {n: number(ROWS) for d in type_.shape for n in d.names})
        shape = concrete(bound.shape)  # type: ignore[union-attr]
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        values[f"x{k}"] = x.to(example.device, example.dtype)
        inputs.append(graph.leaf("var", bound, level="", name=f"x{k}"))
    output = _Reader(graph, network, parameters).write(found, inputs)
    text = emit.function(graph, [output], name="f", leaf=lambda _, n: n.attr("name"), sizes={})
    namespace: dict[str, Any] = {"torch": torch}
    exec(compile(text, f"<bettyc {network.key}>", "exec"), namespace)  # our own text
    names = [a.strip() for a in text.partition("(")[2].partition(")")[0].split(",") if a.strip()]
    with torch.no_grad(), _unchanged(network.module):
        ours = namespace["f"](*(values[a] for a in names))
        try:
            theirs = network.module(*(values[f"x{k}"] for k in range(len(types))))
        except Exception as error:
            raise Untraceable(f"{type(error).__name__}: {error}") from error
    if not isinstance(theirs, Tensor) or ours.shape != theirs.shape or not len(names):
        raise Untraceable("its output has another shape")
    difference = float((ours - theirs).abs().max()) if ours.numel() else 0.0
    if not difference <= CLOSE[ours.dtype] * (1 + float(theirs.abs().max())):
        raise Untraceable("its operators give something else than it returns")
    return found


def seen_through(
    graph: Graph, root: int, networks: Mapping[str, Network], sizes: Mapping[str, int]
) -> tuple[int, list[Network]]:
    """The root with operators in the place of every network that has them, in sizes that are
    numbers, and those networks.
    """
    known = {name: number(size) for name, size in sizes.items()}
    found: dict[str, Network] = {}
    for index in graph.reachable([root]):
        node = graph[index]
        if node.op == "module":
            network = networks.get(_key(node))
            if network is not None and steps(network, known) is not None:
                found[network.key] = network
    if not found:
        return root, []
    rewriting = _Rewriting(graph, found, known)
    try:
        return rewriting.at(root), list(found.values())
    except (ShapeError, Untraceable):
        return root, []


def _key(node: Node) -> str:
    return f"{node.attr('level')}.{node.attr('name')}"


class _Rewriting:
    def __init__(
        self, graph: Graph, networks: Mapping[str, Network], sizes: Mapping[str, Dim]
    ) -> None:
        self.graph, self.networks, self.sizes = graph, networks, sizes

    def at(self, root: int) -> int:
        graph, new = self.graph, {}
        for index in graph.reachable([root]):
            node = graph[index]
            args = [new[a] for a in node.args]
            parameters = self._parameters(node.args[0]) if node.op in ("apply", "params") else None
            type_ = bind(node.type, self.sizes)
            if parameters is None:
                new[index] = graph.rebuild(index, args, type_)
            elif node.op == "apply":
                network = self.networks[_key(graph[self._leaf(node.args[0])])]
                found = steps(network, self.sizes)
                assert found is not None
                new[index] = _Reader(graph, network, parameters).write(found, args[1:])
                if graph[new[index]].type != type_:
                    raise Untraceable(f"it returns {graph[new[index]].type}, not {type_}")
            else:
                pattern = node.attr("except")
                kept = [
                    p for n, p in parameters.items() if not (pattern and fnmatchcase(n, pattern))
                ]
                new[index] = graph.make("params", kept, type_)
        return new[root]

    def _leaf(self, index: int) -> int:
        while self.graph[index].op == "detach":
            index = self.graph[index].args[0]
        return index

    def _parameters(self, index: int) -> dict[str, int] | None:
        """A variable for every parameter; None where they are not those of a network seen
        through, or averages of them.
        """
        leaf = self.graph[self._leaf(index)]
        network = self.networks.get(_key(leaf)) if leaf.op == "module" else None
        if network is None:
            return None
        found = {}
        for name, shape in zip(network.names, network.shapes, strict=True):
            type_ = TensorType("real", tuple(map(number, shape)))
            level = leaf.attr("level")
            at = self.graph.leaf("var", type_, level=level, name=f"{leaf.attr('name')}.{name}")
            if index != self._leaf(index):
                at = self.graph.make("detach", (at,), type_)
            found[name] = at
        return found
