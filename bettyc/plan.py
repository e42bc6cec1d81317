"""The plan: immutable data that says everything a run does. JSON both ways, deterministic;
nothing in it is a Python object or code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from bettyc.expr import Graph, Node
from bettyc.model import Call, Formula, Model, Value
from bettyc.serial import decode, encode

FORMAT = 1
# updates after which an inner loop with a `stop` and no `steps` is given up
ENDLESS = 100_000


@dataclass(frozen=True)
class Edge:
    """A dependency between levels: `lower` is used by, or reads, `upper`.

    kind: "l2u" (upper stars lower), "u2l" (lower reads upper's value), "implied" (lower is below
    upper because a starred level's response passes through it), "sampling" (a data source reads
    it), "frozen" (detached star: below, but no gradient).
    `file`, `line`, `column` (1-based) and `text` name the mention that made it.
    """

    kind: str
    lower: str
    upper: str
    file: str
    line: int
    column: int
    text: str


@dataclass(frozen=True)
class Pull:
    """One step of an adjoint sweep: solve H_level u = a_level, then a_R -= (dg_level/dtheta_R)^T
    u for R in `into`.
    """

    level: str
    into: tuple[str, ...]


@dataclass(frozen=True)
class Start:
    """Put the level's variables to where its inner loop starts: reset to initial, or copy
    another level's.
    """

    level: str


@dataclass(frozen=True)
class Step:
    """One optimizer update of the level along its direct gradient plus the adjoint sweep over
    `pulls`.
    """

    level: str
    pulls: tuple[Pull, ...]


@dataclass(frozen=True)
class Solve:
    """Run the level's optimizer until it has converged (exact, newton, lbfgs, or a `stop`
    without `steps`).
    """

    level: str
    pulls: tuple[Pull, ...]


@dataclass(frozen=True)
class Repeat:
    """Repeat the body, or until the level that the body ends with meets its `stop`."""

    times: int
    body: tuple[Instruction, ...]


Instruction: TypeAlias = "Start | Step | Solve | Repeat"


@dataclass(frozen=True)
class Candidate:
    """A strategy or optimizer the planner looked at: taken or refused, and why, with the place
    that decides.
    """

    name: str
    taken: bool
    reason: str
    line: int | None
    column: int | None


@dataclass(frozen=True)
class Kernel:
    """What computes a part of the work. work: "product" (with the level's Hessian) or "solve".

    name: a kernel of `bettyc.kernels`, or "torch" or "autograd". reason: why, and what each device
    makes of it.
    """

    work: str
    name: str
    reason: str


@dataclass(frozen=True)
class Captured:
    """Whether a part of the work is recorded in a CUDA graph on a GPU. work: "steps", the updates
    of the level in a row, "adjoint", its hypergradient, or "update", what is made of that. reason:
    why not, empty where it is.
    """

    level: str
    work: str
    reason: str = ""


@dataclass(frozen=True)
class LevelPlan:
    """How one level is optimized and differentiated through.

    optimizer, strategy: names of the tables with all options filled in (a Call with named
        arguments); an option may be a `Formula` (a learning rate that another level owns).
    steps: updates per update of the levels above; None where it runs to convergence.
    start: "warm" | "reset" | "copy:level.module".
    curvature: class of the objective in the level's own variables, e.g. "glm:bce +
    quadratic(diag)".
    mu: known lower bound of strong convexity in the level's variables, or None.
    size: number of scalars of the level's variables, None while a network from Python is not built.
    groups: `group(pattern, option = ...)`: variables that the optimizer updates with other options;
        the first pattern that matches counts. average: of the variables, what metrics see.
    clip, clip_value: largest norm and largest entry of the gradient. recompute: patterns of the
        parts of networks whose activations are not kept.
    total: "direct" | "total" (DESIGN: what g and H mean when the level stars others); `dropped`
        names the terms that direct leaves out.
    kernels: of the solve that differentiates through the level.
    """

    name: str
    optimizer: Call
    strategy: Call
    schedule: Call | None
    steps: int | None
    start: str
    stop: float | None
    clip: float | None
    accumulate: int
    precision: str
    freeze: tuple[str, ...]
    curvature: str
    convex: bool
    mu: float | None
    size: int | None
    total: str
    dropped: tuple[str, ...]
    optimizer_candidates: tuple[Candidate, ...]
    strategy_candidates: tuple[Candidate, ...]
    groups: tuple[Call, ...] = ()
    average: Call | None = None
    clip_value: float | None = None
    recompute: tuple[str, ...] = ()
    kernels: tuple[Kernel, ...] = ()


@dataclass(frozen=True)
class Cost:
    """Estimates for one update of the top levels: floating-point operations and peak bytes of
    state; None if unknown.
    """

    flops: int | None
    bytes: int | None


@dataclass(frozen=True)
class Plan:
    """A compiled program.

    source: the resolved program text (formatted, all overrides applied); sha256 of it is `hash`.
    nodes: the expression graph that every formula index refers to.
    order: levels from the lowest to the highest.
    program: the schedule of one whole run: warm-ups, then `Repeat(run.steps, ...)`.
    seed, precision ("fp32", "fp64", "tf32", "bf16", "fp16"), device ("cpu", "cuda", "auto").
    compat: "betty" where its formulas are taken and a step is one gradient, of which the
        `accumulate`-th updates; else "".
    cuda_graphs: "on" or "off"; graphs: what they can take.
    """

    format: int
    bettyc: str
    hash: str
    source: str
    folder: str
    model: Model
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    order: tuple[str, ...]
    levels: tuple[LevelPlan, ...]
    program: tuple[Instruction, ...]
    cost: Cost
    seed: int
    precision: str
    device: str
    opt: int
    warnings: tuple[str, ...]
    compat: str = ""
    cuda_graphs: str = "off"
    graphs: tuple[Captured, ...] = ()

    def level(self, name: str) -> LevelPlan:
        return next(level for level in self.levels if level.name == name)

    def graph(self) -> Graph:
        """The expression graph, rebuilt with the same indices."""
        graph = Graph()
        for node in self.nodes:
            graph.make(node.op, node.args, node.type, **dict(node.attrs))
        return graph

    def sweep(self, root: str) -> tuple[Pull, ...]:
        """The adjoint sweep of one level."""
        return next(
            (
                s.pulls
                for s in walk(self.program)
                if getattr(s, "level", None) == root and isinstance(s, Step | Solve)
            ),
            (),
        )

    def to_json(self) -> str:
        """Canonical JSON: the same plan gives the same bytes."""
        return json.dumps(encode(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def from_json(text: str) -> Plan:
    """Read a plan. Raises ValueError when it is not one, or is of another format."""
    try:
        raw = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not a plan: {error}") from None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise ValueError(f"not a plan of format {FORMAT}")
    plan = decode(Plan, raw)
    if not isinstance(plan, Plan):
        raise ValueError("not a plan")
    return plan


def updates(program: tuple[Instruction, ...], level: str) -> int:
    """How often a program updates a level, where every repeat runs to its end."""
    total = 0
    for instruction in program:
        if isinstance(instruction, Repeat):
            total += instruction.times * updates(instruction.body, level)
        elif isinstance(instruction, Step | Solve) and instruction.level == level:
            total += 1
    return total


def walk(program: tuple[Instruction, ...]) -> Iterator[Instruction]:
    """Every instruction, outermost first."""
    for instruction in program:
        yield instruction
        if isinstance(instruction, Repeat):
            yield from walk(instruction.body)


__all__ = [
    "FORMAT",
    "Call",
    "Candidate",
    "Captured",
    "Cost",
    "Edge",
    "Formula",
    "Instruction",
    "Kernel",
    "LevelPlan",
    "Plan",
    "Pull",
    "Repeat",
    "Solve",
    "Start",
    "Step",
    "Value",
    "from_json",
    "walk",
]
