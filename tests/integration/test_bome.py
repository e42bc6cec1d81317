"""`penalty(rule = bome)`, from text to numbers: the level moves along the direction that
comes with the one above, and not otherwise.
"""

from __future__ import annotations

import pytest
import torch

import bettyc

TEXT = """
level fit {
  var w : real[2] = [0.3, -0.4]
  minimize 0.5 * (w[0] - tune.t[0])^2 + 0.2 * (w[1] - tune.t[1])^2
  optimizer = sgd(lr = 0.1)
  hypergrad = penalty(rule = bome, steps = 3, lr = 0.5)
}
level tune {
  var t : real[2] = [1, 2]
  minimize 0.5 * (fit*.w[0] - 0.5)^2 + 0.5 * (fit*.w[1] + 1)^2 + 0.05 * sumsq(t)
  optimizer = sgd(lr = 0.1)
}
run { steps = 30  precision = fp64 }
"""
H = torch.tensor([1.0, 0.4], dtype=torch.float64)
WANTED = torch.tensor([0.5, -1.0], dtype=torch.float64)


def test_a_run_is_the_loop_of_the_paper() -> None:
    w = torch.tensor([0.3, -0.4], dtype=torch.float64)
    t = torch.tensor([1.0, 2.0], dtype=torch.float64)
    run = bettyc.loads(TEXT).compile().start(seed=0)
    run.to_end()

    for _ in range(30):
        y = w
        for _ in range(3):
            y = y - 0.5 * H * (y - t)
        f = torch.cat([w - WANTED, 0.1 * t])
        q = torch.cat([H * (w - t), -H * (w - t) + H * (y - t)])
        m = max(0.5 - float(f @ q) / float(q @ q), 0.0)
        w, t = w - 0.1 * (f + m * q)[:2], t - 0.1 * (f + m * q)[2:]

    torch.testing.assert_close(run["fit"].w, w, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(run["tune"].t, t, rtol=1e-10, atol=1e-12)
    assert run.state.updates == {"fit": 30, "tune": 30}


@pytest.mark.parametrize(
    "setting",
    ["steps = 2", "start = reset", "stop = grad_norm < 1e-3", "warmup = 3", "optimizer = lbfgs"],
)
def test_steps_of_its_own_are_refused(setting: str) -> None:
    text = TEXT
    if setting.startswith("optimizer"):
        text = text.replace("optimizer = sgd(lr = 0.1)", "", 1)
    text = text.replace("  hypergrad", f"  {setting}\n  hypergrad")
    found = bettyc.loads(text).check().errors

    assert [d.code for d in found] == ["MLO0603"]
    assert f"fit.{setting.partition(' ')[0]}" in found[0].message
