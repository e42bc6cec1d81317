"""A plan with everything it names: Python objects imported, networks built, buffers laid out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bettyc.expr import Graph
from bettyc.model import Call, Level
from bettyc.model import Network as Declared
from bettyc.plan import Plan
from bettyc.runtime import externs
from bettyc.runtime.layout import Layout, layout
from bettyc.runtime.modules import Network
from bettyc.runtime.networks import build as built_in
from bettyc.runtime.randomness import masks
from bettyc.runtime.replicas import Replicas
from bettyc.runtime.seeds import seed_of
from bettyc.types import Dim

DTYPES = {
    "fp32": torch.float32,
    "fp64": torch.float64,
    "tf32": torch.float32,
    "bf16": torch.float32,
    "fp16": torch.float32,
}


@dataclass(frozen=True)
class Linked:
    """What does not change while a plan runs.

    sizes: values of the dims. networks: by "level.name", those from Python. functions: `extern
    fn`s by name. objects: what every extern names. replicas: how those of `foreach` levels are
    evaluated, by level. dtype: of `real`; bf16 and fp16 keep fp32
    variables.
    """

    plan: Plan
    graph: Graph
    sizes: Mapping[str, int]
    layouts: Mapping[str, Layout]
    networks: Mapping[str, Network]
    functions: Mapping[str, externs.Function]
    objects: Mapping[str, Any]
    replicas: Mapping[str, Replicas]
    device: torch.device
    dtype: torch.dtype

    def level(self, name: str) -> Level:
        return self.plan.model.level(name)

    def build(self, level: str, declared: Declared, *seed: int | str) -> nn.Module:
        """A new module of a level's network, its own initialisation under the seed."""
        return _build(self.plan, self.objects, declared, *seed)


def link(
    plan: Plan,
    *,
    given: Mapping[str, Any],
    device: torch.device,
    seed: int,
    rows: Mapping[str, int],
    include: tuple[str, ...] = (),
) -> Linked:
    """Import and build what the plan names. rows: sizes that the data at hand gives to dims.

    Raises InputError.
    """
    objects = {e.name: externs.load(e, plan.folder, given, include) for e in plan.model.externs}
    functions = {
        e.name: externs.function(e, objects[e.name]) for e in plan.model.externs if e.kind == "fn"
    }
    sizes = {name: size for name, size in plan.model.dims if size is not None} | dict(rows)
    dtype = DTYPES[plan.precision]
    networks: dict[str, Network] = {}
    layouts: dict[str, Layout] = {}
    for level in plan.model.levels:
        modules: dict[str, nn.Module] = {}
        for declared in level.networks:
            if declared.extern is None:
                continue
            key = f"{level.name}.{declared.name}"
            module = _build(plan, objects, declared, seed, "initial", key, 0, 0)
            modules[declared.name] = module.to(device=device, dtype=dtype)
            networks[key] = Network(
                key,
                modules[declared.name],
                plan.level(level.name).recompute,
                declared.type.inputs,
            )
        layouts[level.name] = layout(level, plan.level(level.name).freeze, sizes, modules)
    graph = plan.graph()
    sizes |= _parameter_counts(graph, networks)
    replicas = {
        level.name: Replicas(level.name, _way(level), device.type)
        for level in plan.model.levels
        if level.task is not None
    }
    return Linked(
        plan, graph, sizes, layouts, networks, functions, objects, replicas, device, dtype
    )


def _way(level: Level) -> str:
    value = level.setting("replicas")
    return value.name if isinstance(value, Call) else "auto"


def _build(
    plan: Plan, objects: Mapping[str, Any], declared: Declared, *seed: int | str
) -> nn.Module:
    """A network from Python, or a built-in one that torch.nn makes."""
    extern = next((e for e in plan.model.externs if e.name == declared.extern), None)
    with masks(seed_of(*seed), "cpu"):
        if extern is None:
            return built_in(declared.arguments)
        return externs.network(extern, objects[extern.name], declared.arguments)


def _parameter_counts(graph: Graph, networks: Mapping[str, Network]) -> dict[str, int]:
    """Lengths of the vectors that `params(net)` gives for networks from Python: dims with made-up
    names.
    """
    from fnmatch import fnmatchcase

    from bettyc.types import Tensor

    found = {}
    for node in graph.nodes:
        if node.op != "params" or not isinstance(node.type, Tensor):
            continue
        owner = graph[node.args[0]]
        while owner.args:
            owner = graph[owner.args[0]]
        if owner.op != "module":
            continue
        network = networks[f"{owner.attr('level')}.{owner.attr('name')}"]
        pattern = node.attr("except")
        count = sum(
            size
            for name, size in zip(network.names, network.sizes, strict=True)
            if pattern is None or not fnmatchcase(name, pattern)
        )
        dim: Dim = node.type.shape[0]
        found |= dict.fromkeys(dim.names, count)
    return found
