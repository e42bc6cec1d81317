r"""Hypergradients by adjoints accumulated over the levels below a root.

    a_Q = \partial C_P / \partial theta_Q        for every level Q that the root P stars, zero otherwise
    for every pull (Q, into), in the order of the plan:
        solve   H_Q u = a_Q                      g_Q = \partial C_Q / \partial theta_Q, H_Q its derivative
        a_R -= (\partial g_Q / \partial theta_R)^T u        for R in `into`, the root among them
    \nabla C_P = \partial C_P / \partial theta_P + a_P

One solve per level and root, however many paths lead there: linear in the size of the graph. A level
whose curvature is `total` enters with its reduced objective in place of its own (`bettyc.runtime.response`).

Griewank and Walther. Evaluating Derivatives, SIAM 2008, chapter 15 (implicit adjoints).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from bettyc.plan import Pull
from bettyc.runtime.objective import Frame, Objective
from bettyc.runtime.products import gradients, replica
from bettyc.runtime.report import Hypergradient, Report
from bettyc.runtime.strategies import PULLS, REPLAYS, SOLVES
from bettyc.runtime.strategies.system import Pulled, Solution, System, Trajectory
from bettyc.strategies import name_of


@dataclass(frozen=True)
class Lower:
    """A level below the root, as the sweep sees it besides its objective.

    strategy: options from `bettyc.strategies`, e.g. `CG(tol=1e-8)`.
    mu: known strong convexity in the flat variables. lr: the lower learning rate, if it has one.
    scale: positive approximation of diag(H) from the optimizer's state, shape of theta[level].
    trajectory: the recorded inner steps, for the strategies that replay them.
    reduced: what to differentiate in place of the level's objective, where its curvature is total.
    """

    strategy: Any
    mu: float | None = None
    lr: float | Tensor | None = None
    scale: Tensor | None = None
    trajectory: Trajectory | None = None
    reduced: Objective | None = None


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
) -> Hypergradient:
    """The derivative of `objectives[root]` in theta[root] along the responses of the levels in `pulls`.

    theta: flat variables of every level, (size,) or (replicas, size) of a `foreach` level. frames: what
    each level's objective sees. memory: of the call before (`Hypergradient.memory`). certify: spend one
    product per solve on the true residual. Without pulls it is the plain gradient.
    """
    if theta[root].ndim == 1:
        return _sweep(root, objectives, theta, frames, lowers or {}, pulls, memory or {}, certify)
    found = []
    for i, row in enumerate(theta[root].unbind()):
        inner = {**theta, root: row}
        seen = {name: replica(frame, root, i) for name, frame in frames.items()}
        found.append(_sweep(root, objectives, inner, seen, lowers or {}, pulls, memory or {}, certify))
    return Hypergradient(
        torch.stack([one.grad for one in found]) if found else torch.zeros_like(theta[root]),
        torch.stack([one.loss for one in found]) if found else theta[root].new_zeros(0),
        tuple(report for one in found for report in one.reports),
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
) -> Hypergradient:
    reads = [pull.level for pull in pulls if pull.level in objectives[root].reads]
    loss, adjoints = gradients(objectives[root], theta, frames[root], [root, *reads])
    reports: list[Report] = []
    kept: dict[str, Tensor] = {}
    for pull in pulls:
        if pull.level not in adjoints:
            continue  # nothing above it moves with it
        lower = lowers[pull.level]
        prefix = f"{root}/{pull.level}/"
        system = System(
            level=pull.level,
            root=root,
            objective=lower.reduced or objectives[pull.level],
            theta=theta,
            frame=frames[pull.level],
            rhs=_at_least_fp32(adjoints[pull.level]),
            into=pull.into,
            mu=lower.mu,
            lr=lower.lr,
            scale=lower.scale,
            warm={k.removeprefix(prefix): v for k, v in memory.items() if k.startswith(prefix)},
            trajectory=lower.trajectory,
            certify=certify,
        )
        cross, report, keep = pull_through(system, lower.strategy)
        reports.append(report)
        kept |= {prefix + name: value for name, value in keep.items()}
        for name, value in cross.items():
            value = value.to(theta[name].dtype)
            adjoints[name] = adjoints[name] - value if name in adjoints else -value
    return Hypergradient(adjoints[root], loss, tuple(reports), kept)


def pull_through(
    system: System, options: Any
) -> tuple[Mapping[str, Tensor], Report, Mapping[str, Tensor]]:
    """The cross terms of one level, its report, and what the strategy wants to remember."""
    name = name_of(options)
    if system.rhs.ndim == 2 and name not in REPLAYS:
        return _replicas(system, options)
    if name in PULLS:
        pulled = PULLS[name](system, options)
        return pulled.cross, _report_of_pull(system, name, pulled), pulled.memory
    solution = SOLVES[name](system, options)
    u = solution.u.to(system.theta[system.level].dtype)
    cross = system.products.cross(u)
    return cross, _report_of_solve(system, name, solution), solution.memory


def _replicas(
    system: System, options: Any
) -> tuple[Mapping[str, Tensor], Report, Mapping[str, Tensor]]:
    """One pull per replica, the cross terms summed, the least favourable of their certificates."""
    total = {name: torch.zeros_like(system.theta[name]) for name in system.into}
    reports: list[Report] = []
    kept: dict[str, list[Tensor]] = {}
    for i in range(len(system.rhs)):
        cross, report, keep = pull_through(_one(system, i), options)
        reports.append(report)
        for name, value in cross.items():
            total[name] = total[name] + value
        for name, value in keep.items():
            kept.setdefault(name, []).append(value)
    return total, _worst(system, name_of(options), reports), {n: torch.stack(v) for n, v in kept.items()}


def _one(system: System, i: int) -> System:
    level = system.level
    return replace(
        system,
        theta={**system.theta, level: system.theta[level][i]},
        frame=replica(system.frame, level, i),
        rhs=system.rhs[i],
        scale=None if system.scale is None else system.scale[i],
        warm={name: value[i] for name, value in system.warm.items()},
    )


def _at_least_fp32(a: Tensor) -> Tensor:
    return a.float() if a.dtype in (torch.float16, torch.bfloat16) else a


def _report_of_solve(system: System, name: str, solution: Solution) -> Report:
    size = float(system.rhs.norm())
    left = solution.residual
    return Report(
        level=system.level,
        root=system.root,
        strategy=name,
        products=system.products.count,
        iterations=solution.iterations,
        relative_residual=None if left is None else (left / size if size else left),
        min_ritz=solution.min_ritz,
        converged=solution.converged,
        bound=left / system.mu if left is not None and system.mu else None,
        note=solution.note,
        severe=solution.severe,
    )


def _report_of_pull(system: System, name: str, pulled: Pulled) -> Report:
    return Report(
        level=system.level,
        root=system.root,
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
