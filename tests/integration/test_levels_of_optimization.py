"""-O0, plain autograd, is the reference: -O1 and -O2 give the same variables and hypergradients.

In float64; they differ by rounding only, which a run of a few updates leaves below 1e-9.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import bettyc
from bettyc.kernels import native
from bettyc.runtime import compiled, passes
from bettyc.runtime.run import Run

TOLERANCE = 1e-9
LEVELS = (0, 1, 2)
# One more imports Python that is not there, and `losses` has no level.
GOOD = [
    path
    for path in sorted((Path(__file__).parents[1] / "programs" / "good").glob("*.mlo"))
    if path.stem not in ("externs", "losses")
]
EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.mlo"))

PROGRAM = """
mlo 0.1
dim n, m, d, C = 3
data train : {{ x: real[n, d], y: int<C>[n] }} from memory()
data val   : {{ x: real[m, d], y: int<C>[m] }} from memory()
def nll(W, b, s) = xent(s.x @ W + b, s.y)
level fit {{
  var W : real[d, C] = gaussian(std = 0.1)
  var b : real[C] = zeros
  {draw}
  let losses = nll(W, b, {rows})
  minimize mean(losses) + sum(tune.l2 * W^2) + 0.01 * sumsq(b) {extra}
  {settings}
}}
level tune {{
  var l2 : real[d, C] in {domain} = fill(0.05)
  var shift : real = 0.1
  minimize mean(nll(fit*.W, fit*.b + shift, val)) + 0.01 * sumsq(l2) + shift^2
  optimizer = sgd(lr = 0.1, momentum = 0.9)
}}
run {{ steps = 3  precision = fp64 }}
"""

DAMPED = "hypergrad = cg(iters = 4, damping = 0.1)"
PLAIN = f"optimizer = sgd(lr = 0.1)  steps = 6  {DAMPED}"
STRATEGIES = [
    "cg(iters = 4)", "cg(tol = 1e-10)", "neumann(terms = 5, lr = 0.1)", "finite_diff",
    "minres(tol = 1e-10)", "gmres(tol = 1e-10)", "unroll", "forward", "one_step", "none",
    "fixed_point(iters = 5)", "nystrom(rank = 6)", "sama", "single_loop", "auto",
]  # fmt: skip
OPTIMIZERS = [
    "sgd(lr = 0.1)", "sgd(lr = 0.1, momentum = 0.9, nesterov = true, weight_decay = 0.01)",
    "adam(lr = 0.05)", "adamw(lr = 0.05)", "rmsprop(lr = 0.01)", "adagrad(lr = 0.1)",
    "sign_sgd(lr = 0.01)",
]  # fmt: skip


def data() -> dict[str, dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(1)

    def rows(count: int) -> dict[str, torch.Tensor]:
        x = torch.randn(count, 4, generator=g, dtype=torch.float64)
        return {"x": x, "y": torch.randint(0, 3, (count,), generator=g)}

    return {"train": rows(30), "val": rows(20)}


def text(settings: str, **changes: str) -> str:
    given = {"draw": "", "rows": "train", "domain": "positive", "extra": "", **changes}
    return PROGRAM.format(settings=settings, **given)


@pytest.fixture(autouse=True)
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """At -O2 whatever can be compiled is, also where so few steps do not repay it."""
    monkeypatch.setattr(passes, "REPAID", 1)
    monkeypatch.setattr(compiled, "REPAID", 0)


def begun(program: str, given: dict[str, dict[str, torch.Tensor]] | None = None) -> list[Run]:
    checked = bettyc.loads(program)
    checked.check().raise_if_errors()
    return [checked.compile(data=given or data(), opt=opt).start(seed=0) for opt in LEVELS]


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / (1e-12 + a.abs().max()))


def agree(runs: list[Run], tolerance: float = TOLERANCE) -> None:
    """Losses of every update, all variables at the end, and the next hypergradient."""
    reference, *others = runs
    expected = [dict(out.loss) for out in reference]
    top = reference.plan.order[-1]
    expected_grad = reference.hypergrad(top).flat
    for other in others:
        for want, out in zip(expected, other, strict=True):
            assert out.loss == pytest.approx(want, rel=tolerance)
        for name, theta in reference.state.theta.items():
            assert distance(theta, other.state.theta[name]) <= tolerance
        assert distance(expected_grad, other.hypergrad(top).flat) <= 10 * tolerance


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy(strategy: str) -> None:
    settings = f"optimizer = sgd(lr = 0.1)  steps = 6  hypergrad = {strategy}"
    # A quotient of differences multiplies rounding by 1 / eps.
    agree(begun(text(settings)), 1e-7 if strategy in ("finite_diff", "sama") else TOLERANCE)


def test_exact() -> None:
    """Needs a quadratic level."""
    program = text("optimizer = sgd(lr = 0.1)  steps = 6  hypergrad = exact")
    agree(begun(program.replace("= xent(s.x @ W + b, s.y)", "= (s.x @ W + b)^2")))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("start", ["warm", "reset"])
def test_every_optimizer(optimizer: str, start: str) -> None:
    settings = f"optimizer = {optimizer}  steps = 6  start = {start}  {DAMPED}"
    agree(begun(text(settings)))


@pytest.mark.parametrize("domain", ["real", "positive", "unit", "interval(0, 2)", "ball(2, 1.0)"])
def test_every_domain(domain: str) -> None:
    settings = PLAIN
    program = text(settings, domain=domain).replace(" in real ", " ")
    agree(begun(program))


def test_batches() -> None:
    settings = f"optimizer = adam(lr = 0.05)  steps = 6  {DAMPED}"
    agree(begun(text(settings, draw="draw s from train(batch = 7, shuffle = true)", rows="s")))


def test_detach() -> None:
    settings = PLAIN
    agree(begun(text(settings, extra="+ mean(detach(losses) * losses)")))


def test_frozen_variables() -> None:
    settings = f'{PLAIN}  freeze = ["b"]'
    agree(begun(text(settings)))


@pytest.mark.parametrize("settings", ["clip = 0.1", "accumulate = 2", "stop = 1e-3"])
def test_settings_that_a_row_of_updates_cannot_have(settings: str) -> None:
    stop = settings.replace("stop = 1e-3", "stop = grad_norm < 1e-3")
    agree(begun(text(f"{PLAIN}  {stop}")))


def test_a_learning_rate_schedule() -> None:
    settings = f"optimizer = sgd(lr = 0.1, momentum = 0.5)  steps = 6  {DAMPED}"
    agree(begun(text(f"{settings}  lr_schedule = cosine()")))


def test_more_updates_than_run_in_a_row() -> None:
    runs = begun(text("optimizer = sgd(lr = 0.1)  steps = 230  hypergrad = cg(iters = 4)"))
    agree(runs)
    assert runs[0].state.updates == runs[1].state.updates == runs[2].state.updates
    assert runs[0].state.gradients == runs[1].state.gradients == runs[2].state.gradients


def test_steps_that_are_compiled() -> None:
    """One vector below, so that all steps are passes over panels: code of its own at -O2 alone."""
    if native.library() is None:
        pytest.skip(native.reason())
    program = text("optimizer = sgd(lr = 0.1)  steps = 120  start = reset  hypergrad = cg")
    program = program.replace("var W : real[d, C] = gaussian(std = 0.1)", "var w : real[d] = zeros")
    program = program.replace("  var b : real[C] = zeros\n", "").replace(
        "fit*.W, fit*.b + shift", "fit*.w + shift"
    )
    program = program.replace(
        "nll(W, b, s) = xent(s.x @ W + b, s.y)", "nll(w, s) = bce(s.x @ w, s.y)"
    )
    program = program.replace("nll(W, b, train)", "nll(w, train)").replace("l2 * W^2", "l2 * w^2")
    program = program.replace(" + 0.01 * sumsq(b)", "").replace("real[d, C]", "real[d]")
    program = program.replace("C = 3", "C = 2")
    given = {k: {"x": v["x"], "y": v["y"] % 2} for k, v in data().items()}
    runs = begun(program, given)
    agree(runs)
    fixed = []
    for run in runs[1:]:
        form = run.stages["fit"].objective.closed
        assert form is not None
        slope = form.slope(run.state.theta, run.stages["fit"].feed.current())
        assert isinstance(slope, passes.Slope)
        fixed.append(slope._pass._fixed is not None)
    assert fixed == [False, True]


NETWORK = """
mlo 0.1
dim n, m, d, C = 3
data train : { x: real[n, d], y: int<C>[n] } from memory()
data val   : { x: real[m, d], y: int<C>[m] } from memory()
level fit {
  module net = mlp([d, 7, C])
  draw s from train(batch = 9)
  let losses = xent(net(s.x), s.y)
  minimize mean(weigh.v(detach(losses)[:, new])[:, 0] * losses) + 0.01 * sumsq(params(net))
  optimizer = sgd(lr = 0.1)  hypergrad = %s
}
level weigh {
  module v = mlp([1, 5, 1], out = sigmoid)
  minimize mean(xent(fit*.net(val.x), val.y))
  optimizer = adam(lr = 0.01)
}
run { steps = 4  precision = fp64 }
"""


@pytest.mark.parametrize("strategy", ["finite_diff", "cg(iters = 4, damping = 1)", "neumann"])
def test_networks_that_are_compiled(strategy: str) -> None:
    """A network and its weight net: all that they run is C at -O2, and prints as C."""
    if not compiled.blas.gemm(torch.float64) or native.library() is None:
        pytest.skip("no compiler, or no BLAS for it")
    runs = begun(NETWORK % strategy)
    agree(runs, 1e-7 if strategy == "finite_diff" else TOLERANCE)
    form = runs[2].stages["fit"].objective.closed
    assert form is not None
    made = [*form._gradients.values(), *(f for fs in form._products.values() for f in fs)]
    made += [f for fs in form._nearby.values() for f in fs]
    assert len(made) >= 2
    assert all(isinstance(f, compiled.Native) for f in made)
    assert all("GEMM *gemm" in text for text in form.texts.values())


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_every_program_of_the_library(path: Path) -> None:
    """On made-up data."""
    program = bettyc.load(path, mock={}, set={"run.steps": 2, "run.precision": "fp64"})
    agree([program.compile(opt=opt).start(seed=0) for opt in LEVELS])


# Solved to a tolerance, in coordinates in which the corners of the simplex are flat: roundings
# decide where a solve ends, and losses agree no better than this.
LOOSE = {"portfolio": 5e-3}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples(path: Path) -> None:
    if any(f'"{name}:' in path.read_text() for name in ("cartpole", "pendulum")):
        pytest.importorskip("gymnasium")
    program = bettyc.load(path, profile="smoke", set={"run.precision": "fp64"})
    program.check().raise_if_errors()
    runs = [program.compile(opt=opt).start(seed=0) for opt in LEVELS]
    if path.stem in LOOSE:
        losses = [[dict(out.loss) for out in run] for run in runs]
        for found in losses[1:]:
            for ours, expected in zip(found, losses[0], strict=True):
                assert ours == pytest.approx(expected, rel=LOOSE[path.stem])
        return
    agree(runs, 1e-6)
