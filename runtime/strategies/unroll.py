r"""Cross terms by reverse mode through the optimizer's updates.

    (theta_k+1, s_k+1) = update(theta_k, s_k, g(theta_k; theta_R), options(theta_R)),  k = 0 .. T-1
    cross_R = - (d theta_T / d theta_R)^T a

The recorded steps are replayed with the same frames, so the replayed theta_T is the level's theta
bit for bit. Where the start is copied from another level, or the learning rate is a variable, their
gradients are included: nothing is assumed about convergence. Exact for what the optimizer did; it
approaches the implicit gradient at the rate at which the optimizer converges.

T gradients and T backward passes through them; where the objective has formulas, products with
its second derivatives in place of graphs (`bettyc.runtime.strategies.backwards`). Memory: the
graphs of T steps, or with `recompute` the graphs of sqrt(T) steps and sqrt(T) iterates, for one
more forward pass. `truncate` = K differentiates only the last K steps; the error decays like the
contraction factor to the power K.

`first_order` takes the gradients that the steps are made of as constants, so that nothing is
differentiated twice: from a copied start first-order MAML (section 5.2 of the paper). The steps'
own gradients are kept for it, T vectors, and none is taken again.

Maclaurin, Duvenaud, Adams 2015; MAML, arXiv:1703.03400; Shaban et al., arXiv:1810.10667
(truncation).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bettyc.runtime.products import by_formula
from bettyc.runtime.report import SolveError
from bettyc.runtime.strategies.backwards import Back, Kept, reverse
from bettyc.runtime.strategies.launched import Launched, Left
from bettyc.runtime.strategies.replay import State, floating, replay, trajectory_of
from bettyc.runtime.strategies.system import Pulled, System, Trajectory
from bettyc.strategies import Unroll


def pull(system: System, options: Unroll) -> Pulled:
    """The cross terms of the replayed trajectory, oldest steps cut off by `truncate`."""
    total, products = crossed(system, options)
    if not all(bool(torch.isfinite(value).all()) for value in total.values()):
        raise SolveError(
            f"the unrolled gradient of level `{system.level}` is not finite; lower its learning"
            " rate or set `truncate`"
        )
    return Pulled(total, products=products)


def launch(system: System, options: Unroll, steps: int) -> Launched:
    """The same without a look."""
    total, products = crossed(system, options)
    finite = [torch.isfinite(value).all() for value in total.values()]
    left = {"finite": torch.stack(finite).all()} if finite else {}

    def conclude(left: Left) -> Pulled | None:
        return Pulled({}, products=products) if all(map(bool, left.values())) else None

    return Launched(left, conclude, cross=total)


def crossed(system: System, options: Unroll) -> tuple[dict[str, Tensor], int]:
    """The cross terms, and the evaluations that they took."""
    path = trajectory_of(system)
    first = max(0, path.length - options.truncate * path.group) if options.truncate else 0
    count = path.length - first
    segment = math.isqrt(max(count - 1, 0)) + 1 if options.recompute else max(count, 1)
    cuts = list(range(first, path.length, segment)) or [first]
    if _sloped(path, options):
        points = {cut: (system.theta[system.level], {}) for cut in cuts}  # the records have them
    else:
        points = _points(system, path, cuts)
    a_theta: Tensor = system.rhs.reshape(system.theta[system.level].shape)
    a_state: State = {}
    total = {name: torch.zeros_like(system.theta[name]) for name in system.into}
    for start, end in reversed(list(zip(cuts, [*cuts[1:], path.length], strict=True))):
        back = _reverse(system, options, path, points[start], start, end, a_theta, a_state)
        a_theta, a_state = back.theta, back.state
        for name, value in back.others.items():
            total[name] = total[name] - value
    return total, _products(path, options, first)


def _products(path: Trajectory, options: Unroll, first: int) -> int:
    """Evaluations of the gradient, or of products with its derivative, that the pull takes."""
    if not options.first_order:
        return 2 * (path.length - first)
    return sum(path.gradient(k) is None for k in range(first, path.length))


def _sloped(path: Trajectory, options: Unroll) -> bool:
    """Whether the graphs of the steps' gradients are there to go back through."""
    return not (options.first_order or options.recompute) and getattr(path, "sloped", False)


def _points(system: System, path: Trajectory, cuts: list[int]) -> dict[int, tuple[Tensor, State]]:
    """The iterate and state before each of the steps `cuts`, without graphs."""
    with torch.no_grad():
        point = path.begin(system.theta)
    found, k = {}, 0
    for cut in cuts:
        point = replay(system, path, point, k, cut, system.theta)
        found[cut], k = point, cut
    return found


def _reverse(
    system: System,
    options: Unroll,
    path: Trajectory,
    point: tuple[Tensor, State],
    start: int,
    end: int,
    a_theta: Tensor,
    a_state: State,
) -> Back:
    """Cotangents pulled back through steps start .. end-1, and through the start itself for
    step 0.
    """
    if _sloped(path, options):
        return reverse(system, Kept(path), path, point, start, end, a_theta, a_state)
    form = by_formula(system.objective, system.theta, system.frame, [system.level, *system.into])
    if form is not None and form.leaves[system.level] and not options.first_order:
        return reverse(system, form, path, point, start, end, a_theta, a_state)
    leaves = {name: system.theta[name].detach().requires_grad_() for name in system.into}
    others = {**system.theta, **leaves}
    with torch.enable_grad():
        if start == 0:
            theta, state = path.begin(others)
            point_leaves: list[Tensor] = []
            names: list[str] = []
        else:
            theta = point[0].detach().requires_grad_()
            state = {n: floating(x) for n, x in point[1].items()}
            names = [n for n, x in state.items() if x.requires_grad]
            point_leaves = [theta, *(state[n] for n in names)]
        way = "constant" if options.first_order else "graph"
        last, last_state = replay(system, path, (theta, state), start, end, others, way)
    pairs = [(last, a_theta), *((last_state[n], a) for n, a in a_state.items())]
    pairs = [(x, a) for x, a in pairs if x.requires_grad]
    inputs = [*point_leaves, *leaves.values()]
    if not pairs or not inputs:
        grads = [torch.zeros_like(x) for x in inputs]
    else:
        grads = list(
            torch.autograd.grad(
                [x for x, _ in pairs],
                inputs,
                [a for _, a in pairs],
                allow_unused=True,
                materialize_grads=True,
            )
        )
    back = [g.detach() for g in grads]
    own, rest = back[: len(point_leaves)], back[len(point_leaves) :]
    return Back(
        own[0] if own else torch.zeros_like(a_theta),
        dict(zip(names, own[1:], strict=True)),
        dict(zip(leaves, rest, strict=True)),
    )
