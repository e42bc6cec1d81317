"""A level's variables as attributes: what users take out of a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from bettyc.runtime.builtin import module
from bettyc.runtime.stage import Stage


class Variables:
    """`run["fit"].w`: a copy of the value, of its declared shape (with a leading axis of replicas
    for a `foreach` level), in natural units where the variable has a domain. A network is a
    module of its own; a built-in one of a `foreach` level a dict of its parameters by name.

    averaged: the averages of the level's `average`, where it has made some.
    """

    def __init__(self, stage: Stage, averaged: bool = False) -> None:
        self._stage = stage
        self._averaged = averaged

    def __getattr__(self, name: str) -> Any:
        stage = self.__dict__["_stage"]
        found = self._network(name)
        if found is not None:
            return found
        values = self.values()
        if name in values:
            return values[name]
        inside = {
            n.removeprefix(f"{name}."): v for n, v in values.items() if n.startswith(f"{name}.")
        }
        if inside:
            return self._builtin(name, inside) or inside
        raise AttributeError(f"level `{stage.name}` has no `{name}`; it has {', '.join(self)}")

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        level = self._stage.level
        inside = {v for network in level.networks for v in network.variables}
        yield from (v.name for v in level.variables if v.name not in inside)
        yield from (network.name for network in level.networks)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self]

    def values(self) -> dict[str, Tensor]:
        """Every variable and parameter by name, detached copies."""
        stage = self._stage
        frozen = stage.state.buffers[stage.name]["frozen"]
        average = stage.average if self._averaged else None
        theta = stage.theta[stage.name] if average is None else average.theta
        pairs = stage.layout.values(theta if theta is not None else stage.theta[stage.name], frozen)
        return {name: value.detach().clone() for name, value in pairs}

    def assign(self, **values: Tensor) -> None:
        """Give variables new values (natural units). Raises ValueError for a wrong one."""
        self._stage.assign(values)

    def _builtin(self, name: str, values: dict[str, Tensor]) -> nn.Module | None:
        networks = [n for n in self._stage.level.networks if n.name == name]
        if self._stage.replicas is not None or not networks:
            return None
        return module(networks[0], values)

    def _network(self, name: str) -> nn.Module | None:
        from copy import deepcopy

        stage = self._stage
        key = f"{stage.name}.{name}"
        network = stage.linked.networks.get(key)
        if network is None or stage.replicas is not None:
            return None
        values = self.values()
        flat = [values[f"{name}.{n}"] for n in network.names]
        module = deepcopy(network.module).eval()
        buffers = stage.state.buffers.get(key, {})
        if self._averaged and stage.average is not None:
            buffers = stage.average.buffers().get(key, buffers)
        return type(network)(key, module).load(flat, buffers)
