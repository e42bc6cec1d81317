"""The Python objects that a program names, imported and tried on made-up tensors (`--import`).

Each is called once without data, on fake tensors that have a shape and a type only, and then on
small random ones: does it return what its declaration says, does a gradient get through where one
is needed, is it the same twice? torch is imported here; a check without `--import` does not come
here. A source is imported and its parameters compared, but it is not called: it would load data.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from bettyc.diagnostics.model import Diagnostic
from bettyc.diagnostics.registry import report
from bettyc.driver import Checked
from bettyc.expr import Graph, Node
from bettyc.failures import InputError
from bettyc.gradients import carried
from bettyc.hierarchy import Hierarchy
from bettyc.model import Extern, Model, Network
from bettyc.planner.decide import decide
from bettyc.planner.facts import gather, span_of
from bettyc.runtime import externs
from bettyc.strategies import STRATEGIES
from bettyc.types import Dim, Module, Tensor, Type, bind, number, tensors

# Sizes for dims that nothing binds, all different so that two dims are not mistaken for each other.
SIZES = (5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
# Strategies that replay updates differentiate the gradient too.
SECOND_ORDER = ("hvp", "trajectory")


@dataclass(frozen=True)
class Use:
    """One way in which a program calls an extern.

    inputs: types with numbers for dims, None for a network handed over. differentiated: positions
    that a gradient must reach; -1 are the parameters of a network. owners: levels whose objective
    the call is part of.
    """

    extern: Extern
    network: str | None
    inputs: tuple[Tensor | None, ...]
    output: Type
    differentiated: frozenset[int]
    owners: frozenset[str]


def check(checked: Checked) -> list[Diagnostic]:
    """MLO0701 to MLO0710 of a program that is otherwise right."""
    model, hierarchy, graph = checked.model, checked.hierarchy, checked.graph
    if model is None or hierarchy is None:
        return []
    found: list[Diagnostic] = []
    objects: dict[str, Any] = {}
    for extern in model.externs:
        try:
            loaded = externs.load(extern, checked.folder, {}, checked.options.include)
            _kind(extern, loaded)
            objects[extern.name] = loaded
        except InputError as error:
            found += error.diagnostics
    built, wrong = _build(model, objects)
    found += wrong
    failed = {d.span for d in found}
    needs = _second_order(model, graph, hierarchy)
    for use in _uses(model, graph, checked.sizes):
        ready = use.network in built if use.network is not None else use.extern.name in objects
        if ready and use.extern.span not in failed:
            function = _callable(use, built, objects)
            found += _try(use, function, needs)
    found += _stateful(model, hierarchy, built, _uses(model, graph, checked.sizes))
    return list({(d.code, d.span, d.message): d for d in found}.values())


def _kind(extern: Extern, found: Any) -> None:
    """MLO0703 and MLO0704 of what can be told without calling it. Raises InputError."""
    if extern.kind == "fn":
        externs.function(extern, found)
    if callable(found) and not (extern.kind == "module" and isinstance(found, nn.Module)):
        _parameters(extern, found)


def _parameters(extern: Extern, found: Callable[..., Any]) -> None:
    """The declared parameters against the signature in Python. Functions are called by position."""
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):
        return
    kinds = inspect.Parameter
    theirs = list(signature.parameters.values())
    open_ended = {p.kind for p in theirs} & {kinds.VAR_KEYWORD, kinds.VAR_POSITIONAL}
    known = {p.name for p in theirs}
    positional = [
        p for p in theirs if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
    ]
    strange = [n for n in extern.parameters if n not in known]
    if extern.kind == "fn":
        strange = list(extern.parameters[len(positional) :])
    if strange and not open_ended:
        raise InputError(_signature(extern, strange[0], signature, "has no parameter"))
    given = set(extern.parameters)
    if extern.kind == "fn":
        given = {p.name for p in positional[: len(extern.parameters)]}
    required = [
        p.name
        for p in theirs
        if p.default is p.empty
        and p.kind not in (kinds.VAR_KEYWORD, kinds.VAR_POSITIONAL)
        and p.name not in given
    ]
    if required:
        raise InputError(_signature(extern, required[0], signature, "requires"))


def _signature(extern: Extern, name: str, signature: inspect.Signature, how: str) -> Diagnostic:
    called = extern.origin.partition(":")[2]
    notes = [f"its signature is {signature}"]
    if how == "requires":
        notes.insert(0, f"it requires `{name}`, which the declaration leaves out")
        return report("MLO0704", extern.span, name=extern.name, argument=name, notes=notes)
    return report("MLO0704", extern.span, name=called, argument=name, notes=notes)


def _build(
    model: Model, objects: Mapping[str, Any]
) -> tuple[dict[str, nn.Module], list[Diagnostic]]:
    """The networks from Python by "level.name", and what went wrong building them."""
    built: dict[str, nn.Module] = {}
    found: list[Diagnostic] = []
    for key, network, extern in _networks(model):
        if extern.name not in objects:
            continue
        try:
            with torch.random.fork_rng(devices=[]):
                built[key] = externs.network(extern, objects[extern.name], network.arguments)
        except InputError as error:
            found += error.diagnostics
    return built, found


def _networks(model: Model) -> Iterator[tuple[str, Network, Extern]]:
    known = {e.name: e for e in model.externs}
    for level in model.levels:
        for network in level.networks:
            if network.extern in known:
                yield f"{level.name}.{network.name}", network, known[str(network.extern)]


def _uses(model: Model, graph: Graph, sizes: Mapping[str, int]) -> list[Use]:
    """Every different call of a function or network from Python in objectives and metrics."""
    known = {e.name: e for e in model.externs}
    owners: dict[int, set[str]] = {}
    for level in model.levels:
        for index in graph.reachable([level.objective]):
            owners.setdefault(index, set()).add(level.name)
    for index in graph.reachable([m.node for m in model.metrics]):
        owners.setdefault(index, set())
    bound = _sizes(graph, owners, sizes)
    merged: dict[tuple[object, ...], Use] = {}
    for index in sorted(owners):
        node = graph[index]
        use = _use(model, graph, node, known, bound, frozenset(owners[index]))
        if use is None:
            continue
        key = (use.extern.name, use.network, use.inputs, str(use.output))
        old = merged.get(key)
        if old is not None:
            both = (use.differentiated | old.differentiated, use.owners | old.owners)
            use = Use(use.extern, use.network, use.inputs, use.output, *both)
        merged[key] = use
    return list(merged.values())


def _use(
    model: Model,
    graph: Graph,
    node: Node,
    known: Mapping[str, Extern],
    bound: Mapping[str, Dim],
    owners: frozenset[str],
) -> Use | None:
    if node.op not in ("extern_fn", "apply"):
        return None
    network = None
    operands = node.args
    reached = {k for k, a in enumerate(operands) if owners and carried(graph, a)}
    if node.op == "apply":
        leaf = graph[operands[0]]
        while leaf.args:
            leaf = graph[leaf.args[0]]
        network = f"{leaf.attr('level')}.{leaf.attr('name')}"
        declared = next((n for k, n, _ in _networks(model) if k == network), None)
        if declared is None:
            return None  # built in
        extern = known[str(declared.extern)]
        reached = {k - 1 for k in reached}
        operands = operands[1:]
    else:
        extern = known[node.attr("name")]
        reached -= set(node.attr("nondiff") or ())
    inputs: list[Tensor | None] = []
    for a in operands:
        type_ = bind(graph[a].type, bound)
        if isinstance(type_, Module):
            inputs.append(None)
        elif isinstance(type_, Tensor) and all(d.value is not None for d in type_.shape):
            inputs.append(type_)
        else:
            return None
    # a network handed to a function is called with parameters of its own, which are not tried here
    differentiated = frozenset(k for k in reached if k < 0 or inputs[k] is not None)
    return Use(extern, network, tuple(inputs), bind(node.type, bound), differentiated, owners)


def _sizes(graph: Graph, indices: Mapping[int, object], known: Mapping[str, int]) -> dict[str, Dim]:
    """A size for every dim that occurs: those known, then made-up ones."""
    names = sorted(
        {
            name
            for index in indices
            for _, t in tensors(graph[index].type)
            for dim in (*t.shape, *((t.labels,) if t.labels else ()))
            for name in dim.names
        }
    )
    free = [name for name in names if name not in known]
    made = {name: SIZES[k % len(SIZES)] for k, name in enumerate(free)}
    return {name: number(size) for name, size in {**made, **known}.items()}


def _callable(
    use: Use, built: Mapping[str, nn.Module], objects: Mapping[str, Any]
) -> Callable[..., Any]:
    if use.network is not None:
        return built[use.network]
    found: Callable[..., Any] = objects[use.extern.name]
    return found


def _try(use: Use, function: Callable[..., Any], needs: Mapping[str, str]) -> list[Diagnostic]:
    """Call an extern without data, then on random tensors."""
    if any(type_ is None for type_ in use.inputs):
        return []
    types = [t for t in use.inputs if t is not None]
    try:
        wrong = _shape(use, _without_data(function, types))
    except Exception as error:
        # whatever the user's code raises on made-up tensors
        return [_unchecked(use, error)]
    if wrong is not None:
        return [wrong]
    try:
        return _on_numbers(use, function, types, needs)
    except Exception as error:
        # as above
        return [_unchecked(use, error)]


def _without_data(function: Callable[..., Any], types: Sequence[Tensor]) -> Any:
    """What comes back for tensors that have a shape and a type, but no numbers."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        inputs = tuple(_example(t) for t in types)
        if not isinstance(function, nn.Module):
            return function(*inputs)
        state = {**dict(function.named_parameters()), **dict(function.named_buffers())}
        fake: dict[str, Any] = {name: mode.from_tensor(value) for name, value in state.items()}
        return functional_call(function, fake, inputs)


def _example(type_: Tensor) -> torch.Tensor:
    """A random tensor of a type whose dims are numbers."""
    shape = [d.value or 0 for d in type_.shape]
    if type_.kind == "real":
        return torch.randn(shape)
    if type_.kind == "bool":
        return torch.rand(shape) < 0.5
    classes = type_.labels.value if type_.labels is not None else None
    return torch.randint(0, classes or 2, shape)


def _unchecked(use: Use, error: Exception) -> Diagnostic:
    """MLO0707."""
    notes = [f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"]
    frames = [
        f for f in traceback.extract_tb(error.__traceback__)
        if "torch" not in f.filename and f.filename != __file__
    ]  # fmt: skip
    if frames:
        notes.append(f"raised at {frames[-1].filename}:{frames[-1].lineno}")
    notes.append("its declaration is trusted; the first real batch is checked")
    return report("MLO0707", use.extern.span, name=use.extern.name, notes=notes)


def _shape(use: Use, result: Any) -> Diagnostic | None:
    """MLO0705."""
    declared = use.output
    if not isinstance(declared, Tensor):
        return None
    if not isinstance(result, torch.Tensor):
        found = f"a {type(result).__name__}"
    else:
        kind = "real" if result.is_floating_point() else "bool"
        if kind == "bool" and result.dtype != torch.bool:
            kind = "int"
        shape = ", ".join(map(str, result.shape))
        found = f"`{kind}[{shape}]`" if shape else f"`{kind}`"
        if kind == declared.kind and list(result.shape) == [d.value for d in declared.shape]:
            return None
    given = ", ".join(str(t) for t in use.inputs)
    return report(
        "MLO0705",
        use.extern.span,
        name=use.extern.name,
        found=found.replace("`", ""),
        declared=declared,
        notes=[f"called on {given}"],
    )


def _on_numbers(
    use: Use, function: Callable[..., Any], types: Sequence[Tensor], needs: Mapping[str, str]
) -> list[Diagnostic]:
    """MLO0708, MLO0709 and MLO0710."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inputs = [_example(t) for t in types]
        leaves: dict[int, torch.Tensor] = {}
        for k in sorted(use.differentiated):
            if k >= 0 and inputs[k].is_floating_point():
                leaves[k] = inputs[k].requires_grad_()
        parameters = _trained(function) if -1 in use.differentiated else []
        result = _seeded(function, inputs)
        again = _seeded(function, inputs)
        if not torch.equal(result.detach(), again.detach()):
            return [report("MLO0710", use.extern.span, name=use.extern.name)]
        wanted = [*leaves.values(), *parameters]
        if not wanted or not result.is_floating_point():
            return []
        cut = _cut(use, result, leaves, parameters)
        if cut is not None:
            return [cut]
        second = [(level, needs[level]) for level in sorted(use.owners) if level in needs]
        return _twice(use, result, wanted, second)


def _trained(function: Callable[..., Any]) -> list[torch.Tensor]:
    assert isinstance(function, nn.Module)
    return [p for p in function.parameters() if p.requires_grad]


def _seeded(function: Callable[..., Any], inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """The result under a fixed seed."""
    torch.manual_seed(0)
    if not isinstance(function, nn.Module):
        result: torch.Tensor = function(*inputs)
        return result
    result, _ = _called(function, inputs)
    return result


def _called(
    module: nn.Module, inputs: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The result of a network, and its buffers afterwards; its own stay as they were."""
    buffers = {name: b.detach().clone() for name, b in module.named_buffers()}
    state = {**dict(module.named_parameters()), **buffers}
    result: torch.Tensor = functional_call(module, state, tuple(inputs))
    return result, buffers


def _cut(
    use: Use,
    result: torch.Tensor,
    leaves: Mapping[int, torch.Tensor],
    parameters: Sequence[torch.Tensor],
) -> Diagnostic | None:
    """MLO0708: an argument that autograd does not see in the result."""
    wanted = [*leaves.values(), *parameters]
    reached: Sequence[torch.Tensor | None] = [None] * len(wanted)
    if result.requires_grad:
        reached = torch.autograd.grad(result.sum(), wanted, allow_unused=True, create_graph=True)
    for k, gradient in zip(leaves, reached, strict=False):
        if gradient is None:
            names = use.extern.parameters
            argument = names[k] if use.network is None and k < len(names) else f"input {k + 1}"
            return _cuts(use, argument)
    if parameters and all(g is None for g in reached[len(leaves) :]):
        return _cuts(use, "its own parameters")
    return None


def _cuts(use: Use, argument: str) -> Diagnostic:
    return report(
        "MLO0708",
        use.extern.span,
        name=use.extern.name,
        argument=argument,
        notes=["look for `.detach()`, `.item()`, `.data`, `torch.no_grad()` or NumPy inside"],
    )


def _twice(
    use: Use,
    result: torch.Tensor,
    wanted: Sequence[torch.Tensor],
    second: Sequence[tuple[str, str]],
) -> list[Diagnostic]:
    """MLO0709: the gradient of the gradient, where a level's strategy needs it."""
    if not second:
        return []
    weights = torch.randn_like(result).requires_grad_()
    first = torch.autograd.grad(
        (weights * result).sum(), wanted, create_graph=True, allow_unused=True
    )
    problem = next((p for g in first if g is not None and (p := _broken(g, weights))), "")
    if not problem:
        return []
    level, strategy = second[0]
    found = report(
        "MLO0709",
        use.extern.span,
        name=use.extern.name,
        strategy=strategy,
        level=level,
        notes=[problem],
    )
    return [found]


def _broken(gradient: torch.Tensor, weights: torch.Tensor) -> str:
    """Why a gradient cannot be differentiated, or nothing.

    It is linear in what flowed into it: where autograd does not see that, it sees nothing of it.
    """
    if not gradient.requires_grad:
        return "its gradient is computed out of autograd's sight"
    try:
        (through,) = torch.autograd.grad(
            gradient.sum(), [weights], allow_unused=True, retain_graph=True
        )
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    return "its backward is marked `once_differentiable`" if through is None else ""


def _second_order(model: Model, graph: Graph, h: Hierarchy) -> dict[str, str]:
    """Levels that are differentiated with products of their Hessian, each with its strategy."""
    made, _ = decide(model, gather(model, graph, h), h)
    if made is None:
        return {}
    pulled = {pull.level for sweep in made.sweeps.values() for pull in sweep}
    return {
        name: made.strategies[name].call.name
        for name in sorted(pulled)
        if STRATEGIES[made.strategies[name].call.name].needs in SECOND_ORDER
    }


def _stateful(
    model: Model, h: Hierarchy, built: Mapping[str, nn.Module], uses: Sequence[Use]
) -> list[Diagnostic]:
    """MLO0706: networks of differentiated levels that change buffers when they are called."""
    found = []
    lower = {q for p in h.levels for q in h.starred[p]}
    for key, _, extern in _networks(model):
        level = model.level(key.partition(".")[0])
        use = next((u for u in uses if u.network == key and level.name in u.owners), None)
        if level.name not in lower or key not in built or use is None:
            continue
        frozen = level.setting("freeze")
        patterns = frozen if isinstance(frozen, tuple) else (frozen,)
        names = [
            name
            for name in _changed(built[key], use)
            if not any(isinstance(p, str) and fnmatchcase(name, p) for p in patterns)
        ]
        if names:
            found.append(
                report(
                    "MLO0706",
                    span_of(level, "hypergrad") or extern.span,
                    name=f"{key}",
                    buffers=", ".join(f"`{n}`" for n in names[:3]),
                    notes=['freeze them (`freeze = "..."`), or normalise without statistics'],
                )
            )
    return found


def _changed(module: nn.Module, use: Use) -> list[str]:
    """The floating-point buffers that a call in training mode changes."""
    inputs = [_example(t) for t in use.inputs if t is not None]
    training = module.training
    module.train()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            _, after = _called(module, inputs)
    except Exception:
        # the user's code on made-up tensors: MLO0707 says so
        return []
    finally:
        module.train(training)
    before = dict(module.named_buffers())
    return [n for n, b in after.items() if b.is_floating_point() and not torch.equal(b, before[n])]
