"""Learning-rate schedules and their options; names and meanings are torch.optim.lr_scheduler's.

`steps` counts the level's own updates. A `total` of 0 means: over the whole run.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """multiply by gamma every `every` steps (StepLR)"""

    every: int = 1000
    gamma: float = 0.1


@dataclass(frozen=True)
class MultiStep:
    """multiply by gamma at each milestone (MultiStepLR)"""

    milestones: tuple[int, ...] = ()
    gamma: float = 0.1


@dataclass(frozen=True)
class Exponential:
    """multiply by gamma at every step (ExponentialLR)"""

    gamma: float = 0.999


@dataclass(frozen=True)
class Cosine:
    """half a cosine from the learning rate down to `min` (CosineAnnealingLR)"""

    min: float = 0.0
    total: int = 0


@dataclass(frozen=True)
class Linear:
    """from `start` to `end` times the learning rate (LinearLR)"""

    start: float = 1.0
    end: float = 0.0
    total: int = 0


@dataclass(frozen=True)
class Polynomial:
    """down to zero as a power (PolynomialLR)"""

    power: float = 1.0
    total: int = 0


@dataclass(frozen=True)
class Warmup:
    """linear from zero over the first steps, constant after"""

    steps: int = 100


SCHEDULES: dict[str, type] = {
    "step": Step,
    "multistep": MultiStep,
    "exponential": Exponential,
    "cosine": Cosine,
    "linear": Linear,
    "polynomial": Polynomial,
    "warmup": Warmup,
}
