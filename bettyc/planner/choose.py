"""Choosing how each level is optimized and differentiated through, with reasons.

Every candidate is looked at and taken or refused; the reason names what decided. `auto` depends on
the program and its dims only, never on data, so the same program always gets the same plan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bettyc.diagnostics.model import Diagnostic
from bettyc.diagnostics.registry import report
from bettyc.diagnostics.span import Span
from bettyc.model import Call, Value
from bettyc.optimizers import OPTIMIZERS
from bettyc.planner.facts import Facts
from bettyc.strategies import STRATEGIES

DENSE = 2048  # largest level whose Hessian is formed and factorised
UNROLLED = 20  # most steps that `auto` unrolls
# relative residual that `auto` asks of a solve, by precision: what rounding lets it reach with
# certainty
SOLVER_TOL = {"fp64": 1e-10}
LOOSE_TOL = 1e-6
# of a system that is another one at every step: closer than that is the noise of the batch
BATCH_TOL, BATCH_ITERS = 1e-3, 20


@dataclass(frozen=True)
class Verdict:
    """A candidate with the reason; `span` is the place that decides, where there is one."""

    name: str
    reason: str
    taken: bool = False
    span: Span | None = None


@dataclass(frozen=True)
class Choice:
    """The chosen call with all options, and every candidate."""

    call: Call
    verdicts: tuple[Verdict, ...]


def filled(table: dict[str, type], name: str, **given: Value) -> Call:
    """A call with all options named, defaults filled in."""
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(table[name])
    defaults: dict[str, Any] = {f.name: f.default for f in fields}
    return Call(name, (), tuple({**defaults, **given}.items()))


def optimizer(f: Facts, span: Span | None) -> tuple[Choice | None, list[Diagnostic]]:
    """The optimizer of a level: what the program says if it can work, or what `auto` means."""
    said = f.optimizer
    if said.name != "auto":
        problem = _cannot_solve(f, said.name)
        if problem is not None:
            return None, [
                report("MLO0616", span, optimizer=said.name, level=f.name, reason=problem)
            ]
        return Choice(said, (Verdict(said.name, "the program says so", True, span),)), []
    tol = dict(said.named).get("tol")
    verdicts: list[Verdict] = []
    for name in ("exact", "newton", "lbfgs"):
        problem = _cannot_solve(f, name)
        if problem is None and name == "exact" and f.size is not None and f.size > DENSE:
            problem = f"{f.size} variables: a factorisation is dear beyond {DENSE}"
        if problem is None and name == "newton" and (f.size is None or f.size > DENSE):
            problem = f"more than {DENSE} variables, or not known how many"
        if problem is not None:
            verdicts.append(Verdict(name, problem, span=_witness(f)))
            continue
        why = {
            "exact": "quadratic: one linear solve",
            "newton": f"{f.curvature}: few steps to the optimum",
            "lbfgs": f"{f.curvature}: converges to the optimum",
        }[name]
        verdicts.append(Verdict(name, why, True))
        call = filled(OPTIMIZERS, name, **({} if name == "exact" else {"tol": tol}))
        return Choice(call, tuple(verdicts)), []
    reasons = "; ".join(f"{v.name}: {v.reason}" for v in verdicts)
    return None, [
        report(
            "MLO0616",
            f.level.span,
            optimizer="auto",
            level=f.name,
            reason=f"its objective is {f.curvature}",
            label="needs an explicit `optimizer`",
            notes=[reasons, "write for example `optimizer = adam(lr = 1e-3)` and `steps = 10`"],
        )
    ]


def _cannot_solve(f: Facts, name: str) -> str | None:
    """Why an optimizer that runs to convergence cannot be used, or None."""
    if name not in ("exact", "newton", "lbfgs"):
        return None
    if f.nested:
        return "it stars other levels, so its reduced objective is none of these"
    if f.noisy and not f.held:
        return "every step sees another batch"
    if any(v.domain is not None and v.domain.name in ("ball", "box") for v in f.level.variables):
        return "its domain is a projection"
    if f.constraint is not None and name in ("exact", "newton"):
        return f.constraint
    if name == "exact" and (not f.quadratic or f.opaque):
        return f"its objective is {f.curvature}, not quadratic"
    if name == "exact" and f.curvature.kind != "quadratic":
        return "its objective has no curvature"
    if name == "newton" and not f.curvature.convex:
        return f"its objective is not known to be {f.wanted}"
    if f.optimizer.name == "auto" and name == "lbfgs" and not f.curvature.convex:
        return f"its objective is not known to be {f.wanted}"
    return None


def _witness(f: Facts) -> Span | None:
    return f.level.objective_span


def strategy(f: Facts, optimizer: Call, frozen: bool, zero_sum: bool, span: Span | None) -> Choice:
    """How to differentiate through a level: what the program says, or the first candidate that
    fits.
    """
    said = f.strategy
    if said.name != "auto":
        return Choice(said, (Verdict(said.name, "the program says so", True, span),))
    verdicts: list[Verdict] = []
    chosen: Call | None = None
    for name, refusal, reason, options in _candidates(f, optimizer, frozen, zero_sum):
        if chosen is None and refusal is None:
            chosen = filled(STRATEGIES, name, **options)
            verdicts.append(Verdict(name, reason, True, _witness(f)))
        else:
            verdicts.append(Verdict(name, refusal or "an earlier one fits", span=_witness(f)))
    return Choice(chosen or filled(STRATEGIES, "none"), tuple(verdicts))


def _candidates(
    f: Facts, optimizer: Call, frozen: bool, zero_sum: bool
) -> Iterator[tuple[str, str | None, str, dict[str, Value]]]:
    """(name, why not or None, why, options), in the order of preference."""
    solved = f.solves
    curved = (f.quadratic and f.curvature.kind == "quadratic") or f.glm
    yield (
        "none",
        None if frozen else "its response is differentiated",
        "its response is only read detached",
        {},
    )
    if "danskin" in STRATEGIES:
        yield (
            "danskin",
            None if zero_sum else "the objectives are not opposite",
            "zero-sum: at the solution the second-order term vanishes",
            {},
        )
    small = f.size is not None and f.size <= DENSE
    yield (
        "unroll",
        _not_unrolled(f, optimizer),
        _why_unrolled(f),
        {"recompute": True} if f.steps is not None and f.steps > UNROLLED else {},
    )
    yield (
        "exact",
        None if curved and f.quadratic and small and not f.noisy else _not_exact(f, small),
        "quadratic and small: factorised once",
        {},
    )
    yield "cg", _not_cg(f), _why_cg(f, curved), _of_cg(f, curved)
    yield (
        "minres",
        None if solved and not f.noisy else "it is not solved, so its curvature may be indefinite",
        f"solved, and {_unknown(f)}: minimal residuals need no definite Hessian",
        {"tol": SOLVER_TOL.get(f.precision, LOOSE_TOL)},
    )
    yield (
        "sama",
        _not_sama(f, optimizer),
        f"one step of `{optimizer.name}`: its own derivative, by gradients alone",
        {},
    )
    steps = not OPTIMIZERS[optimizer.name].solves and optimizer.get("lr") is not None
    yield (
        "finite_diff",
        None if steps else "its optimizer takes no steps with a learning rate",
        "no assumption on the curvature, two gradients",
        {},
    )
    yield "neumann", "its learning rate has to be known to converge", "", {}


def _why_unrolled(f: Facts) -> str:
    steps = f"{f.steps or 1} steps"
    if f.formula:
        return f"{steps} whose learning rate is a variable: only the steps depend on it"
    if f.copied:
        return f"{steps} from a copy of {f.start.partition(':')[2]}, on which nothing else depends"
    return f"{steps} from a {f.start} start, far from the solution"


def _not_unrolled(f: Facts, optimizer: Call) -> str | None:
    if f.solves:
        return "it runs until it is solved: the number of steps has no bound"
    if not OPTIMIZERS[optimizer.name].differentiable:
        return f"`{optimizer.name}` is not differentiable"
    if f.formula or f.copied:
        return None
    if f.start == "warm":
        return "a warm start: the steps before the last update of the level above are lost"
    if f.steps is None or f.steps > UNROLLED:
        return f"{f.steps} steps: memory grows with each"
    if f.start.startswith("copy"):
        return "started from a copy: the implicit gradient needs no trajectory"
    return None


def _not_sama(f: Facts, optimizer: Call) -> str | None:
    if f.solves or (f.steps or 1) > 1:
        return "it takes more than one step"
    if not OPTIMIZERS[optimizer.name].differentiable:
        return f"`{optimizer.name}` is not differentiable"
    if f.start != "warm":
        return "an optimizer's first step: Adam's hardly moves with the gradient"
    if f.nested:
        return "its step is itself a hypergradient"
    if f.precision == "fp16":
        return "fp16: a step that overflowed is no step"
    return None


def _not_exact(f: Facts, small: bool) -> str | None:
    if f.constraint is not None:
        return f.constraint
    if not f.quadratic or f.curvature.kind != "quadratic":
        return f"{f.curvature}, not quadratic"
    if not small:
        return f"more than {DENSE} variables, or not known how many"
    return "every step sees another batch"


def _not_cg(f: Facts) -> str | None:
    known = f.curvature.convex and not f.opaque
    if known or f.curvature.mu is not None:
        return None
    return f.constraint or f"{f.curvature}: {_unknown(f)}"


def _unknown(f: Facts) -> str:
    return "constrained" if f.constraint else f"not known to be {f.wanted}"


def _why_cg(f: Facts, curved: bool) -> str:
    if not curved:
        return "its proximal term bounds the curvature from below"
    if f.noisy:
        return f"{f.curvature}: of each batch semi-definite, and few steps leave out what is flat"
    sign = "negative" if f.level.sense == "maximize" else "positive"
    return f"{f.curvature}: {sign} definite, products in closed form"


def _of_cg(f: Facts, curved: bool) -> dict[str, Value]:
    """Until the residual says so, or a fixed number of steps where each batch is another system."""
    if f.noisy:
        return {"tol": BATCH_TOL, "iters": BATCH_ITERS}
    tol = SOLVER_TOL.get(f.precision, LOOSE_TOL) if f.solves else LOOSE_TOL
    return {"tol": tol, "iters": 0 if curved else 10}
