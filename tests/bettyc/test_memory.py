"""What unrolling keeps, counted by hand."""

from __future__ import annotations

import pytest
from reading import read

from bettyc.planner import make_plan, memory

PROGRAM = """
dim p = 10
level fit {{
  var W : real[p, p] = zeros
  minimize sumsq(W - tune.target)
  optimizer = {optimizer}
  steps     = 100
  start     = reset
  hypergrad = {strategy}
}}
level tune {{
  var target : real = 0
  minimize mean((fit*.W - 1)^2)
  optimizer = sgd(lr = 0.1)
}}
"""
SGD, ADAM = "sgd(lr = 0.1)", "adam(lr = 0.1)"


@pytest.mark.parametrize(
    ("optimizer", "strategy", "needed"),
    [
        # 400 bytes of variables a step; autograd saves the difference (400) and the sum (4)
        (SGD, "unroll", 100 * (400 + 404)),
        (SGD, "unroll(truncate = 5)", 5 * (400 + 404)),
        (SGD, "unroll(recompute = true)", 100 * 400),
        ("sgd(lr = 0.1, momentum = 0.9)", "unroll(recompute = true)", 100 * 800),
        (ADAM, "unroll(recompute = true)", 100 * 1200),
    ],
)
def test_memory_of_unrolling(monkeypatch, optimizer, strategy, needed):
    plan, _ = make_plan(read(PROGRAM.format(optimizer=optimizer, strategy=strategy)))
    assert plan is not None

    def found(available):
        monkeypatch.setattr(memory, "device_memory", lambda device: available)
        return [d.code for d in memory.check(plan)]

    assert found(needed) == []
    assert found(needed - 1) == ["MLO0613"]


def test_implicit_strategies_keep_nothing(monkeypatch):
    plan, _ = make_plan(read(PROGRAM.format(optimizer=SGD, strategy="cg")))
    monkeypatch.setattr(memory, "device_memory", lambda device: 1)

    assert memory.check(plan) == []


@pytest.mark.parametrize(
    ("size", "text"), [(999, "999 B"), (1000, "1 kB"), (25_300_000_000, "25.3 GB"),
                       (8 * 10**14, "800 TB")]
)  # fmt: skip
def test_sizes_as_people_read_them(size, text):
    assert memory.shown(size) == text
