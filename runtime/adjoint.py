r"""Hypergradients by adjoints accumulated over the levels below a root.

    a_Q = \partial C_P / \partial theta_Q        for every level Q that the root P stars, zero
    otherwise for every pull (Q, into), in the order of the plan:
        solve   H_Q u = a_Q                      g_Q = \partial C_Q / \partial theta_Q, H_Q its
        derivative a_R -= (\partial g_Q / \partial theta_R)^T u        for R in `into`, the root
        among them
    \nabla C_P = \partial C_P / \partial theta_P + a_P

One solve per level and root, however many paths lead there: linear in the size of the graph. A
level whose curvature is `total` enters with its reduced objective in place of its own
(`bettyc.runtime.response`).

Griewank and Walther. Evaluating Derivatives, SIAM 2008, chapter 15 (implicit adjoints).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bettyc.plan import Pull
from bettyc.runtime.objective import Frame, Objective
from bettyc.runtime.products import gradients
from bettyc.runtime.report import Hypergradient, Report, SolveError
from bettyc.runtime.slope import reason, replica, together
from bettyc.runtime.strategies import COMPAT, PULLS, SOLVES, WHOLE, cg_replicas, single_loop
from bettyc.runtime.strategies.system import Pulled, Sampling, Solution, System, Trajectory
from bettyc.strategies import CG, STRATEGIES, SingleLoop, name_of


@dataclass(frozen=True)
class Lower:
    """A level below the root, as the sweep sees it besides its objective.

    strategy: options from `bettyc.strategies`, e.g. `CG(tol=1e-8)`.
    mu: known strong convexity in the flat variables. lr: the lower learning rate, if it has one.
    scale: positive approximation of diag(H) from the optimizer's state, shape of theta[level].
    trajectory: the recorded inner steps, for the strategies that replay them.
    reduced: what to differentiate in place of the level's objective, where its curvature is total.
    sampling, compat, jacobian: see `System`.
    """

    strategy: Any
    mu: float | None = None
    lr: float | Tensor | None = None
    scale: Tensor | None = None
    trajectory: Trajectory | None = None
    reduced: Objective | None = None
    sampling: Sampling | None = None
    compat: str = ""
    jacobian: Tensor | None = None


def hypergradient(
    root: str,
    *,
    objectives: Mapping[str, Objective],
    theta: Mapping[str, Tensor],
    frames: Mapping[str, Frame],
    lowers: Mapping[str, Lower] | None = None,
    pulls: Sequence[Pull] = (),
    memory: Mapping[str, Tensor] | None = None,
    certify: bool = True,
    through: Through | None = None,
) -> Hypergradient:
    """The derivative of `objectives[root]` in theta[root] along the responses of the levels in
    `pulls`.

    theta: flat variables of every level, (size,) or (replicas, size) of a `foreach` level. frames:
    what each level's objective sees. memory: of the call before (`Hypergradient.memory`). certify:
    spend one product per solve on the true residual. through: in place of `pull_through`. Without
    pulls it is the plain gradient.
    """
    lowers, memory = lowers or {}, memory or {}
    if theta[root].ndim == 1:
        return _sweep(root, objectives, theta, frames, lowers, pulls, memory, certify, through)
    found = []
    for i, row in enumerate(theta[root].unbind()):
        inner = {**theta, root: row}
        seen = {name: replica(frame, root, i) for name, frame in frames.items()}
        kept = {name: value[i] for name, value in memory.items()}
        found.append(_sweep(root, objectives, inner, seen, lowers, pulls, kept, certify))
    if not found:
        return Hypergradient(torch.zeros_like(theta[root]), theta[root].new_zeros(0))
    return Hypergradient(
        torch.stack([one.grad for one in found]),
        torch.stack([one.loss for one in found]),
        tuple(report for one in found for report in one.reports),
        {name: torch.stack([one.memory[name] for one in found]) for name in found[0].memory},
    )


def _sweep(
    root: str,
    objectives: Mapping[str, Objective],
    theta: Mapping[str, Tensor],
    frames: Mapping[str, Frame],
    lowers: Mapping[str, Lower],
    pulls: Sequence[Pull],
    memory: Mapping[str, Tensor],
    certify: bool,
    through: Through | None = None,
) -> Hypergradient:
    reads = [pull.level for pull in pulls if pull.level in objectives[root].reads]
    loss, adjoints = gradients(objectives[root], theta, frames[root], [root, *reads])
    swept = sweep(
        root,
        adjoints,
        objectives=objectives,
        theta=theta,
        frames=frames,
        lowers=lowers,
        pulls=pulls,
        memory=memory,
        certify=certify,
        through=through,
    )
    grad, kept = swept.adjoints[root], dict(swept.memory)
    weight = _moving_average(lowers, pulls)
    if weight is not None:
        key = f"{root}/{root}/direction"
        grad = kept[key] = single_loop.average(grad, memory.get(key), weight)
    return Hypergradient(grad, loss, swept.reports, kept, swept.directions)


@dataclass(frozen=True)
class Swept:
    """What a sweep leaves: the adjoint of every level that it came to, and the rest as in
    `Hypergradient`.
    """

    adjoints: Mapping[str, Tensor]
    reports: tuple[Report, ...]
    memory: Mapping[str, Tensor]
    directions: Mapping[str, Tensor]


def sweep(
    root: str,
    adjoints: Mapping[str, Tensor],
    *,
    objectives: Mapping[str, Objective],
    theta: Mapping[str, Tensor],
    frames: Mapping[str, Frame],
    lowers: Mapping[str, Lower],
    pulls: Sequence[Pull],
    memory: Mapping[str, Tensor],
    certify: bool = True,
    through: Through | None = None,
) -> Swept:
    """Carry adjoints through `pulls`: the loop of the module's formula.

    adjoints: those to begin with, by level, of the shape of theta[l]. root: whose they are; where
    `objectives` has none of it, they are all that is known of it (a layer in the user's own loss).
    """
    adjoints = dict(adjoints)
    reports: list[Report] = []
    kept: dict[str, Tensor] = {}
    directions: dict[str, Tensor] = {}
    passed: set[str] = set()  # levels that an adjoint has come to from another level
    for pull in pulls:
        level = pull.level
        if level not in adjoints:
            continue  # the root does not depend on it
        lower = lowers[level]
        _check_sweep(root, pull, lower, pulls)
        prefix = f"{root}/{level}/"
        known = root in objectives and level not in passed
        system = System(
            level=level,
            root=root,
            objective=lower.reduced or objectives[level],
            theta=theta,
            frame=frames[level],
            rhs=_at_least_fp32(adjoints[level]),
            into=pull.into,
            mu=lower.mu,
            lr=lower.lr,
            scale=lower.scale,
            warm={k.removeprefix(prefix): v for k, v in memory.items() if k.startswith(prefix)},
            trajectory=lower.trajectory,
            upper=_upper(root, level, objectives, theta, frames) if known else None,
            loss=_loss(root, level, objectives, theta, frames) if known else None,
            sampling=lower.sampling,
            certify=certify,
            compat=lower.compat,
            jacobian=lower.jacobian,
        )
        try:
            found = (through or pull_through)(system, lower.strategy)
        except SolveError:
            raise
        except RuntimeError as error:
            if lower.reduced is None or isinstance(error, torch.OutOfMemoryError):
                raise
            raise SolveError(
                f"`curvature = total` through level `{level}` needs derivatives of third order, and"
                f" torch says: {str(error).splitlines()[0]}; use `curvature = direct`"
            ) from error
        reports.append(found.report)
        kept |= {prefix + name: value for name, value in found.memory.items()}
        if found.direction is not None:
            directions[level] = found.direction
        for name, value in found.cross.items():
            value = value.to(theta[name].dtype)
            adjoints[name] = adjoints[name] - value if name in adjoints else -value
            passed.add(name)
    return Swept(adjoints, tuple(reports), kept, directions)


def _check_sweep(root: str, pull: Pull, lower: Lower, pulls: Sequence[Pull]) -> None:
    """Raises ValueError where the sweep leaves out what a reduced objective is a function of."""
    if lower.reduced is None:
        return
    moving = {root, *(other.level for other in pulls)} - {pull.level}
    missing = [name for name in lower.reduced.reads if name in moving and name not in pull.into]
    if missing:
        raise ValueError(
            f"the sweep of `{root}` takes `{pull.level}` with direct curvature: its"
            f" reduced objective is also a function of {missing}; see Nest.sweep(root, total)"
        )


def _upper(
    root: str,
    level: str,
    objectives: Mapping[str, Objective],
    theta: Mapping[str, Tensor],
    frames: Mapping[str, Frame],
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    def derivatives(own: Tensor) -> tuple[Tensor, Tensor]:
        found = gradients(objectives[root], {**theta, level: own}, frames[root], [level, root])[1]
        return found[level], found[root]

    return derivatives


def _loss(
    root: str,
    level: str,
    objectives: Mapping[str, Objective],
    theta: Mapping[str, Tensor],
    frames: Mapping[str, Frame],
) -> Callable[[Tensor], Tensor]:
    def value(own: Tensor) -> Tensor:
        with torch.no_grad():
            return objectives[root]({**theta, level: own}, frames[root])

    return value


def _moving_average(lowers: Mapping[str, Lower], pulls: Sequence[Pull]) -> float | None:
    """The weight of the newest direction, where a level asks for a moving average."""
    for pull in pulls:
        options = lowers[pull.level].strategy
        if isinstance(options, SingleLoop) and options.rule == "ma_soba":
            return options.average
    return None


@dataclass(frozen=True)
class Found:
    """What one pull brings: cross terms by level, the report, what to remember, the level's own
    direction.
    """

    cross: Mapping[str, Tensor]
    report: Report
    memory: Mapping[str, Tensor]
    direction: Tensor | None = None


# (system, options of the strategy) -> what comes of it
Through = Callable[[System, Any], Found]


def pull_through(system: System, options: Any) -> Found:
    """One level of the sweep; the adjoint of a `foreach` level has one row per replica."""
    name = name_of(options)
    if system.rhs.ndim == 2 and (name not in WHOLE or system.jacobian is not None):
        return _replicas(system, options)
    theirs = COMPAT[system.compat]
    if name in PULLS:
        pulled = theirs.get(name, PULLS[name])(system, options)
        report = report_of_pull(system.level, system.root, name, pulled)
        report = _by_differences(system, name, report)
        return Found(pulled.cross, report, pulled.memory, pulled.direction)
    solution = theirs.get(name, SOLVES[name])(system, options)
    u = solution.u.to(system.theta[system.level].dtype)
    cross = system.products.cross(u)
    size = solution.size
    if size is None:
        size = float(torch.linalg.vector_norm(system.rhs))
    count = system.products.count
    report = report_of_solve(system.level, system.root, name, solution, size, count, system.mu)
    return Found(cross, _by_differences(system, name, report), solution.memory)


def _by_differences(system: System, name: str, report: Report) -> Report:
    """The report, with a note and a warning where products had to be differences of gradients."""
    why = reason(system.objective)
    if not why or STRATEGIES[name].needs in ("nothing", "gradient"):
        return report
    note = f"products are differences of gradients, as torch says: {why}"
    return replace(report, severe=True, note="; ".join(n for n in (report.note, note) if n))


def _replicas(system: System, options: Any) -> Found:
    """One pull per replica, the cross terms summed, the least favourable of their certificates;
    conjugate gradient steps for all of them at once where their objectives are evaluated so.
    """
    plain = "cg" not in COMPAT[system.compat] and system.jacobian is None
    if isinstance(options, CG) and plain and together(system.objective, system.theta, system.frame):
        rows = cg_replicas.solve(system, options)
        if rows is not None:
            return _of_rows(system, options, rows)
    total = {name: torch.zeros_like(system.theta[name]) for name in system.into}
    reports: list[Report] = []
    kept: dict[str, list[Tensor]] = {}
    for i in range(len(system.rhs)):
        found = pull_through(_one(system, i), options)
        reports.append(found.report)
        for name, value in found.cross.items():
            total[name] = total[name] + value
        for name, value in found.memory.items():
            kept.setdefault(name, []).append(value)
    memory = {name: torch.stack(values) for name, values in kept.items()}
    return Found(total, _worst(system, name_of(options), reports), memory)


def _of_rows(system: System, options: CG, rows: cg_replicas.Rows) -> Found:
    """The cross terms of systems solved together, and of the few that have to be solved alone."""
    u, reports = rows.u, [_report_of_rows(system, rows)]
    for i in rows.left:
        alone = _one(system, i)
        solution = SOLVES["cg"](alone, options)
        u[i] = solution.u
        size, count = float(alone.rhs.norm()), alone.products.count
        reports.append(
            report_of_solve(alone.level, alone.root, "cg", solution, size, count, alone.mu)
        )
    cross = system.products.cross(u.to(system.theta[system.level].dtype))
    return Found(cross, _by_differences(system, "cg", _worst(system, "cg", reports)), {})


def _one(system: System, i: int) -> System:
    level = system.level
    return replace(
        system,
        theta={**system.theta, level: system.theta[level][i]},
        frame=replica(system.frame, level, i),
        rhs=system.rhs[i],
        scale=None if system.scale is None else system.scale[i],
        jacobian=None if system.jacobian is None else system.jacobian[i],
        warm={name: value[i] for name, value in system.warm.items()},
    )


def _at_least_fp32(a: Tensor) -> Tensor:
    return a.float() if a.dtype in (torch.float16, torch.bfloat16) else a


def report_of_solve(
    level: str,
    root: str,
    name: str,
    solution: Solution,
    size: float,
    products: int,
    mu: float | None,
) -> Report:
    """size: ||a||. products: with the Hessian, spent for it."""
    left = solution.residual
    return Report(
        level=level,
        root=root,
        strategy=name,
        products=products,
        iterations=solution.iterations,
        relative_residual=None if left is None else (left / size if size else left),
        min_ritz=solution.min_ritz,
        converged=solution.converged,
        bound=left / mu if left is not None and mu else None,
        note=solution.note,
        severe=solution.severe,
    )


def _report_of_rows(system: System, rows: cg_replicas.Rows) -> Report:
    known = rows.residual is not None and system.mu
    return Report(
        level=system.level,
        root=system.root,
        strategy="cg",
        products=rows.products,
        iterations=rows.iterations,
        relative_residual=rows.relative_residual,
        min_ritz=rows.min_ritz,
        converged=rows.converged,
        bound=rows.residual / system.mu if known else None,  # type: ignore[operator]
        note=rows.note,
        severe=rows.severe,
    )


def report_of_pull(level: str, root: str, name: str, pulled: Pulled) -> Report:
    """Of a strategy that takes the cross terms itself."""
    return Report(
        level=level,
        root=root,
        strategy=name,
        products=pulled.products,
        converged=pulled.converged,
        note=pulled.note,
        severe=pulled.severe,
    )


def _worst(system: System, name: str, reports: Sequence[Report]) -> Report:
    """One report for all replicas: products added, everything else the least favourable."""
    settled = [r.converged for r in reports if r.converged is not None]
    notes = sorted({r.note for r in reports if r.note})
    return Report(
        level=system.level,
        root=system.root,
        strategy=name,
        products=sum(r.products for r in reports),
        iterations=max((r.iterations for r in reports), default=0),
        relative_residual=_pick(max, [r.relative_residual for r in reports]),
        min_ritz=_pick(min, [r.min_ritz for r in reports]),
        converged=all(settled) if settled else None,
        bound=_pick(max, [r.bound for r in reports]),
        note="; ".join(notes),
        severe=any(r.severe for r in reports),
    )


def _pick(choose: Any, values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return choose(known) if known else None
