"""The libraries, each given a `Problem` the way its documentation says.

`CONTENDERS` maps a name to what makes a `Contender`; importing a library happens there, so that one
that is not installed is an ImportError of its own.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable
from typing import Any

import torch
from bilevel import Contender, Problem
from torch import Tensor


class Compiled:
    """bettyc, at a level of optimization."""

    def __init__(self, problem: Problem, opt: int) -> None:
        import bettyc

        program = bettyc.loads(problem.program)
        self.run = program.compile(data=problem.data, opt=opt).start(seed=0)
        self.variable = "log_wd" if problem.name == "logistic" else "score"

    def round(self) -> None:
        self.run.step()

    def lam(self) -> Tensor:
        return getattr(self.run["tune"], self.variable)


class Upper:
    """Gradient descent with momentum on lam, for libraries that only give the hypergradient."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.value = problem.lam.clone().requires_grad_()
        self.optimizer = torch.optim.SGD(
            [self.value], lr=problem.upper_lr, momentum=problem.momentum
        )

    def move(self, grad: Tensor) -> None:
        self.value.grad = grad
        self.optimizer.step()

    def lam(self) -> Tensor:
        return self.value.detach()


def descend(problem: Problem, lam: Tensor) -> Tensor:
    """The inner steps by autograd."""
    w = problem.start.clone().requires_grad_()
    for _ in range(problem.steps):
        (grad,) = torch.autograd.grad(problem.lower(w, lam), w)
        w = (w.detach() - problem.lr * grad).requires_grad_()
    return w


class Autograd(Upper):
    """A loop in plain torch with the conjugate gradient of hypertorch: no library at all."""

    def round(self) -> None:
        problem, lam = self.problem, self.value
        w = descend(problem, lam.detach())
        (b,) = torch.autograd.grad(problem.upper(w), w)
        (grad,) = torch.autograd.grad(problem.lower(w, lam), w, create_graph=True)
        x, r = torch.zeros_like(b), b.clone()
        p, rho = r.clone(), r @ r
        for _ in range(problem.cg):
            (hp,) = torch.autograd.grad(grad, w, p, retain_graph=True)
            alpha = rho / (p @ hp)
            x, r = x + alpha * p, r - alpha * hp
            rho, old = r @ r, rho
            p = r + rho / old * p
        (cross,) = torch.autograd.grad(grad, lam, x)
        self.move(-cross)


class TorchOpt(Upper):
    """torchopt.diff.implicit with its own conjugate gradient."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        import torchopt

        solve = torchopt.linear_solve.solve_cg(maxiter=problem.cg, atol=0.0, rtol=0.0)

        @torchopt.diff.implicit.custom_root(
            torch.func.grad(problem.lower, argnums=0), argnums=1, solve=solve
        )
        def inner(w: Tensor, lam: Tensor) -> Tensor:
            with torch.enable_grad():
                return descend(problem, lam.detach()).detach()

        self.inner = inner

    def round(self) -> None:
        loss = self.problem.upper(self.inner(self.problem.start, self.value))
        self.move(torch.autograd.grad(loss, self.value)[0])


class Higher(Upper):
    """higher: differentiates the inner steps themselves."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        import higher

        self.higher = higher

    def round(self) -> None:
        problem = self.problem
        module = torch.nn.ParameterList([torch.nn.Parameter(problem.start.clone())])
        optimizer = torch.optim.SGD(module.parameters(), lr=problem.lr)
        with self.higher.innerloop_ctx(module, optimizer) as (inner, steps):
            for _ in range(problem.steps):
                steps.step(problem.lower(next(iter(inner.parameters())), self.value))
            loss = problem.upper(next(iter(inner.parameters())))
            self.move(torch.autograd.grad(loss, self.value)[0])


class Betty:
    """Betty's engine, stepped by hand."""

    def __init__(self, problem: Problem) -> None:
        from betty.configs import Config, EngineConfig
        from betty.engine import Engine
        from betty.problems import ImplicitProblem

        class Vector(torch.nn.Module):
            def __init__(self, value: Tensor) -> None:
                super().__init__()
                self.value = torch.nn.Parameter(value.clone())

        class Fit(ImplicitProblem):
            def training_step(self, batch: Any) -> Tensor:
                return problem.lower(self.module.value, self.tune.module.value)

            def on_inner_loop_start(self) -> None:
                with torch.no_grad():
                    self.module.value.copy_(problem.start)

        class Tune(ImplicitProblem):
            def training_step(self, batch: Any) -> Tensor:
                return problem.upper(self.fit.module.value)

        fit, lam = Vector(problem.start), Vector(problem.lam)
        lower = Fit(
            "fit",
            config=Config(
                type="cg", cg_iterations=problem.cg, cg_alpha=1.0, unroll_steps=problem.steps
            ),
            module=fit,
            optimizer=torch.optim.SGD(fit.parameters(), lr=problem.lr),
            train_data_loader=[(torch.zeros(1),)],
        )  # fmt: skip
        upper = Tune(
            "tune", config=Config(), module=lam,
            optimizer=torch.optim.SGD(
                lam.parameters(), lr=problem.upper_lr, momentum=problem.momentum
            ),
            train_data_loader=[(torch.zeros(1),)],
        )  # fmt: skip
        with contextlib.redirect_stdout(io.StringIO()):
            self.engine = Engine(
                problems=[upper, lower],
                config=EngineConfig(train_iters=1, strategy="cpu"),
                dependencies={"l2u": {lower: [upper]}, "u2l": {upper: [lower]}},
            )
            self.engine.train()
        self.steps, self.value = problem.steps, lam

    def round(self) -> None:
        for _ in range(self.steps):
            self.engine.global_step += 1
            self.engine.train_step()

    def lam(self) -> Tensor:
        return self.value.value.detach()


class JaxOpt:
    """jaxopt.GradientDescent with implicit differentiation, the whole round under jit."""

    def __init__(self, problem: Problem) -> None:
        import jax
        import jax.numpy as jnp
        import jaxopt

        lower, upper = problem.jax()

        def cg(matvec: Any, b: Any, **_: Any) -> Any:
            return jax.scipy.sparse.linalg.cg(matvec, b, maxiter=problem.cg, tol=0.0)[0]

        solver = jaxopt.GradientDescent(
            lower, stepsize=problem.lr, maxiter=problem.steps, tol=0.0, acceleration=False,
            implicit_diff=True, implicit_diff_solve=cg,
        )  # fmt: skip
        start = jnp.asarray(problem.start.numpy())

        def loss(lam: Any) -> Any:
            return upper(solver.run(start, lam).params)

        @jax.jit
        def update(lam: Any, m: Any) -> Any:
            m = problem.momentum * m + jax.grad(loss)(lam)
            return lam - problem.upper_lr * m, m

        self.update = update
        self.values = jnp.asarray(problem.lam.numpy()), jnp.zeros(len(problem.lam))

    def round(self) -> None:
        self.values = self.update(*self.values)
        self.values[0].block_until_ready()

    def lam(self) -> Tensor:
        import numpy

        return torch.from_numpy(numpy.array(self.values[0]))


logging.getLogger("betty").setLevel(logging.ERROR)

# The first is the reference of the comparison. Those of DIFFERENT compute something else by design.
CONTENDERS: dict[str, Callable[[Problem], Contender]] = {
    "plain torch (hypertorch's loop)": Autograd,
    "bettyc -O0": lambda problem: Compiled(problem, 0),
    "bettyc -O1": lambda problem: Compiled(problem, 1),
    "bettyc -O2": lambda problem: Compiled(problem, 2),
    "Betty 0.2.1": Betty,
    "TorchOpt 0.7.3": TorchOpt,
    "higher 0.2.1 (unrolled)": Higher,
    "JAXopt 0.8.5 (jit)": JaxOpt,
}
DIFFERENT = {
    "higher 0.2.1 (unrolled)": "differentiates the steps, not the solution",
    "Betty 0.2.1": "its conjugate gradient updates p with the old residual",
}
