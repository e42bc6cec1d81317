r"""Reduced objectives: a level's objective with the solutions below it substituted, differentiable.

With theta_R*(x) defined by g_R(theta_R*, x) = 0, x the inputs of R's own reduced objective, a
response is an autograd node with the value theta_R* and the backward rule

    x_bar = -(\partial g_R / \partial x)^T u,    H_R u = theta_bar

in which u is itself a node, of value H_R^-1 a, with the backward rule

    q = H_R^-1 u_bar,    a_bar = q,    (theta_R, x)_bar = -\partial (q . H_R u)

Both rules are made of differentiable operations, so derivatives of any order pass through theta_R*
and H_R. Gradient, Hessian and cross products of the reduced objective are then ordinary autograd:
this is what `curvature = total` means. The value is right to first order in how far R is from its
solution.

Griewank and Walther, chapter 15; Blondel et al., arXiv:2105.15183 (the rule of first order).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bettyc.kernels import cg as kernel
from bettyc.runtime.nesting import Nest
from bettyc.runtime.objective import Frame, Objective
from bettyc.runtime.products import Products
from bettyc.runtime.report import SolveError
from bettyc.runtime.slope import value_of
from bettyc.runtime.strategies import SOLVES, exact
from bettyc.runtime.strategies.system import System, not_finite, steps_for
from bettyc.strategies import CG, name_of

# Up to this many variables an inner Hessian is factorised, beyond it solved by conjugate gradient.
DENSE = 512
# Newton steps, and the norm of the gradient to reach, when inner levels are solved anew.
NEWTON_STEPS, NEWTON_TOL = 50, 1e-13


@dataclass(frozen=True)
class Point:
    """Where one derivative is taken. `inverses` is shared by all evaluations there: level
    -> H^-1.
    """

    nest: Nest
    objectives: Mapping[str, Objective]
    frames: Mapping[str, Frame]
    theta: Mapping[str, Tensor]
    strategies: Mapping[str, Any] = field(default_factory=dict)
    inverses: dict[str, Tensor] = field(default_factory=dict)

    def at(self, theta: Mapping[str, Tensor]) -> Point:
        """Another point of the same problem."""
        return Point(self.nest, self.objectives, self.frames, theta, self.strategies)


class Reduced:
    """The reduced objective of a level; an `Objective` whose `reads` are the level and its
    inputs.
    """

    def __init__(self, level: str, point: Point) -> None:
        if point.theta[level].ndim > 1 and point.nest.inner(level):
            raise SolveError(
                f"`curvature = total` through the `foreach` level `{level}`, whose replicas share"
                f" {', '.join(point.nest.inner(level))}: use `curvature = direct`"
            )
        self.level = level
        self.point = point
        self.reads = (level, *point.nest.inputs(level))
        self._inner = point.nest.inner(level)

    def __call__(self, theta: Mapping[str, Tensor], frame: Frame) -> Tensor:
        """Scalar; the levels inside are at their responses to `theta`, solved anew where it has
        moved.
        """
        point = self.point if self._is_here(theta) else settle(self.level, self.point, theta)
        values: dict[str, Tensor] = {**theta}
        for name in self._inner:
            values.pop(name, None)

        def value(name: str) -> Tensor:
            if name not in values:
                inputs = point.nest.inputs(name)
                values[name] = respond(name, point, {i: value(i) for i in inputs})
            return values[name]

        for name in self._inner:
            value(name)
        return value_of(point.objectives[self.level], values, frame)

    def _is_here(self, theta: Mapping[str, Tensor]) -> bool:
        here = self.point.theta
        return not self._inner or all(
            theta[n] is here[n] or torch.equal(theta[n].detach(), here[n]) for n in self.reads
        )


def respond(name: str, point: Point, inputs: Mapping[str, Tensor]) -> Tensor:
    """The response of a level as a differentiable function of its inputs; its value is
    `point`'s.
    """
    own = point.theta[name].detach()
    if not any(value.requires_grad for value in inputs.values()):
        return own
    return _Response.apply(_Implicit(name, point, tuple(inputs)), own, *inputs.values())


def settle(level: str, point: Point, theta: Mapping[str, Tensor]) -> Point:
    """The point with theta's variables and the levels inside `level` solved for them, by Newton.

    Raises SolveError where Newton's method does not arrive.
    """
    values = {name: value.detach() for name, value in {**point.theta, **theta}.items()}
    for name in point.nest.inner(level):
        values[name] = point.theta[name].detach()
    # Levels inside may read each other's values; those that are read come first.
    for name in _first_read(point.nest, level):
        values[name] = minimise(name, point.at(values))
    return point.at(values)


def minimise(name: str, point: Point) -> Tensor:
    """The solution of one level for the inputs at `point`: Newton's method on its reduced
    objective.

    A step is halved until the norm of the gradient falls. Raises SolveError where it does not
    arrive.
    """
    theta = point.theta[name]
    g, system = _linearised(name, point, theta)
    if not bool(torch.isfinite(g).all()):
        raise SolveError(
            f"the gradient of level `{name}` is not finite where it stands; look at what its"
            " objective divides by and takes the logarithm of"
        )
    goal = NEWTON_TOL * max(1.0, float(g.norm()))
    for _ in range(NEWTON_STEPS):
        size = float(g.norm())
        if size <= goal:
            return theta
        step = _newton_step(system, g)
        scale = 1.0
        while True:
            tried = theta - scale * step
            g_tried, system_tried = _linearised(name, point, tried)
            if float(g_tried.norm()) < size or scale < 1e-4:
                break
            scale *= 0.5
        if not float(g_tried.norm()) < size:
            # Rounding keeps the gradient from falling further: as solved as it gets.
            if size <= 1e-7 * max(1.0, float(theta.norm())):
                return theta
            break
        theta, g, system = tried, g_tried, system_tried
    raise SolveError(
        f"level `{name}` was not solved by Newton's method (gradient norm {float(g.norm()):.1e});"
        " bring it closer to its minimum first, with more `steps`"
    )


def _linearised(name: str, point: Point, theta: Tensor) -> tuple[Tensor, System]:
    """The gradient of the reduced objective at theta, flat, and the system of its Hessian there."""
    here = settle(name, point, {name: theta})
    system = System(
        level=name,
        root="",
        objective=Reduced(name, here),
        theta=here.theta,
        frame=here.frames[name],
        rhs=theta.flatten(),
        into=(),
        certify=False,
    )
    return system.products.gradient.flatten(), system


def _newton_step(system: System, g: Tensor) -> Tensor:
    system.rhs = g
    if g.numel() <= DENSE:
        step = exact.solve_dense(system.dense(), g)[0]
    else:
        step = _conjugate_step(system, g)
    return step.reshape(system.theta[system.level].shape)


def _conjugate_step(system: System, g: Tensor) -> Tensor:
    """H^-1 g where H is positive definite. Elsewhere Newton's method would head for a saddle, at
    the price of thousands of products: SolveError.
    """
    u, info = kernel.cg(system.for_solver(), g.contiguous(), tol=1e-8, max_iters=steps_for(len(g)))
    if info.breakdown:
        raise not_finite(system.level)
    if info.curvature:
        raise SolveError(
            f"level `{system.level}` is not convex where it stands, so Newton's method does not"
            " solve it; bring it closer to its minimum first, with more `steps`"
        )
    return u


def _first_read(nest: Nest, level: str) -> list[str]:
    """The levels inside `level`, each after the inside levels that it is a function of."""
    inner, done = nest.inner(level), []

    def visit(name: str) -> None:
        if name in done or name not in inner:
            return
        for other in nest.inputs(name):
            visit(other)
        done.append(name)

    for name in inner:
        visit(name)
    return done


@dataclass(frozen=True)
class _Implicit:
    """g(theta, x) = 0 for one level: its derivatives, where theta and x may carry gradient
    themselves.
    """

    name: str
    point: Point
    inputs: tuple[str, ...]

    def stationarity(
        self, theta: Tensor, inputs: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """g and the tensors to differentiate it in: views, so that partial derivatives stay
        partial.
        """
        own = _view(theta)
        given = [_view(x) for x in inputs]
        values = {**self.point.theta, self.name: own, **dict(zip(self.inputs, given, strict=True))}
        value = Reduced(self.name, self.point)(values, self.point.frames[self.name])
        return _grad(value, [own], None, True)[0], own, given

    def solve(self, a: Tensor) -> Tensor:
        """H^-1 a at the point, no graph."""
        options = self.point.strategies.get(self.name)
        krylov = options is not None and name_of(options) in ("cg", "minres")
        if a.numel() <= DENSE and not krylov:
            return (self._inverse() @ a.flatten()).reshape(a.shape)
        chosen = options if krylov else CG(tol=1e-10)
        system = System(
            level=self.name,
            root="",
            objective=Reduced(self.name, self.point),
            theta=self.point.theta,
            frame=self.point.frames[self.name],
            rhs=a.detach().flatten(),
            into=(),
        )
        return SOLVES[name_of(chosen)](system, chosen).u.reshape(a.shape)

    def _inverse(self) -> Tensor:
        known = self.point.inverses
        if self.name not in known:
            products = Products(
                Reduced(self.name, self.point), self.point.theta, self.point.frames[self.name]
            )
            h = products.dense()
            columns = [exact.solve_dense(h, e)[0] for e in torch.eye(len(h)).to(h)]
            known[self.name] = torch.stack(columns, 1) if columns else h
        return known[self.name]


class _Response(torch.autograd.Function):
    """theta* as a function of the inputs of its level."""

    @staticmethod
    def forward(ctx: Any, implicit: _Implicit, own: Tensor, *inputs: Tensor) -> Tensor:
        ctx.implicit = implicit
        out = own.clone()
        ctx.save_for_backward(out, *inputs)
        return out

    @staticmethod
    def backward(ctx: Any, a: Tensor) -> Any:
        theta, *inputs = ctx.saved_tensors
        graph = torch.is_grad_enabled()
        u = _Solve.apply(ctx.implicit, a, theta, *inputs)
        with torch.enable_grad():
            g, _, given = ctx.implicit.stationarity(theta, tuple(inputs))
            cross = _grad(g, given, u, graph)
        return None, None, *(-c for c in cross)


class _Solve(torch.autograd.Function):
    """u = H^-1 a as a function of a, theta and the inputs."""

    @staticmethod
    def forward(ctx: Any, implicit: _Implicit, a: Tensor, theta: Tensor, *inputs: Tensor) -> Tensor:
        ctx.implicit = implicit
        u = implicit.solve(a)
        ctx.save_for_backward(u, theta, *inputs)
        return u

    @staticmethod
    def backward(ctx: Any, w: Tensor) -> Any:
        u, theta, *inputs = ctx.saved_tensors
        graph = torch.is_grad_enabled()
        q = _Solve.apply(ctx.implicit, w, theta, *inputs)
        with torch.enable_grad():
            g, own, given = ctx.implicit.stationarity(theta, tuple(inputs))
            (h_u,) = _grad(g, [own], u, True)
            found = _grad(h_u, [own, *given], q, graph)
        return None, q, *(-x for x in found)


def _view(x: Tensor) -> Tensor:
    return x.view_as(x) if x.requires_grad else x.detach().requires_grad_()


def _grad(y: Tensor, wrt: list[Tensor], v: Tensor | None, graph: bool) -> list[Tensor]:
    if not y.requires_grad or not wrt:
        return [torch.zeros_like(x) for x in wrt]
    return list(
        torch.autograd.grad(
            y,
            wrt,
            v,
            create_graph=graph,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
    )
