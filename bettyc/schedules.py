"""Learning-rate schedules and their options; names and meanings are torch.optim.lr_scheduler's.

`steps` counts the level's own updates. A `total` of 0 means: over the whole run. `function`
is an `extern fn` of the number of the update. `cycle_momentum` is off by default: a program that
states a momentum means to keep it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from bettyc.model import Call


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


@dataclass(frozen=True)
class Constant:
    """`factor` times the learning rate for `total` steps, then all of it (ConstantLR)"""

    factor: float = 1 / 3
    total: int = 5


@dataclass(frozen=True)
class Restarts:
    """cosines, each `mult` times as long as the one before (CosineAnnealingWarmRestarts)"""

    period: int = 100
    mult: int = 1
    min: float = 0.0


@dataclass(frozen=True)
class Cyclic:
    """up to `max` and down again, in `up` and `down` steps; down = 0: as up (CyclicLR)"""

    max: float = 0.1
    up: int = 2000
    down: int = 0
    mode: str = "triangular"
    gamma: float = 1.0
    cycle_momentum: bool = False
    base_momentum: float = 0.8
    max_momentum: float = 0.9


@dataclass(frozen=True)
class OneCycle:
    """one rise to `max` and one long fall (OneCycleLR); max = 0: the learning rate"""

    max: float = 0.0
    total: int = 0
    start: float = 0.3  # share of the steps in which it rises
    anneal: str = "cos"
    div: float = 25.0
    final_div: float = 1e4
    three_phase: bool = False
    cycle_momentum: bool = False
    base_momentum: float = 0.85
    max_momentum: float = 0.95


@dataclass(frozen=True)
class Sequential:
    """one schedule after another, changing at the milestones (SequentialLR)"""

    schedules: object = ()
    milestones: tuple[int, ...] = ()


@dataclass(frozen=True)
class Chained:
    """the product of several schedules (ChainedScheduler)"""

    schedules: object = ()


@dataclass(frozen=True)
class Factor:
    """times a function of the update's number (LambdaLR)"""

    function: str = ""


@dataclass(frozen=True)
class Multiply:
    """times a function of the number at every step (MultiplicativeLR)"""

    function: str = ""


@dataclass(frozen=True)
class SWA:
    """from the learning rate to `lr` in `steps` updates, constant after (SWALR)"""

    lr: float = 1e-3
    steps: int = 10
    anneal: str = "cos"


@dataclass(frozen=True)
class Plateau:
    """multiply by factor when the level's loss has not fallen for `patience` updates of the top
    level
    """

    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    cooldown: int = 0
    min: float = 0.0
    mode: str = "min"
    threshold_mode: str = "rel"
    eps: float = 1e-8


SCHEDULES: dict[str, type] = {
    "step": Step,
    "multistep": MultiStep,
    "exponential": Exponential,
    "cosine": Cosine,
    "linear": Linear,
    "polynomial": Polynomial,
    "warmup": Warmup,
    "constant": Constant,
    "restarts": Restarts,
    "cyclic": Cyclic,
    "onecycle": OneCycle,
    "sequential": Sequential,
    "chained": Chained,
    "factor": Factor,
    "multiply": Multiply,
    "swa": SWA,
    "plateau": Plateau,
}


def whole_run(call: Call) -> bool:
    """Whether the rates of a schedule depend on how many updates the whole run has."""
    defaults = {f.name: f.default for f in fields(SCHEDULES[call.name])}
    if defaults.get("total") == 0 and not call.get("total"):
        return True
    parts = call.get("schedules")
    return isinstance(parts, tuple) and any(isinstance(p, Call) and whole_run(p) for p in parts)
