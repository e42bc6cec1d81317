"""Networks: built-in ones become variables and operators; those from Python stay one opaque node.

A built-in network's parameters have torch's names and layouts (`net.0.weight` of shape (out, in)),
so that its state can be loaded into the torch module of the same architecture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from bettyc.diagnostics.model import Edit, Suggestion
from bettyc.diagnostics.span import Span
from bettyc.diagnostics.suggest import closest
from bettyc.elaborate import arguments, constants, externs, formula, operators, torch_networks
from bettyc.elaborate.constants import NotConstant
from bettyc.elaborate.context import Context
from bettyc.elaborate.scope import LevelDecl, Scope
from bettyc.elaborate.torch_networks import TORCH
from bettyc.elaborate.values import BAD, Meaning, Net, Tens, unify
from bettyc.grammar import ast
from bettyc.model import Call, Network, Value, Variable
from bettyc.ops import ShapeError
from bettyc.types import (
    POISON,
    REAL,
    Dim,
    Module,
    Poison,
    Tensor,
    Type,
    bind,
    number,
    product,
    symbol,
)
from bettyc.types import add as add_dims

ACTIVATIONS = ("relu", "tanh", "sigmoid", "gelu", "silu", "softplus", "elu", "identity")


def leaf(ctx: Context, net: Net, name: str | None = None) -> int:
    """The parameters of a network from Python as one value, or one parameter of a built-in
    network.
    """
    network = ctx.networks[net.level, net.name]
    if name is None:
        index = ctx.graph.leaf("module", network.type, level=net.level, name=net.name)
    else:
        known = ctx.variables[net.level, name]
        index = ctx.graph.leaf("var", known.type, level=net.level, name=name)
    if net.ema is not None:
        index = ctx.graph.make("ema", (index,), ctx.graph[index].type, decay=net.ema)
    if net.detached:
        index = ctx.graph.make("detach", (index,), ctx.graph[index].type)
    return index


def apply(
    ctx: Context, net: Net, inputs: list[int], nodes: list[ast.Expr], node: ast.Call, scope: Scope
) -> Meaning:
    network = ctx.networks[net.level, net.name]
    declared = network.type
    if len(inputs) != len(declared.inputs):
        count = len(declared.inputs)
        ctx.report(
            "MLO0209",
            node.span,
            scope,
            name=net.name,
            given=len(inputs),
            expected=f"{count} input{'s' if count != 1 else ''}",
            notes=[f"it maps `{declared}`"],
        )
        return BAD
    signature = ctx.signatures.get((net.level, net.name))
    if signature is None:
        try:
            return Tens(BUILTIN[network.arguments.name].forward(ctx, net, network, inputs[0]))
        except ShapeError as error:
            operators.misfit(ctx, error, net.name, inputs, nodes, node.span, scope)
            return BAD
    bound: dict[str, Dim] = {}
    for k, (index, type_) in enumerate(zip(inputs, signature.inputs, strict=True)):
        given = ctx.graph[index].type
        if not unify(type_, given, bound, signature.generic):
            ctx.report(
                "MLO0404",
                nodes[k].span,
                scope,
                expected=f"`{bind(type_, bound)}`",
                found=f"`{given}`",
                label=f"input of `{net.name}`",
            )
            return BAD
    least = torch_networks.too_small(network, bound)
    if least:
        found = f"`{ctx.graph[inputs[0]].type}`"
        ctx.report("MLO0404", nodes[0].span, scope, expected=least, found=found)
        return BAD
    output = bind(signature.output, bound)
    if isinstance(output, Poison):
        return BAD
    return Tens(ctx.graph.make("apply", (leaf(ctx, net), *inputs), output))


def parameters(ctx: Context, net: Net, leave_out: str | None) -> Meaning:
    """`params(net)`: all parameters as one vector. Of a network from Python, its length has a
    name.
    """
    network = ctx.networks[net.level, net.name]
    if network.extern is not None:
        without = f", except={leave_out}" if leave_out else ""
        name = f"params({network.extern}{_shown(network.arguments)}{without})"
        type_ = Tensor("real", (symbol(name),))
        return Tens(ctx.graph.make("params", (leaf(ctx, net),), type_, **{"except": leave_out}))
    from fnmatch import fnmatchcase

    kept = [
        n
        for n in network.variables
        if leave_out is None or not fnmatchcase(n.partition(".")[2], leave_out)
    ]
    size = number(0)
    for n in kept:
        size = add_dims(size, product(ctx.variables[net.level, n].type.shape))
    leaves = [leaf(ctx, net, n) for n in kept]
    return Tens(ctx.graph.make("params", leaves, Tensor("real", (size,))))


def _shown(call: Call) -> str:
    from bettyc.settings import show

    shown = [show(v) for v in call.positional] + [f"{k}={show(v)}" for k, v in call.named]
    return f"({', '.join(shown)})"


def declare(ctx: Context, level: LevelDecl, node: ast.Module, scope: Scope) -> None:
    """A `module` statement: fills `ctx.networks`, and `ctx.variables` of a built-in one."""
    call = node.value
    if isinstance(call, ast.Name):
        call = ast.Call(function=call, args=(), span=call.span)
    if not isinstance(call, ast.Call) or not isinstance(call.function, ast.Name):
        ctx.report(
            "MLO0404",
            node.value.span,
            scope,
            expected="a network",
            found="another expression",
            label="write `mlp([...])` or call an `extern module`",
        )
        return
    name = call.function.id
    declared = scope.unit.names.get(name)
    try:
        if isinstance(declared, ast.ExternModule):
            scope.unit.used.add(name)
            _extern(ctx, level, node, call, declared, scope)
        elif name in BUILTIN:
            _builtin(ctx, level, node, call, scope)
        elif name in TORCH:
            torch_networks.declare(ctx, level, node, call, scope)
        else:
            known = [
                *BUILTIN,
                *TORCH,
                *(n for n, d in scope.unit.names.items() if isinstance(d, ast.ExternModule)),
            ]
            ctx.report(
                "MLO0208",
                call.function.span,
                scope,
                name=name,
                label="no such network",
                suggestions=[
                    Suggestion(
                        f"did you mean `{n}`?", (Edit(call.function.span, n),), "maybe-incorrect"
                    )
                    for n in closest(name, known)
                ],
                notes=[f"built in: {', '.join((*BUILTIN, *TORCH))}"],
            )
    except NotConstant:
        return


def _extern(
    ctx: Context,
    level: LevelDecl,
    node: ast.Module,
    call: ast.Call,
    declared: ast.ExternModule,
    scope: Scope,
) -> None:
    names = [f.name.text for f in declared.formals]
    signature = f"{declared.name.text}({', '.join(names)})"
    given = arguments.arguments(ctx, declared.name.text, names, set(names), call, scope, signature)
    if given is None:
        raise NotConstant
    values: dict[str, Value] = {}
    dims: dict[str, Dim] = {}
    for key, arg in given.items():
        if isinstance(arg.value, ast.Binary | ast.Name) and isinstance(
            _probe(scope, arg.value), ast.DimDecl | ast.Binary
        ):
            found = constants.dim(ctx, arg.value, scope)
            dims[key] = found
            values[key] = found.value if found.value is not None else str(found)
        else:
            values[key] = constants.value(ctx, arg.value, scope)
            if isinstance(values[key], int):
                dims[key] = number(values[key])  # type: ignore[arg-type]
    types = externs.signature_of(ctx, declared, scope.unit, dims)
    if any(isinstance(t, Poison) for t in (*types.inputs, types.output)):
        raise NotConstant
    key2 = (level.name, node.name.text)
    ctx.signatures[key2] = types
    ctx.networks[key2] = Network(
        node.name.text,
        Module(types.inputs, types.output),
        declared.name.text,
        Call(declared.name.text, (), tuple(sorted(values.items()))),
        (),
        node.name.span,
    )


def _probe(scope: Scope, node: ast.Expr) -> Any:
    return scope.unit.names.get(node.id) if isinstance(node, ast.Name) else node


class Builtin:
    """A network of the language. `declare` lists parameters; `forward` builds the formula."""

    def __init__(
        self,
        parameters: tuple[str, ...],
        required: int,
        declare: Callable[..., Network],
        forward: Callable[[Context, Net, Network, int], int],
        doc: str,
    ) -> None:
        self.parameters, self.required = parameters, required
        self.declare, self.forward, self.doc = declare, forward, doc


def _builtin(
    ctx: Context, level: LevelDecl, node: ast.Module, call: ast.Call, scope: Scope
) -> None:
    name = call.function.id  # type: ignore[union-attr]
    row = BUILTIN[name]
    given = arguments.arguments(
        ctx,
        name,
        list(row.parameters),
        set(row.parameters[: row.required]),
        call,
        scope,
        f"{name}({', '.join(row.parameters)})",
    )
    if given is None:
        raise NotConstant
    network = row.declare(ctx, level, node, {k: a.value for k, a in given.items()}, scope)
    ctx.networks[level.name, node.name.text] = network


def _activation(ctx: Context, node: ast.Expr | None, scope: Scope, default: str) -> str:
    if node is None:
        return default
    if isinstance(node, ast.Name) and node.id in ACTIVATIONS:
        return node.id
    text = node.id if isinstance(node, ast.Name) else "this"
    ctx.report(
        "MLO0602",
        node.span,
        scope,
        kind="activation",
        name=text,
        label="not an activation",
        suggestions=[
            Suggestion(f"did you mean `{n}`?", (Edit(node.span, n),), "maybe-incorrect")
            for n in closest(text, ACTIVATIONS)
        ],
        notes=["known: " + ", ".join(ACTIVATIONS)],
    )
    raise NotConstant


def _flag(ctx: Context, node: ast.Expr | None, scope: Scope, default: bool) -> bool:
    if node is None:
        return default
    found = constants.value(ctx, node, scope)
    if not isinstance(found, bool):
        ctx.report("MLO0404", node.span, scope, expected="`true` or `false`", found="another value")
        raise NotConstant
    return found


def _layers(
    ctx: Context, level: LevelDecl, node: ast.Module, sizes: list[Dim], every: int, bias: bool
) -> list[str]:
    """Linear layers as torch.nn.Linear has them: weight (out, in), entries uniform in
    +-1/sqrt(in).
    """
    names = []
    for k in range(len(sizes) - 1):
        fan_in = sizes[k].value
        limit = 1 / math.sqrt(fan_in) if fan_in else 1.0
        initial = Call("uniform", (-limit, limit)) if fan_in else Call("xavier")
        shapes = {"weight": (sizes[k + 1], sizes[k])}
        if bias:
            shapes["bias"] = (sizes[k + 1],)  # type: ignore[assignment]
        for part, shape in shapes.items():
            name = f"{node.name.text}.{every * k}.{part}" if every else f"{node.name.text}.{part}"
            ctx.own(
                level.name,
                Variable(name, Tensor("real", tuple(shape)), initial, None, node.name.span),
            )
            names.append(name)
    return names


def _mlp(
    ctx: Context, level: LevelDecl, node: ast.Module, given: Mapping[str, ast.Expr], scope: Scope
) -> Network:
    sizes = given["sizes"]
    if not isinstance(sizes, ast.List) or len(sizes.items) < 2:
        ctx.report(
            "MLO0404",
            sizes.span,
            scope,
            expected="a list of at least two sizes",
            found="another value",
        )
        raise NotConstant
    dims = [constants.dim(ctx, item, scope) for item in sizes.items]
    act = _activation(ctx, given.get("act"), scope, "relu")
    out = _activation(ctx, given.get("out"), scope, "identity")
    bias = _flag(ctx, given.get("bias"), scope, True)
    names = _layers(ctx, level, node, dims, 2, bias)
    call = Call(
        "mlp",
        (tuple(d.value if d.value is not None else str(d) for d in dims),),
        (("act", act), ("bias", bias), ("out", out)),
    )
    return Network(node.name.text, _rows(dims), None, call, tuple(names), node.name.span)


def _linear(
    ctx: Context, level: LevelDecl, node: ast.Module, given: Mapping[str, ast.Expr], scope: Scope
) -> Network:
    dims = [constants.dim(ctx, given["inputs"], scope), constants.dim(ctx, given["outputs"], scope)]
    bias = _flag(ctx, given.get("bias"), scope, True)
    names = _layers(ctx, level, node, dims, 0, bias)
    call = Call(
        "linear", tuple(d.value if d.value is not None else str(d) for d in dims), (("bias", bias),)
    )
    return Network(node.name.text, _rows(dims), None, call, tuple(names), node.name.span)


def _rows(dims: list[Dim]) -> Module:
    b = symbol("B")
    return Module((Tensor("real", (b, dims[0])),), Tensor("real", (b, dims[-1])))


def _affine(ctx: Context, net: Net, prefix: str, x: int, bias: bool) -> int:
    """x @ weight^T + bias."""
    weight = leaf(ctx, net, f"{prefix}.weight")
    z = ctx.graph.add("matmul", x, operators.build(ctx.graph, "transpose", [weight], {}))
    return ctx.graph.add("add", z, leaf(ctx, net, f"{prefix}.bias")) if bias else z


def _mlp_forward(ctx: Context, net: Net, network: Network, x: int) -> int:
    options = dict(network.arguments.named)
    layers = sum(1 for n in network.variables if n.endswith(".weight"))
    for k in range(layers):
        x = _affine(ctx, net, f"{net.name}.{2 * k}", x, bool(options["bias"]))
        act = options["act"] if k + 1 < layers else options["out"]
        if act != "identity":
            x = ctx.graph.add(str(act), x)
    return x


def _linear_forward(ctx: Context, net: Net, network: Network, x: int) -> int:
    return _affine(ctx, net, net.name, x, bool(dict(network.arguments.named)["bias"]))


BUILTIN: dict[str, Builtin] = {
    "mlp": Builtin(
        ("sizes", "act", "out", "bias"),
        1,
        _mlp,
        _mlp_forward,
        "Linear layers with an activation between them: `mlp([d, 64, C], act = relu)`.",
    ),
    "linear": Builtin(
        ("inputs", "outputs", "bias"),
        2,
        _linear,
        _linear_forward,
        "One affine map: `linear(d, C)`.",
    ),
}

__all__ = [
    "ACTIVATIONS",
    "BUILTIN",
    "POISON",
    "REAL",
    "Span",
    "Type",
    "apply",
    "declare",
    "formula",
    "leaf",
    "parameters",
]
