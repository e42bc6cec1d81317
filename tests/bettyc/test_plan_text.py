"""What `bettyc plan` prints: the schedule of the design, and the reason for every choice."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bettyc.driver import check
from bettyc.link import link
from bettyc.options import Options
from bettyc.plan import Plan
from bettyc.planner import make_plan
from bettyc.planner.text import call, text

NINE = Path(__file__).parents[1] / "programs" / "nine"
TWO = """
mlo 0.1
dim n = 20, d = 3
data train : { x: real[n, d], y: real[n] } from npz("train.npz")
level fit {
  var w : real[d] = zeros
  minimize mean((train.x @ w - train.y)^2) + sum(exp(tune.a) * w^2)
  FIT
}
level tune {
  var a : real[d] = zeros
  minimize sumsq(fit*.w - 1)
  optimizer = adam(lr = 0.1)
}
run { steps = 200 }
"""


def plan_of(program: str, mock: tuple[tuple[str, int], ...] | None = None) -> Plan:
    checked = check(program, "p.mlo", Options(mock=mock))
    plan, found = make_plan(link(checked, complete=False, needed=[]))
    assert plan is not None, [d.message for d in (*checked.diagnostics, *found)]
    return plan


def section(shown: str, title: str) -> list[str]:
    """The lines of one section, without its title."""
    part = next(p for p in shown.split("\n\n") if p.startswith(title))
    return part.splitlines()[1:]


def test_the_schedule_is_that_of_the_design() -> None:
    plan = plan_of(
        TWO.replace("FIT", "optimizer = sgd(lr = 0.1)  steps = 100  hypergrad = cg(tol = 1e-4)")
    )

    assert section(text(plan), "schedule") == [
        "  repeat 200                      # run.steps",
        "    repeat 100: step fit          # sgd(lr = 0.1)",
        "    adjoint fit -> tune           # cg(tol = 0.0001)",
        "    step tune                     # adam(lr = 0.1)",
    ]


def test_remarks_name_what_changes_an_update() -> None:
    fit = """optimizer = sgd(lr = 0.1, momentum = 0.9)  steps = 5  start = reset  hypergrad = unroll
             clip = 2.0  lr_schedule = cosine(min = 0.01)"""
    lines = section(text(plan_of(TWO.replace("FIT", fit))), "schedule")

    assert "    start fit                     # at its initial value" in lines
    step = next(line for line in lines if "step fit" in line)
    assert "sgd(lr = 0.1, momentum = 0.9), lr cosine(min = 0.01), |grad| clipped to 2" in step


def test_a_solved_level_says_until_when() -> None:
    fit = "optimizer = lbfgs(tol = 1e-5)"
    lines = section(text(plan_of(TWO.replace("FIT", fit))), "schedule")

    assert "    solve fit                     # lbfgs(tol = 1e-05), warm start" in lines


def test_why_gives_the_reasons_for_and_against_with_places() -> None:
    plan = plan_of(TWO.replace("FIT", ""))
    short, long = (section(text(plan, why), "hypergradients") for why in (False, True))

    assert short[0] == "  tune: through fit -> tune"
    assert [line.split()[0] for line in short[2:]] == ["why", "product"]
    kept = {line.split()[1].rstrip(":") for line in long if line.startswith("      not ")}
    candidates = {c.name for c in plan.level("fit").strategy_candidates if not c.taken}
    assert kept == candidates
    assert sum(line.startswith("      why ") for line in long) == 1
    assert all(re.search(r"\(\d+:\d+\)$", line) for line in long if " why " in line)
    assert "optimizers" in text(plan, True)
    assert "optimizers" not in text(plan)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("", "sama|no second derivative is taken"),
        ("steps = 3  start = reset", "unroll|get differences of gradients"),
        ("hypergrad = minres", "minres|get differences of gradients"),
        ("hypergrad = forward", "forward|ends the run"),
        ("hypergrad = finite_diff", "finite_diff|no second derivative is taken"),
    ],
)
def test_what_becomes_of_operators_without_a_second_derivative_is_said(
    settings: str, said: str
) -> None:
    """Whether a network from Python has any is not known before it runs."""
    program = (NINE / "d_darts.mlo").read_text()
    program = program.replace("  steps       = 1\n  hypergrad   = auto", f"  {settings}")
    strategy, reason = said.split("|")
    lines = section(text(plan_of(program), why=True), "hypergradients")

    assert any(line.strip().startswith(f"weights   {strategy}") for line in lines)
    assert any("no formula for" in line and reason in line for line in lines)


def test_what_is_not_known_is_said() -> None:
    shown = text(plan_of((NINE / "a_logreg_hpo.mlo").read_text()))

    assert "dims       n = ?, d = ?" in shown
    assert "cost       not known per update of the top, not known at the peak" in shown
    assert "--mock binds the dims" in shown


def test_sizes_appear_with_mock() -> None:
    program = (NINE / "a_logreg_hpo.mlo").read_text()
    shown = text(plan_of(program, (("n", 64), ("d", 10))))

    assert "dims       n = 64, d = 10" in shown
    assert "log_wd : real[10]   10 scalars" in shown
    assert re.search(r"cost       [\d.]+ [kMG]?flop per update of the top, [\d.]+ [kM]?B", shown)


def test_what_direct_curvature_drops_is_said() -> None:
    program = (NINE / "f2_hpo_of_hpo.mlo").read_text()
    direct = program.replace("  steps     = 20", "  steps     = 20\n  curvature = direct")
    shown = text(plan_of(direct, (("n", 64), ("d", 10))))

    (line,) = [line for line in section(shown, "hypergradients") if line.startswith("      drops")]
    assert "`fit`" in line
    assert "`reg`" in line
    assert "warnings   none" not in shown


def test_what_cannot_be_recorded_on_a_gpu_is_a_warning_of_the_plan() -> None:
    program = TWO.replace("FIT", "optimizer = lbfgs(tol = 1e-6)")
    asked = program.replace("run {", "run { cuda_graphs = on ")
    warned = "`steps of fit` runs without a CUDA graph: `lbfgs` looks at numbers"

    assert warned in " ".join(plan_of(asked).warnings)
    assert warned in text(plan_of(asked))
    assert plan_of(program).warnings == ()
    assert plan_of(asked.replace("run {", "run { device = cpu ")).warnings == ()


def test_levels_that_nothing_orders_are_named() -> None:
    game = plan_of("""
        level one { var x : real = 1  minimize x^2 + x * detach(two.y)  optimizer = sgd(lr = 0.1) }
        level two { var y : real = 1  minimize y^2 - y * detach(one.x)  optimizer = sgd(lr = 0.1) }
    """)

    assert "free in the graph, fixed by name: one and two" in text(game)


def test_defaults_are_left_out_but_the_learning_rate_is_not() -> None:
    plan = plan_of(TWO.replace("FIT", "optimizer = sgd(lr = 0.001)  steps = 2"))

    assert call(plan.level("fit").optimizer) == "sgd(lr = 0.001)"


@pytest.mark.parametrize("name", sorted(p.stem for p in NINE.glob("*.mlo")))
def test_every_plan_of_the_nine_prints(name: str) -> None:
    plan = plan_of((NINE / f"{name}.mlo").read_text())
    shown = text(plan, True)

    for level in plan.order:
        assert f"step {level}" in shown or f"solve {level}" in shown
    assert all(line == line.rstrip() for line in shown.splitlines())


def test_plans_are_the_same_bytes_under_every_hash_seed() -> None:
    file = str(NINE / "f_learning_by_ignoring.mlo")
    command = "from bettyc.cli.main import run; [run([*a, '-q', FILE]) for a in ARGS]"
    arguments = [
        ["plan", "--format", "json"],
        ["plan", "--why"],
        ["graph"],
        ["graph", "--format", "svg"],
    ]
    program = f"FILE = {file!r}; ARGS = {arguments!r}; {command}"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
        ).stdout
        for seed in range(5)
    }  # fmt: skip

    assert len(outputs) == 1
    assert len(next(iter(outputs))) > 5000


def test_a_square_beside_what_is_not_convex_promises_no_convexity() -> None:
    """The second derivative of -5 cos(cos(w)) + w^2 / 10 is -4.0 at 0, far below the 0.2."""
    plan = plan_of("""
level fit {
  var w : real = 0.1
  minimize -5 * cos(cos(w)) + 0.1 * (w - tune.a)^2
  optimizer = sgd(lr = 0.01)
  hypergrad = cg
}
level tune {
  var a : real = 0
  minimize (fit*.w - 1)^2
  optimizer = adam(lr = 0.1)
}
""")

    assert plan.level("fit").mu is None
    assert "strongly convex" not in text(plan)
