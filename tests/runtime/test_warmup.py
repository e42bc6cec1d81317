"""A warm-up goes before the first round, and is no part of what strategies go through."""

from __future__ import annotations

import pytest
import torch

import bettyc

# fit follows a with the rate 1 - (1 - lr c)^2 in two steps
TEXT = """
mlo 0.1
level fit {
  var w : real = 3
  minimize 0.5 * 1.5 * (w - tune.a)^2
  optimizer = sgd(lr = 0.2)
  warmup    = 5
  steps     = 2
  hypergrad = STRATEGY  # mlo: allow(MLO0609)
}
level tune {
  var a : real = 0.5
  minimize 0.5 * (fit*.w - 1)^2
  optimizer = sgd(lr = 0.1)
}
run { steps = 3  precision = fp64 }
"""
LEFT = 1 - 0.2 * 1.5  # of the distance, by one step


def expected() -> tuple[list[float], list[float]]:
    """The hypergradients by hand, and w where each is taken."""
    w, a, slopes, seen = 3.0, 0.5, [], []
    for steps in (5 + 2, 2, 2):
        w = a + (w - a) * LEFT**steps
        slopes.append((w - 1) * (1 - LEFT**2))
        seen.append(w)
        a -= 0.1 * slopes[-1]
    return slopes, seen


@pytest.mark.parametrize("strategy", ["unroll", "unroll(recompute = true)", "forward"])
@pytest.mark.parametrize("opt", [0, 1, 2])
def test_the_first_hypergradient_goes_through_the_steps_of_one_round(
    strategy: str, opt: int
) -> None:
    run = bettyc.loads(TEXT.replace("STRATEGY", strategy)).compile(opt=opt).start()
    slopes, seen = expected()
    before = 0.5
    for slope, w in zip(slopes, seen, strict=True):
        run.step()

        assert float(run["fit"].w) == pytest.approx(w, rel=1e-12)
        assert (before - float(run["tune"].a)) / 0.1 == pytest.approx(slope, rel=1e-10)
        before = float(run["tune"].a)


def test_a_hypergradient_before_the_first_update_has_warmed_up() -> None:
    run = bettyc.loads(TEXT.replace("STRATEGY", "unroll")).compile().start()
    first = run.hypergrad("tune")
    slopes, _ = expected()

    assert float(first["a"]) == pytest.approx(slopes[0], rel=1e-10)
    assert float(run["fit"].w) == 3.0
    run.step()
    assert float(run.hypergrad("tune")["a"]) == pytest.approx(slopes[1], rel=1e-10)


def test_a_layer_goes_through_the_steps_of_one_round() -> None:
    layer = bettyc.loads(TEXT.replace("STRATEGY", "unroll")).compile().layer("fit", warm=True)
    a = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    out = layer(a=a)
    (slope,) = torch.autograd.grad(out.w, a)

    assert float(out.w.detach()) == pytest.approx(expected()[1][0], rel=1e-12)
    assert float(slope) == pytest.approx(1 - LEFT**2, rel=1e-10)


def test_the_warm_up_of_a_level_above_is_none_of_a_layers_steps() -> None:
    """Six updates of fit go before: two for each of the three by which tune warms up."""
    text = TEXT.replace("STRATEGY", "unroll").replace("warmup    = 5", "warmup    = 0")
    text = text.replace("sgd(lr = 0.1)\n}", "sgd(lr = 0.1)\n  warmup = 3\n}").replace(
        "(fit*.w - 1)^2", "(fit*.w - top.b)^2"
    )
    text += "level top { var b : real = 1  minimize (tune*.a - 2)^2  optimizer = sgd(lr = 0.1) }"
    layer = bettyc.loads(text).compile().layer("fit", warm=True)
    a = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    out = layer(a=a)
    (slope,) = torch.autograd.grad(out.w, a)

    assert float(out.w.detach()) == pytest.approx(0.5 + 2.5 * LEFT ** (6 + 2), rel=1e-12)
    assert float(slope) == pytest.approx(1 - LEFT**2, rel=1e-10)
