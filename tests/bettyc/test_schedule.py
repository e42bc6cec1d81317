"""The schedule of a run, written down by hand for small programs."""

from __future__ import annotations

import pytest

import bettyc
from bettyc.plan import Pull, Repeat, Solve, Start, Step

TWO = """
level fit {{
  var w : real = 0
  minimize (w - tune.t)^2
  optimizer = {optimizer}
  {settings}
}}
level tune {{
  var t : real = 0
  minimize (fit*.w - 1)^2
  optimizer = sgd(lr = 0.1)
}}
run {{ steps = 7 }}
"""
TUNE = Step("tune", (Pull("fit", ("tune",)),))


def program(text: str) -> tuple[object, ...]:
    return bettyc.loads(text).plan().program


@pytest.mark.parametrize(
    ("optimizer", "settings", "expected"),
    [
        ("sgd(lr = 0.1)", "", (Step("fit", ()), TUNE)),
        ("sgd(lr = 0.1)", "steps = 5", (Repeat(5, (Step("fit", ()),)), TUNE)),
        (
            "sgd(lr = 0.1)",
            "steps = 5  start = reset",
            (Start("fit"), Repeat(5, (Step("fit", ()),)), TUNE),
        ),
        ("exact", "", (Solve("fit", ()), TUNE)),
        ("sgd(lr = 0.1)", "stop = grad_norm < 1e-6", (Solve("fit", ()), TUNE)),
    ],
)
def test_two_levels(optimizer: str, settings: str, expected: tuple[object, ...]) -> None:
    found = program(TWO.format(optimizer=optimizer, settings=settings))

    assert found == (Repeat(7, expected),)


def test_a_warm_up_comes_first() -> None:
    found = program(TWO.format(optimizer="sgd(lr = 0.1)", settings="steps = 2  warmup = 9"))

    main = Repeat(7, (Repeat(2, (Step("fit", ()),)), TUNE))
    assert found == (Repeat(9, (Step("fit", ()),)), main)


DIAMOND = """
level c { var x : real = 0  minimize (x - a.u)^2 + (x - b.v)^2 }
level a { var u : real = 0  minimize (c*.x - 1)^2 + (u - top.t)^2  optimizer = sgd(lr = 0.1)  steps = 3 }
level b { var v : real = 0  minimize (c*.x + 1)^2 + (v - top.t)^2  optimizer = sgd(lr = 0.1)  steps = 3 }
level top { var t : real = 0  minimize (a*.u - 1)^2 + (b*.v - 1)^2  optimizer = sgd(lr = 0.1) }
run { steps = 2 }
"""  # noqa: E501


def test_levels_that_share_a_lower_level_move_together() -> None:
    (main,) = program(DIAMOND)

    assert isinstance(main, Repeat)
    inner, top = main.body
    assert isinstance(inner, Repeat)
    assert inner.times == 3
    assert [(type(i), i.level) for i in inner.body] == [(Solve, "c"), (Step, "a"), (Step, "b")]
    assert isinstance(top, Step)
    assert top.level == "top"


def test_independent_lower_levels_keep_their_own_pace() -> None:
    text = """
level a { var u : real = 0  minimize (u - top.t)^2  optimizer = sgd(lr = 0.1)  steps = 2 }
level b { var v : real = 0  minimize (v - top.t)^2  optimizer = sgd(lr = 0.1)  steps = 5 }
level top { var t : real = 0  minimize (a*.u - 1)^2 + (b*.v - 1)^2  optimizer = sgd(lr = 0.1) }
run { steps = 2 }
"""
    (main,) = program(text)

    assert main.body[:2] == (Repeat(2, (Step("a", ()),)), Repeat(5, (Step("b", ()),)))  # type: ignore[attr-defined]


def test_a_level_with_none_above_takes_its_steps_in_every_round() -> None:
    text = (
        TWO.format(optimizer="exact", settings="")
        + """
level probe { var v : real = 0  minimize v^2  optimizer = sgd(lr = 0.1)  SETTINGS }
"""
    )

    once = program(text.replace("SETTINGS", ""))
    often = program(text.replace("SETTINGS", "steps = 4  start = reset"))

    assert once == (Repeat(7, (Step("probe", ()), Solve("fit", ()), TUNE)),)
    probe = (Start("probe"), Repeat(4, (Step("probe", ()),)))
    assert often == (Repeat(7, (*probe, Solve("fit", ()), TUNE)),)


def test_a_nested_level_with_a_stop_repeats_what_is_below_it() -> None:
    text = (
        DIAMOND.replace("steps = 3 }\nlevel b", "stop = grad_norm < 1e-3 }\nlevel b")
        .replace(
            "level b { var v : real = 0  minimize (c*.x + 1)^2 + (v - top.t)^2",
            "level b { var v : real = 0  minimize (v - top.t)^2",
        )
        .replace("(x - b.v)^2", "x^2")
    )
    (main,) = program(text)

    nested = next(i for i in main.body if isinstance(i, Repeat) and len(i.body) > 1)  # type: ignore[attr-defined]
    assert [(type(i), i.level) for i in nested.body] == [(Solve, "c"), (Step, "a")]  # type: ignore[union-attr]
