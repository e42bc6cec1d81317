"""What `auto` chooses and what is refused, by facts of the program."""

from __future__ import annotations

import pytest

import bettyc

TEXT = """
dim n, d
data all : { x: real[n, d], y: int<2>[n] } from memory()
split all into train = 0.5, val = 0.5 with (seed = 0)
level fit {
  var w : real[d] = zeros
  DRAW
  minimize mean(bce(ROWS.x @ w, ROWS.y)) + EXTRA
  SETTINGS
}
level tune {
  var log_wd : real = -2
  minimize mean(bce(val.x @ fit*.w, val.y))
  optimizer = adam(lr = 0.05)
}
"""
WEIGHTED = "exp(tune.log_wd) * sumsq(w)"


def program(settings: str, extra: str = WEIGHTED, batch: bool = False) -> bettyc.Program:
    draw, rows = ("draw b from train(batch = 8)", "b") if batch else ("", "train")
    text = TEXT.replace("DRAW", draw).replace("ROWS", rows).replace("EXTRA", extra)
    return bettyc.loads(text.replace("SETTINGS", settings))


@pytest.mark.parametrize(
    ("settings", "extra", "batch", "name", "options"),
    [
        ("", WEIGHTED, False, "cg", {"iters": 0, "tol": 1e-6}),
        ("optimizer = sgd(lr = 0.1)  steps = 9", WEIGHTED, True, "cg", {"iters": 20, "tol": 1e-3}),
        ("optimizer = sgd(lr = 0.1)  steps = 9  start = reset", WEIGHTED, True, "unroll",
         {"recompute": False}),
        ("optimizer = sgd(lr = exp(tune.log_wd))  steps = 90", "sumsq(w)", False, "unroll",
         {"recompute": True}),
        ("optimizer = sgd(lr = 0.1)  steps = 9", f"{WEIGHTED} + sum(cos(w))", False,
         "finite_diff", {}),
        ("optimizer = adam(lr = 0.1)", f"{WEIGHTED} + sum(cos(w))", True, "sama", {}),
        ("optimizer = sign_sgd(lr = 0.1)", f"{WEIGHTED} + sum(cos(w))", True, "finite_diff", {}),
    ],
)  # fmt: skip
def test_auto(settings: str, extra: str, batch: bool, name: str, options: dict[str, float]) -> None:
    level = program(settings, extra, batch).plan().level("fit")
    given = dict(level.strategy.named)

    assert level.strategy.name == name
    assert {key: given[key] for key in options} == options
    assert next(c for c in level.strategy_candidates if c.taken).reason


@pytest.mark.parametrize(
    ("domain", "why"),
    [("simplex", "what is solved for is unconstrained"), ("box(0, 1)", "may be at the edge")],
)
def test_a_constraint_is_the_reason_and_not_the_class(domain: str, why: str) -> None:
    """On a simplex a quadratic is none: `quadratic, not quadratic` says nothing."""
    quadratic = "sumsq(w - exp(tune.log_wd))"
    text = TEXT.replace("real[d] = zeros", f"real[d] in {domain}").replace("DRAW", "")
    text = text.replace("mean(bce(ROWS.x @ w, ROWS.y)) + EXTRA", quadratic)
    settings = "optimizer = sgd(lr = 0.1)  stop = grad_norm < 1e-6"
    level = bettyc.loads(text.replace("SETTINGS", settings)).plan().level("fit")
    reasons = {c.name: c.reason for c in level.strategy_candidates}

    for name in ("exact", "cg"):
        assert reasons[name].startswith(f"`w` lies in `{domain[:7].split('(')[0]}`: ")
        assert why in reasons[name]
    assert (
        reasons["minres"] == "solved, and constrained: minimal residuals need no definite Hessian"
    )
    for strategy, code in (("exact", "MLO0606"), ("cg", "MLO0605")):
        given = text.replace("SETTINGS", f"{settings}  hypergrad = {strategy}")
        (found,) = bettyc.loads(given).check().errors
        assert (found.code, found.message.rsplit("; ", 1)[1]) == (code, "`fit` is constrained")
        assert why in found.notes[0].text


def test_the_first_step_of_an_optimizer_is_not_asked_for_its_derivative() -> None:
    """Adam's first step is the sign of the gradient: it hardly moves with anything."""
    text = TEXT.replace("var log_wd", "var w0 : real[d] = zeros\n  var log_wd")
    text = (
        text.replace("DRAW", "").replace("ROWS", "train").replace("EXTRA", "sum(cos(w - tune.w0))")
    )
    copied = text.replace("SETTINGS", "optimizer = adam(lr = 0.1)  start = copy(tune.w0)")
    warm = text.replace("SETTINGS", "optimizer = adam(lr = 0.1)")

    assert bettyc.loads(copied).plan().level("fit").strategy.name == "finite_diff"
    assert bettyc.loads(warm).plan().level("fit").strategy.name == "sama"


@pytest.mark.parametrize("optimizer", ["auto", "newton", "lbfgs"])
@pytest.mark.parametrize("strategy", ["unroll", "forward", "sama", "fixed_point", "zeroth_order"])
def test_replays_of_an_optimizer_that_solves_are_refused(strategy: str, optimizer: str) -> None:
    found = program(f"optimizer = {optimizer}  hypergrad = {strategy}").check().errors

    assert [d.code for d in found] == ["MLO0604"]
    assert strategy in found[0].message


def test_random_perturbations_need_no_derivative_of_the_optimizer() -> None:
    settings = "optimizer = sign_sgd(lr = 0.1)  steps = 4  start = reset  hypergrad = "

    assert not program(settings + "zeroth_order").check().errors
    assert [d.code for d in program(settings + "sama").check().errors] == ["MLO0604"]
