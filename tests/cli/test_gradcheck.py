"""`bettyc gradcheck`: three references, as a table and as JSON, and what its exit code says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bettyc.runtime.closed_products import ClosedProducts

Bettyc = Callable[..., Any]

REFERENCES = ["unroll", "differences", "O0"]
NETWORK = """\
data train : { x: real[40, 3], y: real[40] } from npz("a.npz")
data val   : { x: real[20, 3], y: real[20] } from npz("b.npz")

def error(net, part) = mean((net(part.x)[:, 0] - part.y)^2)

level fit {
  module net = mlp([3, 256, 1])
  minimize error(net, train) * exp(tune.a)
  optimizer = sgd(lr = 0.05)
  steps     = 4
  hypergrad = unroll
}

level tune {
  var a : real = 0
  minimize error(fit*.net, val)
  optimizer = sgd(lr = 0.1)
}
"""
THREE = """\
dim n, d
data all : { x: real[n, d], y: real[n] } from npz("missing.npz")
split all into train = 0.4, val = 0.3, meta = 0.3 with (seed = 0)

level fit {
  var w : real[d] = zeros
  minimize 0.5 * mean((train.x @ w - train.y)^2) + 0.5 * sum(exp(reg.a) * w^2)
}

level reg {
  var a : real[d] = fill(-1)
  minimize mean((val.x @ fit*.w - val.y)^2) + sumsq(a - prior.m)
  optimizer = sgd(lr = 0.3)
  stop = grad_norm < 1e-11
}

level prior {
  var m : real = 0.2
  minimize mean((meta.x @ fit*.w)^2) + sumsq(reg*.a)
  optimizer = sgd(lr = 0.1)
}
"""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def rows(result: Any) -> list[dict[str, Any]]:
    return json.loads(result.out)  # type: ignore[no-any-return]


def test_the_three_references_agree_with_a_right_plan(bettyc: Bettyc, data: Path) -> None:
    result = bettyc("gradcheck", "--format", "json", "good.mlo")

    assert result.code == 0
    assert [row["reference"] for row in rows(result)] == REFERENCES
    for row in rows(result):
        assert (row["root"], row["variable"], row["coordinates"]) == ("tune", "log_wd", 3)
        assert row["relative_error"] < 1e-6
        assert row["cosine"] == pytest.approx(1, abs=1e-9)
        assert row["norm_ratio"] == pytest.approx(1, abs=1e-6)
        assert row["passed"]
    assert rows(result)[2]["relative_error"] < 1e-12  # the same strategy, to rounding


def test_the_table_has_a_row_per_variable_and_reference(bettyc: Bettyc, data: Path) -> None:
    result = bettyc("gradcheck", "good.mlo")
    table = [line.split() for line in result.out.splitlines()]

    assert table[0] == ["variable", "against", "relative", "error", "absolute", "cosine", "ratio"]
    assert [line[:2] for line in table[1:]] == [["tune.log_wd", name] for name in REFERENCES]
    assert all(line[-1] == "ok" for line in table[1:])


ZERO = """\
level fit {
  var w : real[2] = zeros
  minimize sumsq(w - [0.3, 0.7]) + exp(tune.t) * sumsq(w)
}

level tune {
  var t : real = 0
  minimize FACTOR * ((fit*.w[0] - 0.85)^2 + (fit*.w[1] - AIM)^2)
  optimizer = sgd(lr = 1)
}
"""


def nested(aim: float, factor: float = 1.0) -> str:
    """At t = 0 the response is c / 2 and moves by -c / 4, with c = (0.3, 0.7): the derivative of
    tune is 0.35 factor (aim - 0.05), and where that is zero its two terms round.
    """
    return ZERO.replace("AIM", repr(aim)).replace("FACTOR", format(factor, ".0e"))


def test_a_gradient_that_is_zero_is_measured_by_the_floor(bettyc: Bettyc, data: Path) -> None:
    (data / "zero.mlo").write_text(nested(0.05))
    result = bettyc("gradcheck", "--format", "json", "zero.mlo")
    table = bettyc("gradcheck", "zero.mlo").out

    assert result.code == 0
    for row in rows(result):
        assert row["relative_error"] == row["absolute_error"] / 1e-7 < 1e-3
    assert "Infinity" not in result.out
    assert "NaN" not in result.out
    assert table.count("ok, of the floor 1e-07") == 3
    assert bettyc("gradcheck", "--floor", "1e-30", "zero.mlo").code == 1  # rounding


@pytest.mark.parametrize("factor", [1.0, 1e-6, 1e-8])
def test_a_wrong_gradient_of_any_size_is_found(bettyc: Bettyc, data: Path, factor: float) -> None:
    (data / "small.mlo").write_text(nested(1.05, factor))
    right = bettyc("gradcheck", "--format", "json", "small.mlo")
    crude = "fit.hypergrad=neumann(terms = 1, lr = 0.1)"
    wrong = bettyc("gradcheck", "--format", "json", "small.mlo", "--set", crude)

    assert right.code == 0
    assert wrong.code == 1
    assert [row["passed"] for row in rows(wrong)] == [False, False, True]
    assert rows(wrong)[0]["scale"] == pytest.approx(max(0.35 * factor, 1e-7), rel=1e-6)


def test_every_level_is_checked_on_made_up_data(bettyc: Bettyc, data: Path) -> None:
    (data / "three.mlo").write_text(THREE)
    found = rows(bettyc("gradcheck", "--mock", "auto", "--format", "json", "three.mlo"))

    assert [(r["root"], r["variable"]) for r in found] == [("prior", "m")] * 3 + [("reg", "a")] * 3
    assert all(row["passed"] for row in found)
    only = rows(
        bettyc("gradcheck", "--mock", "n=30,d=3", "--format", "json", "--level", "reg", "three.mlo")
    )
    assert {row["root"] for row in only} == {"reg"}


def test_an_approximation_fails_the_solution_but_not_its_own_derivatives(
    bettyc: Bettyc, data: Path
) -> None:
    crude = ("--set", "fit.hypergrad=neumann(terms = 1, lr = 0.1)")
    result = bettyc("gradcheck", "--format", "json", "good.mlo", *crude)

    assert result.code == 1
    assert [row["passed"] for row in rows(result)] == [False, False, True]
    worst = max(row["relative_error"] for row in rows(result))
    assert bettyc("gradcheck", "good.mlo", *crude, "--rtol", str(1.01 * worst)).code == 0
    assert bettyc("gradcheck", "good.mlo", *crude, "--rtol", str(0.99 * worst)).code == 1
    assert bettyc("gradcheck", "good.mlo", *crude, "--against", "O0").code == 0


def test_o0_finds_a_wrong_derivative_of_the_compiler(
    bettyc: Bettyc, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = ClosedProducts.cross
    monkeypatch.setattr(
        ClosedProducts, "cross", lambda self, u: {n: 1.1 * x for n, x in right(self, u).items()}
    )
    result = bettyc("gradcheck", "--format", "json", "--against", "O0", "good.mlo")

    assert result.code == 1
    assert rows(result)[0]["relative_error"] == pytest.approx(0.1, rel=1e-6)
    assert rows(result)[0]["norm_ratio"] == pytest.approx(1.1, rel=1e-6)


def test_o0_sees_the_batch_of_the_planned_hypergradient(bettyc: Bettyc, data: Path) -> None:
    text = (data / "good.mlo").read_text()
    text = text.replace("level fit {\n", "level fit {\n  draw s from train(batch = 4)\n")
    text = text.replace("error(w, train)", "error(w, s)").replace(
        "tune.log_wd) * w^2)\n",
        "tune.log_wd) * w^2)\n  optimizer = sgd(lr = 0.1)\n  hypergrad = cg(tol = 1e-12)\n",
    )
    (data / "batches.mlo").write_text(text)
    result = bettyc("gradcheck", "--against", "O0", "--after", "2", "--rtol", "1e-9", "batches.mlo")

    assert result.code == 0


def test_a_network_that_is_not_solved_is_checked_against_o0(bettyc: Bettyc, data: Path) -> None:
    (data / "net.mlo").write_text(NETWORK)
    result = bettyc("gradcheck", "--mock", "auto", "--format", "json", "net.mlo")

    assert result.code == 0
    o0, *gone = rows(result)
    assert (o0["reference"], o0["passed"]) == ("O0", True)
    assert o0["norm_ratio"] == pytest.approx(1, abs=1e-9)
    assert [(row["reference"], row["passed"]) for row in gone] == [
        ("unroll", None),
        ("differences", None),
    ]
    assert "warning: `tune` has no reference `unroll`: level `fit` is not convex" in result.err


def test_without_any_reference_the_check_fails(bettyc: Bettyc, data: Path) -> None:
    (data / "net.mlo").write_text(NETWORK)
    result = bettyc("gradcheck", "--mock", "auto", "--against", "differences", "net.mlo")

    assert result.code == 3
    assert "error: `tune` has no reference `differences`" in result.err


def test_unknown_names_are_usage_errors(bettyc: Bettyc, data: Path) -> None:
    level = bettyc("gradcheck", "good.mlo", "--level", "fit")
    reference = bettyc("gradcheck", "good.mlo", "--against", "hope")

    assert (level.code, reference.code) == (2, 2)
    assert "levels that have: tune" in level.err
    assert "unroll, differences, O0" in reference.err
