"""Betty itself, run on a few problems whose variables are written down after every top step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Theta = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Level:
    """A problem of Betty's. loss: from the modules of all levels and the level's batch.

    optimizer, scheduler: from parameters, from an optimizer. batch: gives the next one. start:
    called at the start of each inner loop with all modules.
    """

    name: str
    module: nn.Module
    loss: Callable[[Mapping[str, nn.Module], Any], Tensor]
    optimizer: Callable[[Any], torch.optim.Optimizer]
    config: Mapping[str, Any]
    batch: Callable[[], tuple[Any, ...]] = tuple
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None
    start: Callable[[Mapping[str, nn.Module]], None] | None = None


def run(
    levels: Sequence[Level],
    u2l: Mapping[str, Sequence[str]],
    l2u: Mapping[str, Sequence[str]],
    top: str,
    iterations: int,
) -> list[Theta]:
    """The variables of all levels after each step of `top`."""
    from betty.configs import Config, EngineConfig
    from betty.engine import Engine
    from betty.problems import ImplicitProblem

    modules = {level.name: level.module for level in levels}
    trace: list[Theta] = []

    def problem(level: Level) -> Any:
        class Problem(ImplicitProblem):
            def get_batch(self) -> tuple[Any, ...]:
                return level.batch()

            def training_step(self, batch: Any) -> Tensor:
                return level.loss(modules, batch)

            def on_inner_loop_start(self) -> None:
                if level.start is not None:
                    level.start(modules)

            def one_step_descent(self, batch: Any = None) -> Any:
                found = super().one_step_descent(batch)
                if level.name == top:
                    trace.append(
                        {
                            name: {k: p.detach().clone() for k, p in m.named_parameters()}
                            for name, m in modules.items()
                        }
                    )
                return found

        optimizer = level.optimizer(level.module.parameters())
        return Problem(
            name=level.name,
            module=level.module,
            optimizer=optimizer,
            scheduler=None if level.scheduler is None else level.scheduler(optimizer),
            config=Config(retain_graph=True, **level.config),
        )

    problems = {level.name: problem(level) for level in levels}

    def edges(named: Mapping[str, Sequence[str]]) -> dict[Any, list[Any]]:
        return {problems[k]: [problems[v] for v in values] for k, values in named.items()}

    engine = Engine(
        problems=list(problems.values()),
        config=EngineConfig(train_iters=iterations, valid_step=10**9, strategy="cpu"),
        dependencies={"u2l": edges(u2l), "l2u": edges(l2u)},
    )
    engine.run()
    return trace
